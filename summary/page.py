"""The HTML page of a summary: players, caption, saliency curve, segments and storyboard, without network access."""

import dataclasses
import html
import math
import os
import pathlib
import re
import urllib.parse
from typing import Any

import numpy as np

from summary.selection import Budget, seconds_before
from utils.templates import template_environment
from utils.text import format_time, select_tick_step

MAX_POINTS = 1200  # of the curve; for longer videos, each is the maximum over several seconds
CURVE_MARGIN = 0.03  # above and below the curve, as a fraction of its height
MAX_INTERVALS = 5  # of the time axis
MIN_TICK_DISTANCE = 0.2  # between the last two ticks of the time axis, as a fraction of its length

# Name of a method of `summary.selection` -> its label on the pages.
METHOD_LABELS = {"topk": "the most salient seconds", "shots": "whole shots"}

_ORIGINAL_URL = re.compile(r'(<video id="original" src=")[^"]*(")')


@dataclasses.dataclass(frozen=True)
class Tick:
    """A label of an axis.

    Attributes:
        percent: position, in percent of the axis from its left or top end.
        label: text.
    """

    percent: float
    label: str


def render_page(summary: dict[str, Any], num_frames: int, poster_url: str, original_url: str) -> str:
    """Render the page, with links to the summary's other files.

    Args:
        summary: content of `summary.json`.
        num_frames: frames in the storyboard.
        poster_url: image that the skim's player shows before it plays.
        original_url: the video, which the page shows beside the skim if the browser can play it.
    """
    return _render(
        "page.html",
        summary,
        num_frames=num_frames,
        num_selected=sum(summary["chosen"]),
        poster_url=poster_url,
        original_url=original_url,
    )


def relative_url(path: str | os.PathLike, folder: str | os.PathLike) -> str:
    """Return the URL of a file relative to a page in a folder."""
    return urllib.parse.quote(os.fsencode(pathlib.Path(os.path.relpath(path, folder)).as_posix()))


def with_original_url(page: str, url: str) -> str:
    """Return a page of `render_page` with another URL of the original video."""
    changed, count = _ORIGINAL_URL.subn(lambda match: match[1] + html.escape(url) + match[2], page)
    assert count == 1, "the page has one original"
    return changed


def render_segments(summary: dict[str, Any]) -> str:
    """Render the saliency curve and the table of segments as one line of HTML of class `curve`."""
    return " ".join(_render("segments.html", summary).split())


def _render(template: str, summary: dict[str, Any], **values: int | str) -> str:
    environment = template_environment(pathlib.Path(__file__).with_name("templates"))
    saliency = np.asarray(summary["saliency"])
    return environment.get_template(template).render(
        summary=summary,
        kept=sum(end - start for start, end in summary["segments"]),
        points=_curve_points(saliency, summary["duration"]),
        time_ticks=_time_ticks(summary["duration"]),
        saliency_ticks=_saliency_ticks(float(saliency.min()), float(saliency.max())),
        method_label=METHOD_LABELS[summary["method"]],
        seconds_before=seconds_before,
        format_length=_format_length,
        format_tenths=_format_tenths,
        format_budget=_format_budget,
        **values,
    )


def _format_length(seconds: float) -> str:
    """Write a length with tenths, as "59.9 s" or "1:00.0"."""
    return f"{seconds:.1f} s" if round(seconds, 1) < 60 else _format_tenths(seconds)


def _format_budget(budget: Budget) -> str:
    return budget if isinstance(budget, str) else f"{100 * budget:g} %"


def _format_tenths(second: float) -> str:
    """Write a time as m:ss.t or h:mm:ss.t, rounded as `format(second, ".1f")` is."""
    whole, tenth = divmod(round(10 * round(second, 1)), 10)
    return f"{format_time(whole)}.{tenth}"


def _curve_points(saliency: np.ndarray, duration: float) -> str:
    """Return the points of an SVG polyline of saliency (T,); x in seconds, y from 0 (top) to 1."""
    step = -(-len(saliency) // MAX_POINTS)
    maxima = np.maximum.reduceat(saliency, np.arange(0, len(saliency), step))
    low, high = float(saliency.min()), float(saliency.max())
    heights = (maxima - low) / (high - low) if high > low else np.full(len(maxima), 0.5)
    seconds = [min(i * step + step / 2, duration) for i in range(len(maxima))]
    xs, ys = [0, *seconds, duration], [heights[0], *heights, heights[-1]]
    return " ".join(f"{x:.2f},{1 - CURVE_MARGIN - (1 - 2 * CURVE_MARGIN) * y:.4f}" for x, y in zip(xs, ys))


def _saliency_ticks(low: float, high: float) -> list[Tick]:
    """Return the ticks of the saliency axis: its extremes and their mean, with enough digits to differ."""
    if high <= low:
        return [Tick(50, f"{low:.2f}")]
    digits = min(6, max(2, 1 - math.floor(math.log10(high - low))))
    margin = 100 * CURVE_MARGIN
    positions = zip((margin, 50, 100 - margin), (high, (low + high) / 2, low))
    return [Tick(percent, f"{value:.{digits}f}") for percent, value in positions]


def _time_ticks(duration: float) -> list[Tick]:
    """Return the ticks of the time axis: multiples of a round step, and the end of the video."""
    seconds = np.arange(0, (1 - MIN_TICK_DISTANCE) * duration, select_tick_step(duration, MAX_INTERVALS))
    end = round(duration, 1)
    end_label = format_time(end) if end.is_integer() else _format_tenths(end)
    return [*(Tick(100 * second / duration, format_time(second)) for second in seconds), Tick(100, end_label)]
