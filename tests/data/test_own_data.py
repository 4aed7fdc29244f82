import json

import numpy as np
import pytest

from data.annotations import MissingLabels
from data.own_data import segments_to_keyframes
from data.registry import load_annotations
from data.video.timeline import Timeline, sampling_times
from tests.helpers.json_lines import write_json_lines


@pytest.fixture
def write_file(tmp_path):
    def write(*entries, json_lines=True):
        path = tmp_path / "train.any"
        if json_lines:
            write_json_lines(path, entries)
        else:
            path.write_text(json.dumps(entries, indent=1))
        return path

    return write


def make_record(video_id="v", duration=4.5, **fields):
    return dict(video_id=video_id, duration=duration, **fields)


@pytest.mark.parametrize("json_lines", [True, False])
def test_records(write_file, json_lines):
    rows = [[0, 1, 0, 0], [1, 0, 0, 0]]
    path = write_file(
        make_record("d", 4, captions="A dog runs.", vsum_onehot=rows),
        make_record("a", 3, captions=["A dog.", "It runs!"], importance=[0, 0.5, 1]),
        make_record("b", 3, captions=["A cat."], vsum_onehot=[False, True, False]),
        make_record("c", 3.5, captions=["A cat."], segments=[[[0, 1], [2.2, 4]], []]),
        json_lines=json_lines,
    )
    records = load_annotations(path, dataset="own")
    assert [(record.video_id, record.index) for record in records] == [("a", 0), ("b", 1), ("c", 2), ("d", 3)]
    assert [record.references for record in records] == [("A dog.", "It runs!"), *[("A cat.",)] * 2, ("A dog runs.",)]
    a, b, c, d = records
    assert a.importance.dtype == np.float32 and a.importance.tolist() == [[0, 0.5, 1]] and a.vsum_onehot is None
    assert b.vsum_onehot.tolist() == [[0, 1, 0]] and b.vsum_onehot.dtype == np.uint8
    assert c.vsum_onehot.tolist() == [[1, 0, 1, 1], [0, 0, 0, 0]]
    assert d.vsum_onehot.tolist() == rows
    assert all(record.tsum == record.spans == () for record in records)


@pytest.mark.parametrize(("duration", "T"), [(3.0, 3), (3.001, 3), (3.4, 4), (0.2, 1)])
def test_segments_select_the_frames_that_are_sampled_within_them(duration, T):
    timeline = Timeline(np.zeros(1), duration)
    times = sampling_times(duration, T)
    assert timeline.seconds == T and len(times) == T and times[-1] == (T - 1 + min(duration, T)) / 2
    assert segments_to_keyframes([[[0, duration]]], duration).tolist() == [[1] * T]
    for t, time in enumerate(times):
        selected = segments_to_keyframes([[[time, time + 0.1]], [[time - 0.1, time]]], duration)
        assert selected.tolist() == [[int(other == t) for other in range(T)], [0] * T]


@pytest.mark.parametrize(
    ("duration", "T"), [(3.0, 3), (3.0000000001, 3), (3.001, 3), (3.001, 4), (3.01, 4), (2.999, 3), (0.2, 1)]
)
def test_rows_have_the_length_of_the_duration(write_file, duration, T):
    """Rounding of durations is ignored as it is when frames are sampled."""
    entries = [make_record("a", duration, vsum_onehot=[1] * T), make_record("b", duration, importance=[0.5] * T)]
    records = load_annotations(write_file(*entries), dataset="own", needs=())
    assert [record.num_frames for record in records] == [T, T]


def test_segments_may_end_within_the_partial_last_second(write_file):
    (record,) = load_annotations(write_file(make_record(segments=[[4, 5]])), dataset="own", needs=())
    assert record.vsum_onehot.tolist() == [[0, 0, 0, 0, 1]]


