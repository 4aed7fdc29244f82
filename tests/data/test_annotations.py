import json
import logging

import numpy as np
import pytest

from data.annotations import load_annotations


def record(video_id="v_1", duration=4.2, frames=5, **changes):
    entry = dict(
        video_id=video_id,
        duration=duration,
        sampled_frames=frames,
        timestamps=[[0, 2.5], [2.5, 4.2]],
        tsum=["A dog runs.", "It stops."],
        vsum=[[[0, 1]] * 10] * 2,
        vsum_onehot=[[int(t == r % frames) for t in range(frames)] for r in range(10)],
    )
    return entry | changes


def without(field):
    entry = record()
    del entry[field]
    return entry


@pytest.fixture
def write(tmp_path):
    path = tmp_path / "train_videoxum.json"

    def to_file(content):
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return to_file


def test_videos_are_ordered_by_duration_and_stable(write):
    durations = dict(a=9.0, b=3.5, c=9, d=1.0, e=3.5)
    records = load_annotations(write([record(name, duration) for name, duration in durations.items()]))
    assert [r.video_id for r in records] == ["d", "b", "e", "a", "c"]
    assert [r.index for r in records] == [0, 1, 2, 3, 4]
    assert records[0].vsum_onehot.shape == (10, 5) and records[0].num_frames == 5
    assert records[0].tsum == ("A dog runs.", "It stops.")


def test_true_and_false_are_one_and_zero(write):
    flags = [[bool(value) for value in row] for row in record()["vsum_onehot"]]
    ones, words = load_annotations(write([record("a"), record("b", vsum_onehot=flags)]))
    assert np.array_equal(ones.vsum_onehot, words.vsum_onehot)


@pytest.mark.parametrize("field", ["sampled_frames", "timestamps", "vsum"])
@pytest.mark.parametrize("value", [None, "x", 7, [], [1], {"a": 1}, [[0, 10**400], [0, 1]]])
def test_strange_optional_fields_only_warn(write, field, value, caplog):
    with caplog.at_level(logging.WARNING):
        records = load_annotations(write([record(), record("v_2", **{field: value}), record("v_3", unknown=1)]))
    assert len(records) == 3
    if value is not None and not (field == "vsum" and value == [[0, 10**400], [0, 1]]):
        assert f"1 strange values in fields that are not used, the first: video v_2: {field}: found" in caplog.text


def test_optional_fields_may_be_missing(write, caplog):
    entry = {k: v for k, v in record().items() if k in ("video_id", "duration", "tsum", "vsum_onehot")}
    with caplog.at_level(logging.WARNING):
        assert len(load_annotations(write([entry]))) == 1
    assert not caplog.messages


ROWS = record()["vsum_onehot"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "annotations: not valid JSON"),
        ("[" * 100_000, "annotations: not valid JSON"),
        ({}, "annotations: found an object of 0, expected a list of records"),
        ([], "annotations: found a list of 0, expected a list of records"),
        ([3], "record 0: found 3, expected an object"),
        ([without("video_id")], "record 0: video_id: missing"),
        ([record(5)], "record 0: video_id: found 5, expected text"),
        ([record("")], "video_id: found '', expected a name"),
        ([record("../x")], "video_id: found '../x', expected a name, not a path"),
        ([record("a\\b")], "expected a name, not a path"),
        ([record("..")], "expected a name, not a path"),
        ([record("a\nb")], "video_id: found"),
        ([record(), record()], "video v_1: video_id: found twice, expected once"),
        ([without("duration")], "video v_1: duration: missing"),
        ([record(duration="4")], "video v_1: duration: found '4', expected a finite number"),
        ([record(duration=float("nan"))], "video v_1: duration: found nan"),
        ([record(duration=10**400)], "video v_1: duration: found 1000"),
        ([record(tsum=["\ud800"])], "annotations: not valid JSON (unexpected end of hex escape"),
        ([record(duration=-1)], "video v_1: duration: found -1, expected more than 0"),
        ([without("tsum")], "video v_1: tsum: missing"),
        ([record(tsum="A dog.")], "video v_1: tsum: found 'A dog.', expected a list"),
        ([record(tsum=[])], "video v_1: tsum: found a list of 0, expected at least 1 item"),
        ([without("vsum_onehot")], "video v_1: vsum_onehot: missing"),
        ([record(vsum_onehot=ROWS[:9])], "vsum_onehot: found 9 rows of 5 to 5 frames, expected 10 rows"),
        (
            [record(vsum_onehot=ROWS[:9] + [[0]])],
            "vsum_onehot: found 10 rows of 1 to 5 frames, expected 10 rows of the same length",
        ),
        ([record(vsum_onehot=[[]] * 10)], "vsum_onehot: found 10 rows of 0 to 0 frames"),
        ([record(vsum_onehot=ROWS[:9] + [[0, 1, 2, 0, 0]])], "vsum_onehot: found 2, expected 0 and 1"),
        ([record(vsum_onehot=ROWS[:9] + [["0"] * 5])], "vsum_onehot: found '0', expected 0 and 1"),
        ([record(vsum_onehot=ROWS[:9] + [[[0]] * 5])], "vsum_onehot: found a list of 1, expected 0 and 1"),
        ([record(vsum_onehot=ROWS[:9] + [[0.5] * 5])], "vsum_onehot: found 0.5"),
        ([record(vsum_onehot=5)], "vsum_onehot: found 5, expected 10 rows"),
    ],
)
def test_bad_annotations_get_one_clear_line(write, content, message):
    path = write(content)
    with pytest.raises(ValueError) as caught:
        load_annotations(path)
    assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match="annotations: found a folder, expected a file"):
        load_annotations(tmp_path)
    with pytest.raises(FileNotFoundError, match="none.json: annotations: no such file"):
        load_annotations(tmp_path / "none.json")
