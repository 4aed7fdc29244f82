import hashlib
import json
import logging

import numpy as np
import pytest

from data.annotations import MissingLabels, fingerprint, hash_video_ids, read_subset
from data.registry import load_annotations


def make_record(video_id="v_1", duration=4.2, frames=5, **changes):
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


def make_record_without(field):
    entry = make_record()
    del entry[field]
    return entry


def make_graded(importance, **changes):
    return make_record_without("vsum_onehot") | dict(importance=importance) | changes


@pytest.fixture
def write_annotations(tmp_path):
    path = tmp_path / "train_videoxum.json"

    def to_file(content):
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return to_file


def test_videos_are_sorted_by_duration_stably(write_annotations):
    durations = dict(a=9.0, b=3.5, c=9, d=1.0, e=3.5)
    records = load_annotations(write_annotations([make_record(name, duration) for name, duration in durations.items()]))
    assert [entry.video_id for entry in records] == ["d", "b", "e", "a", "c"]
    assert [entry.index for entry in records] == [0, 1, 2, 3, 4]
    assert records[0].vsum_onehot.shape == (10, 5) and records[0].num_frames == 5
    assert records[0].tsum == ("A dog runs.", "It stops.")


def test_booleans_are_read_as_0_and_1(write_annotations):
    booleans = [[bool(value) for value in row] for row in make_record()["vsum_onehot"]]
    from_integers, from_booleans = load_annotations(
        write_annotations([make_record("a"), make_record("b", vsum_onehot=booleans)])
    )
    assert np.array_equal(from_integers.vsum_onehot, from_booleans.vsum_onehot)


@pytest.mark.parametrize("field", ["sampled_frames", "timestamps", "vsum"])
@pytest.mark.parametrize("value", [None, "x", 7, [], [1], {"a": 1}, [[0, 10**400], [0, 1]]])
def test_invalid_optional_fields_only_warn(write_annotations, field, value, caplog):
    with caplog.at_level(logging.WARNING):
        records = load_annotations(
            write_annotations([make_record(), make_record("v_2", **{field: value}), make_record("v_3", unknown=1)])
        )
    assert len(records) == 3
    if value is not None and not (field == "vsum" and value == [[0, 10**400], [0, 1]]):
        assert f"1 unexpected values in optional fields, the first: video v_2: {field}: found" in caplog.text


def test_optional_fields_may_be_missing(write_annotations, caplog):
    entry = {
        name: value for name, value in make_record().items() if name in ("video_id", "duration", "tsum", "vsum_onehot")
    }
    with caplog.at_level(logging.WARNING):
        assert len(load_annotations(write_annotations([entry]))) == 1
    assert not caplog.messages


ROWS = make_record()["vsum_onehot"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "annotations: not valid JSON"),
        ("[" * 100_000, "annotations: not valid JSON"),
        ({}, "annotations: found an object of 0, expected a list of records"),
        ([], "annotations: found a list of 0, expected a list of records"),
        ([3], "record 0: found 3, expected an object"),
        ([make_record_without("video_id")], "record 0: video_id: missing"),
        ([make_record(5)], "record 0: video_id: found 5, expected text"),
        ([make_record("")], "video_id: found '', expected a name"),
        ([make_record("../x")], "video_id: found '../x', expected a name, not a path"),
        ([make_record("a\\b")], "expected a name, not a path"),
        ([make_record("..")], "expected a name, not a path"),
        ([make_record("a\nb")], "video_id: found"),
        ([make_record(), make_record()], "video v_1: video_id: found twice, expected once"),
        ([make_record_without("duration")], "video v_1: duration: missing"),
        ([make_record(duration="4")], "video v_1: duration: found '4', expected a finite number"),
        ([make_record(duration=float("nan"))], "video v_1: duration: found nan"),
        ([make_record(duration=10**400)], "video v_1: duration: found 1000"),
        ([make_record(tsum=["\ud800"])], "annotations: not valid JSON (unexpected end of hex escape"),
        ([make_record(duration=-1)], "video v_1: duration: found -1, expected more than 0"),
        ([make_record_without("tsum")], "video v_1: tsum: missing"),
        ([make_record(tsum="A dog.")], "video v_1: tsum: found 'A dog.', expected a list"),
        ([make_record(tsum=[])], "video v_1: tsum: found a list of 0, expected at least 1 item"),
        ([make_record_without("vsum_onehot")], "video v_1: vsum_onehot: missing"),
        (
            [make_record(vsum_onehot=ROWS[:9] + [[0]])],
            "vsum_onehot: found 10 rows of 1 to 5 frames, expected one row per annotator, of the same length",
        ),
        ([make_record(vsum_onehot=[])], "vsum_onehot: found 0 rows of 0 to 0 frames"),
        ([make_record(importance=[[0.5] * 5])], "importance: found vsum_onehot too, expected one of the two"),
        ([make_graded([[0.5, 1.5]])], "importance: found 1.5, expected numbers from 0 to 1"),
        ([make_graded([[0.5, -0.1]])], "importance: found -0.1, expected numbers from 0 to 1"),
        ([make_graded([[0.5, "x"]])], "importance: found 'x', expected numbers from 0 to 1"),
        ([make_graded([[0.5], [0.5, 0.5]])], "importance: found 2 rows of 1 to 2 frames"),
        ([make_record(references=[])], "references: found a list of 0, expected at least 1 item"),
        ([make_record(references=["A dog.", 3])], "references: 1: found 3, expected text"),
        ([make_record(vsum_onehot=[[]] * 10)], "vsum_onehot: found 10 rows of 0 to 0 frames"),
        ([make_record(vsum_onehot=ROWS[:9] + [[0, 1, 2, 0, 0]])], "vsum_onehot: found 2, expected 0 and 1"),
        ([make_record(vsum_onehot=ROWS[:9] + [["0"] * 5])], "vsum_onehot: found '0', expected 0 and 1"),
        ([make_record(vsum_onehot=ROWS[:9] + [[[0]] * 5])], "vsum_onehot: found a list of 1, expected 0 and 1"),
        ([make_record(vsum_onehot=ROWS[:9] + [[0.5] * 5])], "vsum_onehot: found 0.5"),
        ([make_record(vsum_onehot=5)], "vsum_onehot: found 5, expected one row per annotator"),
    ],
)
def test_invalid_annotations_raise_one_line(write_annotations, content, message):
    path = write_annotations(content)
    with pytest.raises(ValueError) as caught:
        load_annotations(path)
    assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_file_raises(tmp_path):
    with pytest.raises(ValueError, match="annotations: found a folder, expected a file"):
        load_annotations(tmp_path)
    with pytest.raises(FileNotFoundError, match="none.json: annotations: no such file"):
        load_annotations(tmp_path / "none.json")


