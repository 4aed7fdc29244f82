"""Subtitles of skims, read back."""

import re

from summary.subtitles import render_subtitles


def read_cues(text):
    """Read an .srt file: (start, end, text) of each cue, in milliseconds."""
    cues = []
    for number, block in enumerate(text.split("\n\n"), 1):
        index, times, sentence = block.strip("\n").split("\n")
        assert index == str(number)
        fields = list(
            map(int, re.fullmatch(r"(\d\d):(\d\d):(\d\d),(\d{3}) --> (\d\d):(\d\d):(\d\d),(\d{3})", times).groups())
        )
        start, end = (((h * 60 + m) * 60 + s) * 1000 + ms for h, m, s, ms in (fields[:4], fields[4:]))
        cues.append((start, end, sentence))
    return cues


def make_summary(segments, *parts):
    return dict(segments=segments, parts=[dict(start=start, end=end, caption=caption) for start, end, caption in parts])


def test_sentences_share_the_skim_by_length():
    summary = make_summary([(5.0, 8.0), (20.0, 23.0)], (0.0, 30.0, "a dog runs.  it stops\nand then it sits."))
    boundary = round(6000 * len("a dog runs.") / len("a dog runs.it stops and then it sits."))
    cues = [(0, boundary, "a dog runs."), (boundary, 6000, "it stops and then it sits.")]
    assert read_cues(render_subtitles(summary)) == cues


def test_sentences_of_a_part_are_over_its_seconds():
    """The second segment is in two parts; the third part has none, and its caption is not shown."""
    parts = (0.0, 10.0, "one."), (10.0, 20.0, "two. six."), (20.0, 30.0, "none."), (30.0, 40.0, "four.")
    summary = make_summary([(0.0, 1.0), (8.0, 14.0), (30.5, 35.0)], *parts)
    assert read_cues(render_subtitles(summary)) == [
        (0, 3000, "one."),
        (3000, 5000, "two."),
        (5000, 7000, "six."),
        (7000, 11500, "four."),
    ]


def test_times_above_an_hour():
    summary = make_summary([(0.0, 3661.5)], (0.0, 3700.0, "all of it"))
    assert render_subtitles(summary) == "1\n00:00:00,000 --> 01:01:01,500\nall of it\n"


def test_no_caption_gives_no_subtitles():
    assert render_subtitles(make_summary([(0.0, 1.0)], (0.0, 10.0, None))) == ""
    assert render_subtitles(make_summary([(0.0, 1.0)], (0.0, 10.0, " "))) == ""
