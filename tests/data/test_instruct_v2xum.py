import json
import logging

import pytest

from data.instruct_v2xum import build_spans
from data.registry import load_annotations

ANSWER = "[<f0>]A man walks.\n[<f1>, <f2>] He runs,\n then stops.\n[<f2>][<f3>]He waves."
TOKENS = {"<f0>": 0.0, "<f1>": 2.4, "<f2>": 4, "<f3>": 6.9}


def make_record(video_id="-a_B1", answer=ANSWER, keyframes=(0, 2, 4, 6), duration=7.2, **meta):
    meta = dict(duration=duration, sampled_frames=7, token=TOKENS) | meta
    turns = [{"from": "human", "value": "Summarize."}, {"from": "gpt", "value": answer}]
    onehot = [int(t in keyframes) for t in range(7)]
    return dict(id=video_id, meta=meta, conversations=turns, vsum_onehot=onehot, other=1)


@pytest.fixture
def write_file(tmp_path):
    def write(*entries):
        (tmp_path / "v2xum.json").write_text(json.dumps(entries))
        return tmp_path / "v2xum.json"

    return write


def test_records(write_file, caplog):
    with caplog.at_level(logging.WARNING):
        first, second = load_annotations(
            write_file(make_record(), make_record("_x-", "[ <f1> ]Only one.", [2], duration=5)),
            dataset="instruct_v2xum",
        )
    assert (first.video_id, first.duration, first.index) == ("_x-", 5.0, 0)
    assert first.spans == ((0.0, 5.0),) and first.vsum_onehot.tolist() == [[0, 0, 1, 0, 0, 0, 0]]
    assert (second.video_id, second.index) == ("-a_B1", 1)
    assert second.tsum == ("A man walks.", "He runs, then stops.", "He waves.")
    assert second.references == ("A man walks. He runs, then stops. He waves.",)
    assert second.captions() == ["a man walks he runs, then stops he waves"]
    assert second.vsum_onehot.tolist() == [[1, 0, 1, 0, 1, 0, 1]]  # 6.9 is after the last frame
    assert second.spans == ((0.0, 1.2), (1.2, pytest.approx(5.45)), (pytest.approx(3.2), 7.2))
    assert not caplog.messages


def test_spans_of_key_frames_in_any_order_and_after_the_end():
    assert build_spans([[9.0], [1.0, 3.0], [30.0]], 10.0) == ((6.0, 9.5), (0.0, 6.0), (9.5, 10.0))


def test_key_frames_of_the_answer_precede_those_of_vsum_onehot(write_file, caplog):
    path = write_file(make_record("a"), make_record("b", keyframes=[0, 2, 5, 6]), make_record("c", keyframes=[]))
    records = load_annotations(path, dataset="instruct_v2xum")
    assert all(record.vsum_onehot.tolist() == [[1, 0, 1, 0, 1, 0, 1]] for record in records)
    (message,) = caplog.messages
    assert message == (
        f"{path}: in 2 videos, vsum_onehot differs from the key-frames of the answer, which are used; the first: "
        "video b: vsum_onehot: frame 4: found 0, expected 1"
    )


def change(**fields):
    return make_record() | fields


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (3, "record 0: found 3, expected an object"),
        ({}, "record 0: id: missing"),
        (make_record("a/b"), "record 0: id: found 'a/b', expected a name, not a path"),
        (change(meta=dict(duration=3, sampled_frames=7)), "video -a_B1: meta: token: missing"),
        (make_record(duration=0), "video -a_B1: meta: duration: found 0, expected more than 0"),
        (make_record(sampled_frames=7.5), "video -a_B1: meta: sampled_frames: found 7.5, expected an integer"),
        (make_record(token={"<f0>": "1"}), "video -a_B1: meta: token: <f0>: found '1', expected a finite number"),
        (make_record(token={"<f0>": -1.0}), "video -a_B1: meta: token: <f0>: found -1.0, expected at least 0"),
        (change(conversations=3), "video -a_B1: conversations: found 3, expected a list"),
        (change(conversations=[{"from": "gpt"}]), "video -a_B1: conversations: 0: value: missing"),
        (
            change(conversations=make_record()["conversations"][:1]),
            "video -a_B1: conversations: found no answer, expected a turn from gpt",
        ),
        (
            make_record(answer="[<f0>]A.\n[<f1>, <f9>]B."),
            "video -a_B1: conversations: found '<f9>', expected a key of token",
        ),
        (
            make_record(answer="A man walks."),
            "video -a_B1: conversations: found 'A man walks.', expected lines such as [<f0>]sentence",
        ),
        (make_record(answer=""), "video -a_B1: conversations: found '', expected lines such as [<f0>]sentence"),
        (make_record(answer="Here:\n[<f0>]A."), "conversations: found 'Here:', expected lines such as"),
        (make_record(answer="[<f0>]A.\n[<f1>-<f2>]B."), "conversations: found 'A.\\n[<f1>-<f2>]B.', expected lines"),
        (make_record(answer="[<f0>]\n[<f1>]B."), "found '[<f0>]' without a sentence, expected [<f0>]sentence"),
        (
            change(vsum_onehot=[0, 1]),
            "video -a_B1: vsum_onehot: found 1 rows of 2 values, expected one of 7, as in sampled_frames",
        ),
        (change(vsum_onehot=[[0] * 7] * 2), "vsum_onehot: found 2 rows of 7 values, expected one of 7"),
        (change(vsum_onehot=[0, 2, 0, 0, 0, 0, 0]), "video -a_B1: vsum_onehot: found 2, expected 0 and 1"),
        (change(vsum_onehot=None), "video -a_B1: vsum_onehot: found None, expected one row per annotator"),
    ],
)
def test_invalid_records_are_one_line(write_file, entry, message):
    path = write_file(entry)
    with pytest.raises(ValueError) as caught:
        load_annotations(path, dataset="instruct_v2xum")
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_repeated_videos_are_refused(write_file):
    with pytest.raises(ValueError, match="v2xum.json: video x: id: found twice, expected once"):
        load_annotations(write_file(make_record("x"), make_record("y"), make_record("x")), dataset="instruct_v2xum")