def test_videos_without_keyframes_are_one_warning(write_file, caplog):
    """A segment between the middles of two seconds selects no frame."""
    entries = [
        make_record("a", segments=[[1.6, 1.9]]),
        make_record("b", segments=[[1, 2]]),
        make_record("c", segments=[]),
    ]
    load_annotations(write_file(*entries), dataset="own", needs=())
    (message,) = caplog.messages
    assert "2 videos have no key-frame, the first: a; segments select the seconds" in message


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (3, "line 1: found 3, expected an object"),
        (dict(duration=1), "line 1: video_id: missing"),
        (make_record("a/b"), "line 1: video_id: found 'a/b', expected a name, not a path"),
        (dict(video_id="v"), "video v: duration: missing"),
        (make_record(duration=-1), "video v: duration: found -1, expected more than 0"),
        (make_record(duration=2e6), "video v: duration: found 2000000.0, expected at most 1000000"),
        (make_record(captoins=["A."]), "video v: captoins: unknown key; did you mean captions?"),
        (make_record(tsum=["A."]), "video v: tsum: unknown key"),
        (make_record(**{"a\nb": 1}), "video v: a\\nb: unknown key"),
        (make_record(captions=["..."]), "video v: captions: found '...', expected words"),
        (make_record(captions=[]), "video v: captions: found a list of 0, expected at least 1 item"),
        (make_record(captions=["A.", 3]), "video v: captions: 1: found 3, expected text"),
        (make_record(captions=3), "video v: captions: found 3, expected a list"),
        (make_record(vsum_onehot=[0, 2]), "video v: vsum_onehot: found 2, expected 0 and 1"),
        (make_record(vsum_onehot=[]), "video v: vsum_onehot: found 0 rows"),
        (make_record(vsum_onehot=[[0, 1], [0]]), "video v: vsum_onehot: found 2 rows of 1 to 2 frames"),
        (make_record(importance=[0.5, 1.5]), "video v: importance: found 1.5, expected numbers from 0 to 1"),
        (
            make_record(vsum_onehot=[0, 1], segments=[[0, 1]]),
            "video v: segments: found vsum_onehot too, expected one of the two",
        ),
        (
            make_record(vsum_onehot=[0, 1], importance=[0, 1]),
            "video v: importance: found vsum_onehot too, expected one of the two",
        ),
        (make_record(segments=7), "video v: segments: found 7, expected [start, end] in seconds"),
        (make_record(segments=[3]), "video v: segments: found 3, expected [start, end]"),
        (make_record(segments=[[0, 1], [2]]), "video v: segments: found 0, expected [start, end]"),
        (
            make_record(segments=[[2, 1]]),
            "video v: segments: found [2, 1], expected [start, end] in seconds, 0 <= start",
        ),
        (make_record(segments=[[[1, 1]]]), "video v: segments: found [1, 1], expected [start, end]"),
        (make_record(segments=[[-1, 1]]), "video v: segments: found [-1, 1], expected [start, end]"),
        (make_record(segments=[[0, "1"]]), "video v: segments: found 0, expected [start, end]"),
        (
            make_record(segments=[[0, 1], [4.5, 5]]),
            "video v: segments: found [4.5, 5], expected a start before the end of the video, 4.5",
        ),
        (
            make_record(segments=[[[0, 1]], [[2, 5.1]]]),
            "video v: segments: found [2, 5.1], expected an end of at most 5 for duration 4.5",
        ),
        (
            make_record("street_a", 5.52, vsum_onehot=[0, 1, 0, 0]),
            "video street_a: vsum_onehot: found 4 values, expected 6 for duration 5.52",
        ),
        (
            make_record(duration=3, importance=[[0, 1, 0, 0]] * 2),
            "video v: importance: found 4 values, expected 3 for duration 3",
        ),
        (make_record(duration=3.01, vsum_onehot=[0, 1, 0]), "video v: vsum_onehot: found 3 values, expected 4"),
    ],
)
def test_invalid_records_are_one_line(write_file, entry, message):
    path = write_file(entry)
    with pytest.raises(ValueError) as caught:
        load_annotations(path, dataset="own", needs=())
    assert str(caught.value).startswith(f"{path}: {message}") and "\n" not in str(caught.value)


def test_invalid_files_are_one_line(tmp_path, write_file):
    path = tmp_path / "train.any"
    for text, message in (
        ("", "annotations: found no records, expected one per line"),
        ("[]", "annotations: found a list of 0, expected a list of records"),
        ("[{", "annotations: not valid JSON"),
        ('{"video_id": "v", "duration": 1}\n\n{"video_id"', "line 3: annotations: not valid JSON"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError) as caught:
            load_annotations(path, dataset="own", needs=())
        assert str(caught.value).startswith(f"{path}: {message}") and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="train.any: video v: video_id: found twice, expected once"):
        load_annotations(write_file(make_record(), make_record()), dataset="own", needs=())
    with pytest.raises(FileNotFoundError, match="none.jsonl: annotations: no such file"):
        load_annotations(tmp_path / "none.jsonl", dataset="own")


def test_tasks_need_their_labels(write_file):
    path = write_file(make_record("a", captions=["A."]), make_record("b", segments=[]))
    with pytest.raises(MissingLabels, match="video a: vsum_onehot: missing, expected vsum_onehot, importance or"):
        load_annotations(path, dataset="own", needs=["keyframes"])
    with pytest.raises(MissingLabels, match="video b: captions: missing, expected a list of captions"):
        load_annotations(path, dataset="own", needs=["captions"])
    a, b = load_annotations(path, dataset="own", needs=())
    assert a.num_frames is None and b.vsum_onehot.tolist() == [[0] * 5]
