"""The HTML page of a summary: player, caption, saliency curve and storyboard, without network access."""

import pathlib
from typing import Any

import numpy as np

from summary.selection import Budget
from utils.templates import template_environment
from utils.text import format_time

MAX_POINTS = 1200  # of the curve; for longer videos, each is the maximum over several seconds


def write_page(summary: dict[str, Any], path: str | pathlib.Path, num_frames: int) -> None:
    """Write the page, with links to the summary's other files.

    Args:
        summary: content of `summary.json`.
        path: .html file to write.
        num_frames: frames in the storyboard.
    """
    page = _render("page.html", summary, num_frames=num_frames, num_selected=sum(summary["chosen"]))
    pathlib.Path(path).write_text(page, encoding="utf-8")


def render_segments(summary: dict[str, Any]) -> str:
    """Render the saliency curve and the table of segments as one line of HTML of class `curve`."""
    return " ".join(_render("segments.html", summary).split())


def _render(template: str, summary: dict[str, Any], **values: int) -> str:
    environment = template_environment(pathlib.Path(__file__).with_name("templates"))
    return environment.get_template(template).render(
        summary=summary,
        kept=sum(end - start for start, end in summary["segments"]),
        points=_curve_points(np.asarray(summary["saliency"]), summary["duration"]),
        format_time=format_time,
        format_length=_format_length,
        format_tenths=_format_tenths,
        format_budget=_format_budget,
        **values,
    )


def _format_length(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else format_time(round(seconds))


def _format_budget(budget: Budget) -> str:
    return budget if isinstance(budget, str) else f"{100 * budget:g} %"


def _format_tenths(second: float) -> str:
    return f"{format_time(second)}.{int(second * 10) % 10}"


def _curve_points(saliency: np.ndarray, duration: float) -> str:
    """Return the points of an SVG polyline of saliency (T,); x in seconds, y from 0 (top) to 1."""
    step = -(-len(saliency) // MAX_POINTS)
    maxima = np.maximum.reduceat(saliency, np.arange(0, len(saliency), step))
    low, high = float(saliency.min()), float(saliency.max())
    heights = (maxima - low) / (high - low) if high > low else np.full(len(maxima), 0.5)
    seconds = [min(i * step + step / 2, duration) for i in range(len(maxima))]
    xs, ys = [0, *seconds, duration], [heights[0], *heights, heights[-1]]
    return " ".join(f"{x:.2f},{0.97 - 0.94 * y:.4f}" for x, y in zip(xs, ys))
