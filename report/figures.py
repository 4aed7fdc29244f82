"""The plots of a report, in matplotlib, as SVG with text elements, which can be searched and read by screen readers.

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
from report.content import ReportVideo, extract_curves
from report.runs import Run
from utils.text import format_time, select_tick_step

Curve = TypeVar("Curve")
XY = tuple[list[float], list[float]]
Spans = list[tuple[int, float, float]]  # number, start and end of events

INK, FAINT, LINE = "#1c1917", "#78716c", "#d6d3d1"
MODEL_COLOR, HUMAN_COLOR, RANDOM_COLOR, EVENT_COLOR = (
    "#b45309",
    "#1d4ed8",
    "#78716c",
    "#a8a29e",
)  # distinguishable without color vision
BASELINE_LINES = (("human", HUMAN_COLOR, "--"), ("random", RANDOM_COLOR, ":"), ("shuffled", RANDOM_COLOR, ":"))
STYLE: Any = {
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
MAX_LANES = 12  # of overlapping events at full height; more lanes are thinner
MIN_SCALE = 1.25  # pixels per point, for text that is readable on a phone; wider plots scroll
EPOCH_STEPS = tuple(digit * 10**power for power in range(10) for digit in (1, 2, 5))  # between ticks
_salts = itertools.count()


def _svg(figure: Figure, label: str) -> markupsafe.Markup:
    """Render a figure as an <svg> element that scales with the page and has a label for screen readers."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": str(next(_salts))}):  # ids are unique within a page
        figure.savefig(text, format="svg", metadata=dict(Date=None, Creator=None, Format=None, Type=None))
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    view_box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert view_box is not None
    width, height = view_box.groups()
    opening = markupsafe.Markup(
        '<svg viewBox="0 0 {} {}" style="min-width: {:.0f}px" role="img" aria-label="{}" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    ).format(width, height, MIN_SCALE * float(width), label)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # unused ids of groups, the same in each figure
    return opening + markupsafe.Markup(svg[svg.index(">") + 1 :])


def draw_training_curves(log: list[dict[str, Any]]) -> markupsafe.Markup | None:
    """Plot losses, learning rate, and scores of splits evaluated repeatedly over the epochs; None without a log."""
    kinds = extract_curves(log)
    train, validation = kinds.get("train", {}), kinds.get("validation", {})
    panels = [name for name in ("loss", "loss_tsum", "loss_vsum", "lr") if name in train]
    repeated_scores = {
        kind: curves
        for kind, curves in kinds.items()
        if kind.startswith("scores_") and any(len(epochs) > 1 for epochs, _ in curves.values())
    }
    if not panels:
        return None
    with matplotlib.rc_context(STYLE):
        count = len(panels) + len(repeated_scores)
        figure = Figure(figsize=(2.6 * count, 2.5), layout="constrained")
        axes = figure.subplots(1, count, squeeze=False)
        for axis, panel in zip(axes[0], panels):
            _draw_losses(axis, panel, train[panel], validation.get(panel))
        for axis, (kind, curves) in zip(axes[0][len(panels) :], repeated_scores.items()):
            for (metric, (xs, ys)), style in zip(_main_scores(curves), ("-", "--", ":", "-.")):
                axis.plot(xs, ys, style, color=MODEL_COLOR, linewidth=1.2, label=metric)
            _add_legend_above(axis, kind.replace("_", " on "), columns=2)
        for axis in axes[0]:
            _set_epoch_axis(axis)
            axis.yaxis.set_major_locator(MaxNLocator(4))
        return _svg(figure, _describe_curves(panels[0], train[panels[0]], validation.get(panels[0])))


def _draw_losses(axis: Axes, name: str, train: XY, validation: XY | None) -> None:
    """Draw a training loss or the learning rate and, if there is one, the same loss of the validation split."""
    xs, ys = downsample_mean(*train)
    axis.plot(xs, ys, color=INK, linewidth=1, marker="o" if len(xs) == 1 else "", markersize=3, label="training")
    if validation is None:
        axis.set_title("learning rate" if name == "lr" else name)
    else:
        lowest = int(np.argmin(validation[1]))
        label = f"validation, lowest after epoch {validation[0][lowest]:.0f}"
        axis.plot(*validation, "o-", color=MODEL_COLOR, linewidth=1.4, markersize=4, markevery=[lowest], label=label)
        _add_legend_above(axis, name)
    if name != "lr":
        axis.set_ylim(bottom=min(0, min(ys)))


def _describe_curves(name: str, train: XY, validation: XY | None) -> str:
    """Describe the training curves, for screen readers."""
    values = train[1]
    text = f"Curves over the epochs; {name} goes from {values[0]:.3g} to {values[-1]:.3g}"
    if validation is None:
        return text
    epochs, losses = validation
    lowest = int(np.argmin(losses))
    return f"{text}; on the validation split, it is lowest, {losses[lowest]:.3g}, after epoch {epochs[lowest]:.0f}"


def _set_epoch_axis(axis: Axes) -> None:
    """Label the axis of epochs, of which 1 is the first."""
    last = axis.dataLim.xmax
    step = next(step for step in EPOCH_STEPS if last / step <= 5)
    axis.set(xlabel="epoch", xlim=(0, 1.05 * max(1, last)), xticks=[1, *range(max(2, step), int(last) + 1, step)])


def _add_legend_above(axis: Axes, title: str, columns: int = 1) -> None:
    """Add a legend, with the title of the plot, above the axes."""
    axis.legend(
        title=title,
        alignment="left",
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderpad=0,
        borderaxespad=0.3,
        frameon=False,
        fontsize=7,
        title_fontsize=9,
        ncols=columns,
    )


def _main_scores(curves: dict[str, Curve]) -> list[tuple[str, Curve]]:
    return [(name, curves[name]) for name in ("F1", "Kendall", "CIDEr", "VT_CLIPScore") if name in curves]


def draw_distributions(run: Run, metrics: Sequence[str]) -> markupsafe.Markup | None:
    """Draw histograms of the videos' scores, with the means of the model, the annotators and chance.

    Returns:
        The plot; None for one video, which has no distribution.
    """
    if len(run.video_ids) < 2:
        return None
    with matplotlib.rc_context(STYLE):
        columns = min(4, len(metrics))
        rows = -(-len(metrics) // columns)
        figure = Figure(figsize=(2.6 * columns, 2.2 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis, name in itertools.zip_longest(np.ravel(axes), metrics):
            if name is None:
                axis.axis("off")
                continue
            factor = METRICS[name].scale
            values = factor * run.scores[name]
            axis.hist(values, bins=min(40, max(5, len(values) // 3)), color=MODEL_COLOR, alpha=0.45)
            lines = [("model", run.metrics[name], MODEL_COLOR, "-")] + [
                (row, run.baselines[row][name], color, style)
                for row, color, style in BASELINE_LINES
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
            _add_legend_above(axis, name, columns=2)
            axis.yaxis.set_major_locator(MaxNLocator(3, integer=True))
            axis.xaxis.set_major_locator(MaxNLocator(4))
        means = ", ".join(f"{name} {format_score(name, run.metrics[name])}" for name in metrics)
        return _svg(figure, f"Histograms of the videos' scores; the model's: {means}")


def downsample_mean(
    xs: Sequence[float], ys: Sequence[float], max_points: int = 1000
) -> tuple[list[float], list[float]]:
    """Downsample a curve to at most `max_points` points, means of neighbors."""
    step = -(-len(xs) // max_points)
    parts = [slice(i, i + step) for i in range(0, len(xs), step)]
    return [float(np.mean(xs[part])) for part in parts], [float(np.mean(ys[part])) for part in parts]


def downsample_max(values: np.ndarray, max_points: int = 1500) -> tuple[np.ndarray, np.ndarray]:
    """Downsample a curve (T,) to at most `max_points` maxima of neighbors: edges (n + 1,), heights (n,)."""
    starts = np.arange(0, len(values), -(-len(values) // max_points))
    return np.append(starts, len(values)), np.maximum.reduceat(values, starts)


def contiguous_segments(flags: np.ndarray) -> list[tuple[int, int]]:
    """Return (start, length) of each run of True in (T,) bool."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(flags, int), [0]])))
    return [(int(a), int(b - a)) for a, b in edges.reshape(-1, 2)]


def draw_timeline(video: ReportVideo) -> markupsafe.Markup:
    """Draw a video's events (if any), each annotator's key-frames, their mean, the model's saliency and selection."""
    record, T = video.record, video.num_frames
    end, spans = max(T, record.duration), clip_events(video)
    with matplotlib.rc_context(STYLE):
        event_heights = [0.25 + 0.16 * min(_assign_lanes(spans)[1], MAX_LANES)] if spans else []
        panel_heights = [*event_heights, 1.5, 1.3, 0.3]
        figure = Figure(figsize=(8.4, sum(panel_heights) + 0.7), layout="constrained")
        *events, annotators, curve, selection = figure.subplots(
            len(panel_heights), sharex=True, height_ratios=panel_heights
        )
        for axis in events:
            _draw_events(axis, spans)
        labels = video.labels
        for r, flags in enumerate(() if labels is None else labels.keyframes):
            annotators.broken_barh(contiguous_segments(flags), (r + 0.1, 0.8), facecolor=HUMAN_COLOR)
        R = 0 if labels is None else labels.num_annotators
        annotators.set(ylim=(max(R, 1), 0), yticks=np.arange(R) + 0.5)
        annotators.set_yticklabels([str(r + 1) for r in range(R)], fontsize=7)
        annotators.set_ylabel("annotator")
        mean = np.zeros(T) if labels is None else labels.importance.mean(0)
        edges, heights = downsample_max(mean)
        curve.stairs(heights, edges, fill=True, color=HUMAN_COLOR, alpha=0.25, label="annotators' mean")
        if video.saliency is not None:
            edges, heights = downsample_max(video.saliency)
            middles = (edges[1:] + edges[:-1]) / 2
            curve.plot(middles, heights, color=MODEL_COLOR, linewidth=1.4, label="model's saliency")
        if video.selected is not None:
            selection.broken_barh(contiguous_segments(video.selected), (0.1, 0.8), facecolor=MODEL_COLOR)
        curve.set(ylim=(0, max(0.05, mean.max(), 0 if video.saliency is None else video.saliency.max()) * 1.05))
        _add_legend_above(curve, "", columns=2)
        curve.yaxis.set_major_locator(MaxNLocator(3))
        selection.set(ylim=(0, 1), yticks=[0.5], xlim=(0, end), xlabel="time")
        selection.set_yticklabels(["selected"], fontsize=8)
        selection.xaxis.set_major_locator(MultipleLocator(select_tick_step(end, 10)))
        selection.xaxis.set_major_formatter(FuncFormatter(lambda second, _: format_time(round(second))))
        return _svg(figure, f"Timeline of video {record.video_id}, described below")


def clip_events(video: ReportVideo) -> Spans:
    """Clip a video's events to the video, without those outside of it."""
    end = max(video.num_frames, video.record.duration)
    clipped = ((n, max(0.0, a), min(end, b)) for n, (a, b) in enumerate(video.record.spans, 1))
    return [(n, a, b) for n, a, b in clipped if a < b]


def _assign_lanes(spans: Spans) -> tuple[list[int], int]:
    """Assign events to lanes without overlaps; returns the lane of each event, and the number of lanes."""
    ends: list[float] = []
    lanes: list[int] = []
    for _, start, end in spans:
        lane = next((i for i, last in enumerate(ends) if last <= start), len(ends))
        ends[lane : lane + 1] = [end]
        lanes.append(lane)
    return lanes, max(1, len(ends))


def _draw_events(axis: Axes, spans: Spans) -> None:
    lanes, count = _assign_lanes(spans)
    for (number, start, end), lane in zip(spans, lanes):
        axis.broken_barh([(start, max(end - start, 0.2))], (lane + 0.08, 0.84), facecolor=EVENT_COLOR, alpha=0.7)
        axis.text((start + end) / 2, lane + 0.52, str(number), ha="center", va="center", fontsize=8, color=INK)
    axis.set(ylim=(count, 0), yticks=[count / 2])
    axis.set_yticklabels(["events"], fontsize=8)
