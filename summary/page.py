"""The page of a summary: player, caption, saliency curve and storyboard in one HTML file that needs no network."""

import html
import json
import string

import numpy as np

from utils.text import clock

POINTS = 1200  # of the curve; a longer video's are the highest of their stretch

PAGE = string.Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>$title · summary</title>
<style>
:root { color-scheme: light dark; --paper: #fafaf9; --ink: #1c1917; --faint: #78716c; --line: #d6d3d1;
        --curve: #57534e; --chosen: #f59e0b; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #1c1917; --ink: #f5f5f4; --faint: #a8a29e; --line: #44403c; --curve: #d6d3d1; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(1rem, 4vw, 3rem) 3rem; max-width: 72rem; background: var(--paper);
       color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.1rem; font-weight: 600; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: .8rem; font-weight: 600; margin: 2rem 0 .5rem; color: var(--faint); text-transform: uppercase;
     letter-spacing: .06em; }
p { margin: .25rem 0; }
.caption { font-size: clamp(1.2rem, 2.6vw, 1.7rem); line-height: 1.35; margin: 0; overflow-wrap: anywhere; }
.faint { color: var(--faint); font-size: .9rem; overflow-wrap: anywhere; }
.top { display: grid; gap: 1.5rem; margin-top: 1rem; }
@media (min-width: 60rem) { .top { grid-template-columns: 3fr 2fr; align-items: center; } }
video { display: block; width: 100%; max-height: 70vh; background: #000; border-radius: .5rem; }
figure { margin: 0; position: relative; }
svg { display: block; width: 100%; height: 9rem; cursor: pointer; border-bottom: 1px solid var(--line); }
svg rect { fill: var(--chosen); opacity: .35; }
svg polyline { fill: none; stroke: var(--curve); stroke-width: 1.5; vector-effect: non-scaling-stroke; }
svg line { stroke: var(--chosen); stroke-width: 2; vector-effect: non-scaling-stroke; }
.axis { display: flex; justify-content: space-between; color: var(--faint); font-size: .8rem; }
.strip { overflow-x: auto; }
img { display: block; max-width: 100%; border-radius: .5rem; }
@media (max-width: 40rem) { .wide img { max-width: none; width: 36rem; } }
</style>
</head>
<body>
<h1>$title</h1>
<p class="faint">$kept of $duration, $percent % (budget $budget %, $method)</p>
<div class="top">
<video id="player" src="summary.mp4" controls preload="metadata" playsinline></video>
<div>$caption</div>
</div>
<h2>Saliency over time</h2>
<figure>
$curve
<p class="faint">Frame saliency from $low to $high; the chosen seconds are marked. Click one to play it.</p>
</figure>
<h2>Storyboard</h2>
<p class="faint">$storyboard</p>
<div class="strip $wide"><a href="storyboard.png">
<img src="storyboard.png" alt="The chosen frames with their times"></a></div>
<script>
const segments = $segments, span = $span;
const player = document.getElementById("player"), now = document.getElementById("now");
const curve = document.getElementById("curve");
function toSource(t) {
  for (const [a, b] of segments) { if (t <= b - a) return a + t; t -= b - a; }
  return segments[segments.length - 1][1];
}
function toSkim(t) {
  let offset = 0;
  for (const [a, b] of segments) { if (t < b) return offset + Math.max(0, t - a); offset += b - a; }
  return offset;
}
function mark() {
  const x = toSource(player.currentTime);
  now.setAttribute("x1", x);
  now.setAttribute("x2", x);
}
player.addEventListener("timeupdate", mark);
curve.addEventListener("click", event => {
  const box = curve.getBoundingClientRect();
  player.currentTime = toSkim((event.clientX - box.left) / box.width * span);
  mark();
});
mark();
</script>
</body>
</html>
""")


CURVE = string.Template("""\
<svg id="curve" viewBox="0 0 $span 1" preserveAspectRatio="none" role="img" aria-label="Saliency over time">
$chosen
<polyline points="$points"/>
$now
</svg>
<div class="axis">$ticks</div>""")


def draw_curve(summary, now=""):
    """Draw the saliency of a summary over time, the chosen seconds marked: HTML that the page around it styles.

    Args:
        summary: what `summary.json` holds.
        now: further SVG; x is in seconds, y from 0, above, to 1.
    """
    duration = summary["duration"]
    rects = (f'<rect x="{start:g}" width="{end - start:g}" y="0" height="1"/>' for start, end in summary["segments"])
    return CURVE.substitute(
        span=f"{duration:g}",
        chosen="\n".join(rects),
        points=_curve(np.asarray(summary["saliency"]), duration),
        now=now,
        ticks="".join(f"<span>{clock(round(duration * part / 4))}</span>" for part in range(5)),
    )


def write_page(summary, path, shown):
    """Write the page that stands beside `summary.mp4` and `storyboard.png`.

    Args:
        summary: what `summary.json` holds.
        path: .html file to write.
        shown: frames in the storyboard.
    """
    duration, used = summary["duration"], summary["budget"]["used"]
    kept = sum(end - start for start, end in summary["segments"])
    chosen = sum(summary["chosen"])
    caption = summary["caption"]
    which = f"The {shown} most salient of {chosen} chosen seconds" if shown < chosen else "The chosen seconds"
    text = {
        "title": html.escape(summary["name"]),
        "kept": _length(kept),
        "duration": _length(duration),
        "percent": f"{100 * used:.1f}",
        "budget": f"{100 * summary['budget']['asked']:g}",
        "method": html.escape(summary["method"]),
        "caption": f'<p class="caption">{html.escape(caption)}</p>' if caption is not None else "",
        "storyboard": which,
        "wide": "wide" if shown > 2 else "",
        "low": f"{min(summary['saliency']):.2f}",
        "high": f"{max(summary['saliency']):.2f}",
    }
    drawing = {
        "span": f"{duration:g}",
        "curve": draw_curve(summary, now='<line id="now" x1="0" x2="0" y1="0" y2="1"/>'),
        "segments": json.dumps(summary["segments"]),
    }
    with open(path, "w", encoding="utf-8") as file:
        file.write(PAGE.substitute(text | drawing))


def _length(seconds):
    return f"{seconds:.1f} s" if seconds < 60 else clock(round(seconds))


def _curve(saliency, duration):
    """Points of the curve: saliency at the middle of each second, stretched to the height of the drawing."""
    step = -(-len(saliency) // POINTS)
    highest = [saliency[i : i + step].max() for i in range(0, len(saliency), step)]
    low, high = float(np.min(saliency)), float(np.max(saliency))
    heights = (np.asarray(highest) - low) / (high - low) if high > low else np.full(len(highest), 0.5)
    seconds = [min(i * step + step / 2, duration) for i in range(len(highest))]
    xs, ys = [0, *seconds, duration], [heights[0], *heights, heights[-1]]
    return " ".join(f"{x:.2f},{0.97 - 0.94 * y:.4f}" for x, y in zip(xs, ys))
