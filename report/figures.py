"""The plots of a report, drawn by matplotlib as SVG: text stays text, so that it can be searched, read out and scaled.

Axes: T frames at 1 fps, R annotators.
"""

import io
import itertools
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import markupsafe
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

from metrics.registry import METRICS, format_score
from report.content import ReportVideo, log_curves
from report.runs import Run
from utils.text import format_time

Curve = TypeVar("Curve")
Spans = list[tuple[int, float, float]]  # number, start and end of events

INK, FAINT, LINE = "#1c1917", "#78716c", "#d6d3d1"
MODEL, PEOPLE, CHANCE, EVENTS = "#b45309", "#1d4ed8", "#78716c", "#a8a29e"  # distinguishable without color vision
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
MAX_LANES = 12  # of overlapping events that get more height; more get less each
MIN_SCALE = 1.25  # pixels per point, so that all text can be read on a phone; wider plots scroll
TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)  # seconds
_salts = itertools.count()


def _svg(figure: Figure, label: str) -> markupsafe.Markup:
    """The figure as an <svg> element that scales with the page and has a name for screen readers."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": str(next(_salts))}):  # no two figures of a page share an id
        figure.savefig(text, format="svg", metadata=dict(Date=None, Creator=None, Format=None, Type=None))
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()
    opening = markupsafe.Markup(
        '<svg viewBox="0 0 {} {}" style="min-width: {:.0f}px" role="img" aria-label="{}" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    ).format(width, height, MIN_SCALE * float(width), label)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # names of groups that nothing refers to, the same in each figure
    return opening + markupsafe.Markup(svg[svg.index(">") + 1 :])


def training_curves(log: list[dict[str, Any]]) -> markupsafe.Markup | None:
    """Losses, learning rate and, of splits scored more than once, scores over the epochs; None without a log."""
    kinds = log_curves(log)
    train = kinds.get("train", {})
    panels = [[name] for name in ("loss", "loss_tsum", "loss_vsum", "lr") if name in train]
    repeated_scores = {
        kind: curves
        for kind, curves in kinds.items()
        if kind.startswith("scores_") and any(len(epochs) > 1 for epochs, _ in curves.values())
    }
    if not panels:
        return None
    with matplotlib.rc_context(STYLE):
        count = len(panels) + len(repeated_scores)
        figure = Figure(figsize=(2.6 * count, 2.2), layout="constrained")
        axes = figure.subplots(1, count, squeeze=False)
        for axis, (name,) in zip(axes[0], panels):
            xs, ys = downsample_mean(*train[name])
            axis.plot(xs, ys, color=INK, linewidth=1)
            axis.set(title=dict(lr="learning rate").get(name, name), xlabel="epoch")
            if name != "lr":
                axis.set_ylim(bottom=min(0, min(ys)))
        for axis, (kind, curves) in zip(axes[0][len(panels) :], repeated_scores.items()):
            for (name, (xs, ys)), style in zip(_main_scores(curves), ("-", "--", ":", "-.")):
                axis.plot(xs, ys, style, color=MODEL, linewidth=1.2, label=name)
            axis.set(title=kind.replace("_", " on "), xlabel="epoch")
            axis.legend(frameon=False, fontsize=7)
        for axis in axes[0]:
            axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axis.yaxis.set_major_locator(MaxNLocator(4))
        name, (_, values) = panels[0][0], train[panels[0][0]]
        return _svg(figure, f"Curves over the epochs; {name} goes from {values[0]:.3g} to {values[-1]:.3g}")


def _main_scores(curves: dict[str, Curve]) -> list[tuple[str, Curve]]:
    return [(name, curves[name]) for name in ("F1", "Kendall", "CIDEr", "VT_CLIPScore") if name in curves]


def distributions(run: Run, metrics: Sequence[str]) -> markupsafe.Markup:
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
                (row, run.baselines[row][name], color, style)
                for row, color, style in (("human", PEOPLE, "--"), ("random", CHANCE, ":"))
                if name in run.baselines.get(row, {})
            ]
            for label, mean, color, style in lines:
                axis.axvline(
                    factor * mean,
                    color=color,
                    linestyle=style,
                    linewidth=1.3,
                    label=f"{label} {format_score(name, mean)}",
                )
            axis.set(title=name, ylim=(0, 1.4 * axis.get_ylim()[1]))  # space for the legend
            axis.legend(frameon=False, fontsize=7)
            axis.yaxis.set_major_locator(MaxNLocator(3, integer=True))
            axis.xaxis.set_major_locator(MaxNLocator(4))
        means = ", ".join(f"{name} {format_score(name, run.metrics[name])}" for name in metrics)
        return _svg(figure, f"Histograms of the videos' scores; the model's: {means}")


def downsample_mean(xs: Sequence[float], ys: Sequence[float], most: int = 1000) -> tuple[list[float], list[float]]:
    """A curve of at most `most` points: means of neighbors."""
    step = -(-len(xs) // most)
    parts = [slice(i, i + step) for i in range(0, len(xs), step)]
    return [float(np.mean(xs[part])) for part in parts], [float(np.mean(ys[part])) for part in parts]


def downsample_max(values: np.ndarray, most: int = 1500) -> tuple[np.ndarray, np.ndarray]:
    """A curve (T,) of at most `most` points, each the maximum of its seconds: edges (n + 1,), heights (n,)."""
    starts = np.arange(0, len(values), -(-len(values) // most))
    return np.append(starts, len(values)), np.maximum.reduceat(values, starts)


def contiguous_segments(flags: np.ndarray) -> list[tuple[int, int]]:
    """(T,) bool -> list of (start, seconds) of its stretches of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(flags, int), [0]])))
    return [(int(a), int(b - a)) for a, b in edges.reshape(-1, 2)]


