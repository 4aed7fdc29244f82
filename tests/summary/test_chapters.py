"""Chapters for video sites."""

import re

import pytest

from summary.chapters import list_chapters, render_chapters


@pytest.mark.parametrize(
    ("segments", "duration", "expected"),
    [
        ([(12.0, 14.0), (40.0, 50.0)], 60, ["0:00 Start", "0:12 Highlight 1", "0:40 Highlight 2"]),
        ([(0.0, 2.0), (30.0, 31.0)], 60, ["0:00 Highlight 1", "0:30 Highlight 2"]),
        ([(0.0, 1.0), (4.0, 5.0), (30.0, 31.0)], 60, ["0:00 Highlight 1", "0:30 Highlight 2"]),
        ([(9.0, 11.0), (19.0, 20.0), (20.0, 21.0)], 60, ["0:00 Start and highlight 1", "0:19 Highlight 2"]),
        ([(9.0, 10.0)], 60, ["0:00 Start and highlight 1"]),
        ([(10.0, 11.0)], 60, ["0:00 Start", "0:10 Highlight 1"]),
        ([(55.0, 56.0)], 60, ["0:00 Start and highlight 1"]),
        ([(20.0, 21.0), (29.0, 30.0), (30.0, 31.0)], 60, ["0:00 Start", "0:20 Highlight 1", "0:30 Highlight 2"]),
        ([(50.0, 51.0), (55.0, 56.0)], 60, ["0:00 Start", "0:50 Highlight 1"]),
        ([(3.0, 4.0)], 4, ["0:00 Start and highlight 1"]),
        ([(3599.0, 3601.0), (3700.0, 3701.0)], 7200, ["0:00 Start", "59:59 Highlight 1", "1:01:40 Highlight 2"]),
    ],
)
def test_chapters(segments, duration, expected):
    assert render_chapters(segments, duration).splitlines() == expected


def test_rules_of_video_sites():
    """The first chapter starts at 0:00; starts ascend, and each chapter is at least ten seconds long."""
    segments = [(float(second), second + 1.0) for second in range(0, 5000, 3)]
    chapters = list_chapters(segments, 5000.5)
    starts = [second for second, _ in chapters]
    assert starts[0] == 0 and all(b - a >= 10 for a, b in zip(starts, [*starts[1:], 5000.5]))
    assert all(re.fullmatch(r"(\d:)?\d?\d:\d\d \S.*", line) for line in render_chapters(segments, 5000.5).splitlines())
