"""A summary as it is handed to others: without the paths of this machine."""

import json
import zipfile

from summary.page import draw_curve
from utils.text import clock


def pack(summary, folder, path):
    """Put a summary's files into a .zip.

    Args:
        summary: what `summary.json` holds.
        folder: where its files are.
        path: .zip file to write.
    """
    checkpoints = {role: dict(sha256=made["sha256"]) for role, made in summary["checkpoints"].items()}
    public = summary | dict(video=summary["name"], checkpoints=checkpoints)
    with zipfile.ZipFile(path, "w") as file:  # videos and pictures do not get smaller
        for name in ("summary.mp4", "storyboard.png", "index.html"):
            file.write(folder / name, name)
        file.writestr("summary.json", json.dumps(public, indent=1))


def draw(summary):
    """The curve and the table of segments: HTML of class `curve`, one line."""
    low, high = min(summary["saliency"]), max(summary["saliency"])
    used = sum(end - start for start, end in summary["segments"])
    rows = "".join(
        f"<tr><td>{_time(start)}</td><td>{_time(end)}</td><td>{end - start:.1f} s</td></tr>"
        for start, end in summary["segments"]
    )
    text = f"""<div class="curve">{draw_curve(summary)}
<p>Saliency over time, from {low:.2f} to {high:.2f}. Marked are the chosen seconds, {used:.1f} of
{summary["duration"]:.1f} s.</p>
<table><thead><tr><th>from</th><th>to</th><th>length</th></tr></thead><tbody>{rows}</tbody></table></div>"""
    return " ".join(text.split())


def _time(second):
    return f"{clock(second)}.{int(second * 10) % 10}"
