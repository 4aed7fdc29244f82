"""The plots of a report, drawn by matplotlib as SVG: text stays text, so that it can be searched, read out and scaled.

Axes: T frames at 1 fps, R annotators.
"""

import html
import io
import itertools
import re

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

from metrics.registry import METRICS, format_score
from report.content import curves, thinned
from utils.text import clock

INK, FAINT, LINE = "#1c1917", "#78716c", "#d6d3d1"
MODEL, PEOPLE, CHANCE, EVENTS = "#b45309", "#1d4ed8", "#78716c", "#a8a29e"  # told apart without colour vision too
STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
MOST_LANES = 12  # of events one above the other that get more height; more get less each
SMALLEST = 1.25  # pixels per point, so that all text can be read on a phone; wider plots scroll
TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)  # seconds
_numbers = itertools.count()


def _svg(figure, label):
    """The figure as an <svg> element that scales with the page and has a name for screen readers."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": str(next(_numbers))}):  # no two figures of a page share an id
        figure.savefig(text, format="svg", metadata=dict(Date=None, Creator=None, Format=None, Type=None))
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()
    opening = f'<svg viewBox="0 0 {width} {height}" style="min-width: {SMALLEST * float(width):.0f}px" role="img" '
    opening += f'aria-label="{html.escape(label)}" xmlns="http://www.w3.org/2000/svg" '
    opening += 'xmlns:xlink="http://www.w3.org/1999/xlink">'
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # names of groups that nothing refers to, the same in each figure
    return opening + svg[svg.index(">") + 1 :]


def training_curves(log):
    """Losses, learning rate and, where a run was scored on its way, scores over the epochs; None without a log."""
    found = curves(log)
    train = found.get("train", {})
    panels = [[name] for name in ("loss", "loss_tsum", "loss_vsum", "lr") if name in train]
    scores = {split: values for split, values in found.items() if split.startswith("scores_")}
    on_the_way = {s: v for s, v in scores.items() if any(len(xs) > 1 for xs, _ in v.values())}
    if not panels:
        return None
    with matplotlib.rc_context(STYLE):
        count = len(panels) + len(on_the_way)
        figure = Figure(figsize=(2.6 * count, 2.2), layout="constrained")
        axes = figure.subplots(1, count, squeeze=False)
        for axis, (name,) in zip(axes[0], panels):
            xs, ys = thinned(*train[name])
            axis.plot(xs, ys, color=INK, linewidth=1)
            axis.set(title=dict(lr="learning rate").get(name, name), xlabel="epoch")
            if name != "lr":
                axis.set_ylim(bottom=min(0, min(ys)))
        for axis, (split, values) in zip(axes[0][len(panels) :], on_the_way.items()):
            for (name, (xs, ys)), style in zip(_few(values), ("-", "--", ":", "-.")):
                axis.plot(xs, ys, style, color=MODEL, linewidth=1.2, label=name)
            axis.set(title=split.replace("_", " on "), xlabel="epoch")
            axis.legend(frameon=False, fontsize=7)
        for axis in axes[0]:
            axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axis.yaxis.set_major_locator(MaxNLocator(4))
        name, (_, values) = panels[0][0], train[panels[0][0]]
        return _svg(figure, f"Curves over the epochs; {name} goes from {values[0]:.3g} to {values[-1]:.3g}")


def _few(values):
    names = [name for name in ("F1", "Kendall", "CIDEr", "VT_CLIPScore") if name in values]
    return [(name, values[name]) for name in names]


def distributions(run, metrics):
    """Histograms of the videos' scores, with the means of the model, of chance and of the annotators."""
    with matplotlib.rc_context(STYLE):
        columns = min(4, len(metrics))
        rows = -(-len(metrics) // columns)
        figure = Figure(figsize=(2.6 * columns, 1.9 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis, name in itertools.zip_longest(np.ravel(axes), metrics):
            if name is None:
                axis.axis("off")
                continue
            factor = METRICS[name].scale
            values = factor * run.scores[name]
            axis.hist(values, bins=min(40, max(5, len(values) // 3)), color=MODEL, alpha=0.45)
            lines = [("model", run.metrics[name], MODEL, "-")] + [
                (row, found[name], color, style)
                for row, color, style in (("human", PEOPLE, "--"), ("random", CHANCE, ":"))
                if name in (found := run.baselines.get(row, {}))
            ]
            for label, mean, color, style in lines:
                axis.axvline(
                    factor * mean,
                    color=color,
                    linestyle=style,
                    linewidth=1.3,
                    label=f"{label} {format_score(name, mean)}",
                )
            axis.set(title=name, ylim=(0, 1.4 * axis.get_ylim()[1]))  # room for the legend
            axis.legend(frameon=False, fontsize=7)
            axis.yaxis.set_major_locator(MaxNLocator(3, integer=True))
            axis.xaxis.set_major_locator(MaxNLocator(4))
        means = ", ".join(f"{name} {format_score(name, run.metrics[name])}" for name in metrics)
        return _svg(figure, f"Histograms of the videos' scores; the model's: {means}")


def runs_of(flags):
    """(T,) bool -> list of (start, seconds) of its runs."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(flags, int), [0]])))
    return [(int(a), int(b - a)) for a, b in edges.reshape(-1, 2)]


def timeline(video):
    """A video's seconds: event spans, each annotator's key-frames, their mean, the model's saliency and choice."""
    record, T = video.record, video.record.num_frames
    end, spans = max(T, record.duration), spans_within(video)
    with matplotlib.rc_context(STYLE):
        heights = [0.25 + 0.16 * min(_lanes(spans)[1], MOST_LANES), 1.5, 1.3, 0.3]
        figure = Figure(figsize=(8.4, sum(heights) + 0.7), layout="constrained")
        top, people, curve, choice = figure.subplots(4, sharex=True, height_ratios=heights)
        _events(top, spans)
        for r, flags in enumerate(record.vsum_onehot):
            people.broken_barh(runs_of(flags), (r + 0.1, 0.8), facecolor=PEOPLE)
        R = len(record.vsum_onehot)
        people.set(ylim=(R, 0), yticks=np.arange(R) + 0.5)
        people.set_yticklabels([str(r + 1) for r in range(R)], fontsize=7)
        people.set_ylabel("annotator")
        mean = record.vsum_onehot.mean(0)
        edges, heights = highest(mean)
        curve.stairs(heights, edges, fill=True, color=PEOPLE, alpha=0.25, label="annotators' mean")
        if video.saliency is not None:
            edges, heights = highest(video.saliency)
            middles = (edges[1:] + edges[:-1]) / 2
            curve.plot(middles, heights, color=MODEL, linewidth=1.4, label="model's saliency")
            choice.broken_barh(runs_of(video.chosen), (0.1, 0.8), facecolor=MODEL)
        curve.set(ylim=(0, max(0.05, mean.max(), 0 if video.saliency is None else video.saliency.max()) * 1.25))
        curve.legend(frameon=False, fontsize=7, ncols=2, loc="upper left")
        curve.yaxis.set_major_locator(MaxNLocator(3))
        choice.set(ylim=(0, 1), yticks=[0.5], xlim=(0, end), xlabel="time")
        choice.set_yticklabels(["chosen"], fontsize=8)
        choice.xaxis.set_major_locator(MultipleLocator(next((step for step in TICKS if end / step <= 10), end / 10)))
        choice.xaxis.set_major_formatter(FuncFormatter(lambda second, _: clock(round(second))))
        return _svg(figure, f"Timeline of video {record.video_id}, described below")


def highest(values, most=1500):
    """A curve (T,) of at most so many points, each the highest of its seconds: edges (n + 1,), heights (n,)."""
    starts = np.arange(0, len(values), -(-len(values) // most))
    return np.append(starts, len(values)), np.maximum.reduceat(values, starts)


def spans_within(video):
    """A video's events, (number, start, end), without what of them lies outside of the video."""
    end = max(video.record.num_frames, video.record.duration)
    inside = ((n, max(0.0, a), min(end, b)) for n, (a, b) in enumerate(video.record.spans, 1))
    return [(n, a, b) for n, a, b in inside if a < b]


def _lanes(spans):
    """Rows that keep overlapping events apart: the row of each, and their number."""
    ends, rows = [], []
    for _, start, end in spans:
        row = next((i for i, last in enumerate(ends) if last <= start), len(ends))
        ends[row : row + 1] = [end]
        rows.append(row)
    return rows, max(1, len(ends))


def _events(axis, spans):
    rows, count = _lanes(spans)
    for (number, start, end), row in zip(spans, rows):
        axis.broken_barh([(start, max(end - start, 0.2))], (row + 0.08, 0.84), facecolor=EVENTS, alpha=0.7)
        axis.text((start + end) / 2, row + 0.52, str(number), ha="center", va="center", fontsize=8, color=INK)
    axis.set(ylim=(count, 0), yticks=[count / 2])
    axis.set_yticklabels(["events"], fontsize=8)
