"""Texts of the summary page and of the demo page's table."""

import re

import pytest

from summary.page import METHOD_LABELS, render_page, render_segments
from summary.selection import METHODS


def make_summary(segments, duration, **values):
    used = sum(end - start for start, end in segments) / duration
    summary = dict(
        name="clip.mp4", duration=duration, caption="a dog runs", saliency=[0.2, 0.8], chosen=[True, False], chunk=None
    )
    summary |= dict(
        segments=segments, method="topk", selection_notes=[], budget=dict(asked=0.15, used=used), parts=[{}]
    )
    return summary | dict(model="vtsum_blip_tt", note="", encoder="blip", files=["index.html"]) | values


def page_texts(html):
    """Return the text of a page without tags and repeated spaces."""
    return " ".join(re.sub("<[^>]*>", " ", html).split())


@pytest.mark.parametrize(
    ("segments", "duration", "row", "span", "lengths"),
    [
        ([(0.0, 29.999)], 29.999, "0:00.0 0:30.0 30.0 s", "0:00.0–0:30.0 30.0 s", "30.0 s of 30.0 s"),
        ([(58.0, 59.96)], 59.96, "0:58.0 1:00.0 2.0 s", "0:58.0–1:00.0 2.0 s", "2.0 s of 1:00.0"),
        ([(58.0, 59.94)], 59.94, "0:58.0 0:59.9 1.9 s", "0:58.0–0:59.9 1.9 s", "1.9 s of 59.9 s"),
        ([(3598.0, 3599.97)], 3599.97, "59:58.0 1:00:00.0 2.0 s", "59:58.0–1:00:00.0 2.0 s", "2.0 s of 1:00:00.0"),
    ],
)
def test_times_are_rounded_to_tenths(segments, duration, row, span, lengths):
    """Times, lengths and the axis agree, also where rounding carries over to the next minute or hour."""
    summary = make_summary(segments, duration)
    table, page = page_texts(render_segments(summary)), page_texts(render_page(summary, 1, "", ""))
    assert row in table and f"are marked, {lengths}." in table
    assert span in page and f"clip.mp4 {lengths}, " in page


def test_methods_are_in_words():
    assert list(METHOD_LABELS) == list(METHODS)
    for method, label in METHOD_LABELS.items():
        page = render_page(make_summary([(0.0, 1.0)], 2.0, method=method), 1, "", "")
        assert f"(budget 15 %, {label})" in page and method not in page.replace(label, "")