def timeline(video: ReportVideo) -> markupsafe.Markup:
    """A video's seconds: event spans, each annotator's key-frames, their mean, the model's saliency and selection."""
    record, T = video.record, video.record.num_frames
    end, spans = max(T, record.duration), clip_spans(video)
    with matplotlib.rc_context(STYLE):
        heights = [0.25 + 0.16 * min(_assign_lanes(spans)[1], MAX_LANES), 1.5, 1.3, 0.3]
        figure = Figure(figsize=(8.4, sum(heights) + 0.7), layout="constrained")
        top, people, curve, choice = figure.subplots(4, sharex=True, height_ratios=heights)
        _draw_events(top, spans)
        for r, flags in enumerate(record.vsum_onehot):
            people.broken_barh(contiguous_segments(flags), (r + 0.1, 0.8), facecolor=PEOPLE)
        R = len(record.vsum_onehot)
        people.set(ylim=(R, 0), yticks=np.arange(R) + 0.5)
        people.set_yticklabels([str(r + 1) for r in range(R)], fontsize=7)
        people.set_ylabel("annotator")
        mean = record.vsum_onehot.mean(0)
        edges, heights = downsample_max(mean)
        curve.stairs(heights, edges, fill=True, color=PEOPLE, alpha=0.25, label="annotators' mean")
        if video.saliency is not None:
            edges, heights = downsample_max(video.saliency)
            middles = (edges[1:] + edges[:-1]) / 2
            curve.plot(middles, heights, color=MODEL, linewidth=1.4, label="model's saliency")
            choice.broken_barh(contiguous_segments(video.selected), (0.1, 0.8), facecolor=MODEL)
        curve.set(ylim=(0, max(0.05, mean.max(), 0 if video.saliency is None else video.saliency.max()) * 1.25))
        curve.legend(frameon=False, fontsize=7, ncols=2, loc="upper left")
        curve.yaxis.set_major_locator(MaxNLocator(3))
        choice.set(ylim=(0, 1), yticks=[0.5], xlim=(0, end), xlabel="time")
        choice.set_yticklabels(["chosen"], fontsize=8)
        choice.xaxis.set_major_locator(MultipleLocator(next((step for step in TICKS if end / step <= 10), end / 10)))
        choice.xaxis.set_major_formatter(FuncFormatter(lambda second, _: format_time(round(second))))
        return _svg(figure, f"Timeline of video {record.video_id}, described below")


def clip_spans(video: ReportVideo) -> Spans:
    """A video's events, clipped to the video; those outside of it are left out."""
    end = max(video.record.num_frames, video.record.duration)
    inside = ((n, max(0.0, a), min(end, b)) for n, (a, b) in enumerate(video.record.spans, 1))
    return [(n, a, b) for n, a, b in inside if a < b]


def _assign_lanes(spans: Spans) -> tuple[list[int], int]:
    """Lanes in which no two events overlap: the lane of each event, and the number of lanes."""
    ends, lanes = [], []
    for _, start, end in spans:
        lane = next((i for i, last in enumerate(ends) if last <= start), len(ends))
        ends[lane : lane + 1] = [end]
        lanes.append(lane)
    return lanes, max(1, len(ends))


def _draw_events(axis: Axes, spans: Spans) -> None:
    lanes, count = _assign_lanes(spans)
    for (number, start, end), lane in zip(spans, lanes):
        axis.broken_barh([(start, max(end - start, 0.2))], (lane + 0.08, 0.84), facecolor=EVENTS, alpha=0.7)
        axis.text((start + end) / 2, lane + 0.52, str(number), ha="center", va="center", fontsize=8, color=INK)
    axis.set(ylim=(count, 0), yticks=[count / 2])
    axis.set_yticklabels(["events"], fontsize=8)