@pytest.mark.parametrize("R", [1, 2, 20])
def test_any_number_of_annotators(write_annotations, R, caplog):
    rows = [[int(t == r % 5) for t in range(5)] for r in range(R)]
    first, second = load_annotations(write_annotations([make_record("a"), make_record("b", vsum_onehot=rows)]))
    assert (len(first.labels), len(second.labels)) == (10, R) and second.labels.dtype == np.uint8
    assert not caplog.messages


def test_other_annotators_in_a_file_of_videoxums_size_warn(write_annotations, caplog):
    entries = [make_record(f"v{i}") for i in range(2001)]
    entries[7]["vsum_onehot"] = ROWS[:4]
    load_annotations(write_annotations(entries))
    assert "1 of 2001 videos do not have VideoXum's 10 annotators; video v7 has 4" in caplog.text


def test_graded_labels(write_annotations):
    importance = [[0, 0.25, 1, 0.5, 0.75], [1, 1, 0, 0, 0.1]]
    (record,) = load_annotations(write_annotations([make_graded(importance)]))
    assert record.vsum_onehot is None and record.num_frames == 5 and record.labels is record.importance
    assert record.labels.dtype == np.float32 and np.allclose(record.labels, importance)


def test_references_replace_the_sentences_as_captions(write_annotations):
    references = ["A dog runs.  It stops!", "The dog; it runs"]
    plain, several, only = load_annotations(
        write_annotations(
            [
                make_record("a"),
                make_record("b", references=references),
                make_record_without("tsum") | dict(video_id="c", references=references[1:]),
            ]
        )
    )
    assert plain.captions() == ["a dog runs it stops"]
    assert several.captions() == ["a dog runs it stops", "the dog it runs"] and several.tsum == plain.tsum
    assert only.captions(max_words=2) == ["the dog"] and only.tsum == ()


@pytest.mark.parametrize(
    ("field", "needs", "kind"), [("tsum", ("keyframes",), "captions"), ("vsum_onehot", ("captions",), "keyframes")]
)
def test_labels_may_be_missing_where_they_are_not_needed(write_annotations, field, needs, kind):
    path = write_annotations([make_record(), make_record_without(field) | dict(video_id="v_2")])
    first, second = load_annotations(path, needs=needs)
    assert first.has_labels(kind) and not second.has_labels(kind)
    with pytest.raises(MissingLabels, match=f"video v_2: {field}: missing, expected .*, or (references|importance)"):
        load_annotations(path)


def test_fingerprints_depend_on_all_labels(write_annotations):
    """That of records with `tsum` and `vsum_onehot` alone is the one in checkpoints of earlier versions."""
    record = make_record()
    variants = [
        record,
        record | dict(references=["A dog."]),
        record | dict(references=["A cat."]),
        make_graded([[0.0, 1, 0, 0, 0]]),
        make_graded([[0.0, 0.9, 0, 0, 0]]),
    ]
    assert len({fingerprint(load_annotations(write_annotations([entry]))) for entry in variants}) == 5
    rows = np.array(record["vsum_onehot"], np.uint8)
    expected = hashlib.sha256(repr(("v_1", ("A dog runs.", "It stops."), 5)).encode() + rows.tobytes()).hexdigest()
    assert fingerprint(load_annotations(write_annotations([record]))) == expected


def test_subset(write_annotations, tmp_path):
    path = write_annotations([make_record(name, duration) for name, duration in dict(a=9, b=3, c=5, d=1).items()])
    (tmp_path / "ids.txt").write_text("c\n\nof_another_split\n a \n")
    subset = read_subset(tmp_path / "ids.txt")
    records = load_annotations(path, subset=subset)
    assert [(record.video_id, record.index) for record in records] == [("c", 0), ("a", 1)]
    assert hash_video_ids(records) == hash_video_ids(records[::-1]) != hash_video_ids(records[:1])
    (tmp_path / "none.txt").write_text("x\ny\n")
    with pytest.raises(ValueError, match="none.txt: subset: found none of the 4 videos of .*train_videoxum.json"):
        load_annotations(path, subset=read_subset(tmp_path / "none.txt"))
    (tmp_path / "bad.txt").write_text("a\nb/c\n")
    with pytest.raises(ValueError, match="bad.txt: subset: line 2: found 'b/c', expected a video's id"):
        read_subset(tmp_path / "bad.txt")
    with pytest.raises(FileNotFoundError, match="subset: no such file"):
        read_subset(tmp_path / "missing.txt")
