"""Any damage to a file gives one clear line or a correct load: never a traceback, a hang or a silent wrong number."""

import contextlib
import json
import math
import os

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.annotations import load_annotations
from data.features import PACKED_FORMAT, PackedFeatures, load_features
from engine.config import Config
from engine.predictions import read_predictions
from engine.scoring import score_predictions
from models.med_config import TextDecoderConfig
from models.weights import read_checkpoint, state_dict_of
from utils.settings import read_settings

SHARE = int(os.environ.get("VTSUM_DAMAGES", "300"))  # examples of each test; `make soak` sets more
often = settings(
    max_examples=SHARE,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# A few cuts, flips, insertions and repetitions, anywhere.
damage = st.lists(
    st.tuples(st.sampled_from(("flip", "cut", "insert", "repeat")), st.floats(0, 1), st.integers(1, 255)),
    min_size=1,
    max_size=4,
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


def damaged(data, changes):
    data = bytearray(data)
    for kind, where, value in changes:
        place = min(int(where * len(data)), max(len(data) - 1, 0))
        if kind == "flip" and data:
            data[place] ^= value
        elif kind == "cut":
            del data[place : place + value]
        elif kind == "insert":
            data[place:place] = bytes([value])
        else:
            data[place:place] = data[place : place + value]
    return bytes(data)


@contextlib.contextmanager
def one_line(path):
    """What is raised is a ValueError of one line that begins with the file."""
    try:
        yield
    except ValueError as error:
        assert str(error).startswith(str(path)), error
        assert "\n" not in str(error) and len(str(error)) < 2000


RECORD = dict(
    video_id="v_1",
    duration=3.5,
    sampled_frames=4,
    timestamps=[[0, 2], [2, 3.5]],
    tsum=["A man runs.", "He \u00fcbt."],
    vsum_onehot=[[0, 1, 1, 0]] * 10,
)
ANNOTATIONS = [RECORD, RECORD | dict(video_id="v_2", duration=2)]


def check_annotations(path):
    with one_line(path):
        records = load_annotations(path)
        entries = {entry["video_id"]: entry for entry in json.loads(path.read_text())}
        assert len(records) == len(entries)
        for record in records:  # what was loaded is what stands there
            entry = entries[record.video_id]
            assert record.duration == entry["duration"] > 0 and list(record.tsum) == entry["tsum"]
            assert record.vsum_onehot.tolist() == entry["vsum_onehot"]
            assert "/" not in record.video_id and record.video_id.isprintable()


@often
@given(damage)
def test_bytes_of_annotations(tmp_path, changes):
    path = tmp_path / "test_videoxum.json"
    path.write_bytes(damaged(json.dumps(ANNOTATIONS).encode(), changes))
    check_annotations(path)


@often
@given(st.sampled_from(sorted(RECORD)), values)
def test_values_of_annotations(tmp_path, field, value):
    path = tmp_path / "test_videoxum.json"
    path.write_text(json.dumps([RECORD | {field: value}, ANNOTATIONS[1]]))
    check_annotations(path)


@often
@given(damage)
def test_bytes_of_features(tmp_path, changes):
    path, array = tmp_path / "v.npz", np.arange(24, dtype=np.float32).reshape(6, 4)
    np.savez(path, features=array, other=array[:1])
    path.write_bytes(damaged(path.read_bytes(), changes))
    with one_line(path):
        found = load_features(tmp_path, "v", "features", 4)
        assert np.array_equal(found, array)  # the archive's checksum covers the header and every number


@often
@given(damage)
def test_bytes_of_packed_features(tmp_path, changes):
    path, array = tmp_path / "x.safetensors", np.arange(24, dtype=np.float32).reshape(6, 4)
    whole = safetensors.numpy.save({"a": array, "b": array + 1}, metadata=dict(format=PACKED_FORMAT, field="features"))
    path.write_bytes(damaged(whole, changes))
    with one_line(path):  # the format has no checksum
        features = PackedFeatures(tmp_path, "features", 4)
        assert all(features.load(video_id).shape[1] == 4 for video_id in features.videos)


YAML = "# settings\nmodel: vtsum_blip_tt_ca\ninit_lr: 2e-5\nmax_epoch: 56\nsplits: [val, test]\nprompt: 'a video of '\n"


@often
@given(damage)
def test_bytes_of_a_config(tmp_path, changes):
    path = tmp_path / "c.yaml"
    path.write_bytes(damaged(YAML.encode(), changes))
    with one_line(path):
        found = read_settings(path, Config)
        with contextlib.suppress(ValueError):  # of one field, which it names
            assert Config(**found).as_dict() == Config().as_dict() | Config(**found).as_dict()


@often
@given(st.sampled_from(sorted(Config().as_dict())), values)
def test_values_of_a_config(tmp_path, field, value):
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps({field: value}))  # JSON is YAML
    with one_line(path):
        found = read_settings(path, Config)
        try:
            config = Config(**found)
        except ValueError as error:
            assert str(error).split(":")[0] in Config().as_dict()
        else:
            expected = "" if found[field] is None else found[field]
            if isinstance(getattr(config, field), float):
                expected = float(expected)  # whole numbers above 2^53 are rounded
            assert getattr(config, field) == (tuple(expected) if isinstance(expected, list) else expected) or (
                field == "splits" and getattr(config, field) == (expected,)
            )


PREDICTION = dict(video_id="v_1", caption="a man runs", saliency=[0.5, 1.0, 0.25, 0.0], vt_clip_score=None)


@often
@given(damage, st.sampled_from(sorted(PREDICTION)), values, st.booleans())
def test_predictions(tmp_path, changes, field, value, of_bytes):
    path = tmp_path / "predictions_test.jsonl"
    line = json.dumps(PREDICTION if of_bytes else PREDICTION | {field: value}).encode() + b"\n"
    path.write_bytes(damaged(line, changes) if of_bytes else line)
    anno = tmp_path / "test_videoxum.json"
    anno.write_text(json.dumps([RECORD]))
    records = load_annotations(anno)
    with one_line(path):
        found = read_predictions(path)
        found = [entry.model_copy(update=dict(caption=None)) for entry in found]  # needs no Java
        try:
            results, _ = score_predictions(found, records)
        except ValueError as error:
            assert str(error).startswith("predictions: ") and "\n" not in str(error)
        else:
            assert all(math.isfinite(score) for score in results["metrics"].values())


STATE = {"a.weight": torch.arange(12.0).view(3, 4), "b.bias": torch.ones(5, dtype=torch.float16)}


def check_checkpoint(path):
    with one_line(path):
        checkpoint = read_checkpoint(path)
        if not isinstance(checkpoint, dict) or "model" not in checkpoint:
            return
        found = state_dict_of(checkpoint, path)
        assert all(name not in found or torch.equal(found[name], value) for name, value in STATE.items())


@often
@given(damage)
def test_bytes_of_a_checkpoint(tmp_path, changes):
    """The archive's checksums cover all that is read: what loads is what was saved."""
    path = tmp_path / "c.pth"
    torch.save(dict(model=STATE, epoch=3), path)
    path.write_bytes(damaged(path.read_bytes(), changes))
    check_checkpoint(path)


@often
@given(damage)
def test_bytes_of_safetensors(tmp_path, changes):
    path = tmp_path / "c.safetensors"
    whole = safetensors.torch.save(STATE, metadata=dict(config="{}"))
    path.write_bytes(damaged(whole, changes))
    with one_line(path):  # the format has no checksum
        state_dict_of(read_checkpoint(path), path)


@often
@given(damage)
def test_bytes_of_decoder_sizes(tmp_path, changes):
    path = tmp_path / "med.json"
    sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=50)
    path.write_bytes(damaged(json.dumps(sizes).encode(), changes))
    with one_line(path):
        assert TextDecoderConfig.from_json(path).hidden_size > 0


@pytest.mark.parametrize("text", ["[" * 10**6, '{"a":' * 10**5, "1" * 10**6, '"\\ud800"', '{"a": 1, "a": 2}', "\xff"])
def test_hostile_json(tmp_path, text):
    path = tmp_path / "test_videoxum.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match="annotations: "):
        load_annotations(path)
