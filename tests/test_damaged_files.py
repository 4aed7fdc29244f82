"""A damaged file gives a one-line error or loads correctly, without a traceback, a hang or wrong numbers."""

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

from data.features import PACKED_FORMAT, PackedFeatures, load_features
from data.registry import load_annotations
from engine.config import Config
from engine.predictions import read_predictions
from engine.scoring import score_predictions
from models.med_config import TextDecoderConfig
from models.weights import extract_state_dict, read_checkpoint
from utils.settings import read_settings

MAX_EXAMPLES = int(os.environ.get("VTSUM_DAMAGES", "300"))  # of each test; `make soak` sets more
fuzz = settings(
    max_examples=MAX_EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# One to four deletions, changes, insertions and repetitions of bytes at any position.
damages = st.lists(
    st.tuples(st.sampled_from(("flip", "cut", "insert", "repeat")), st.floats(0, 1), st.integers(1, 255)),
    min_size=1,
    max_size=4,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


def apply_damage(data, damage):
    data = bytearray(data)
    for kind, fraction, value in damage:
        position = min(int(fraction * len(data)), max(len(data) - 1, 0))
        if kind == "flip" and data:
            data[position] ^= value
        elif kind == "cut":
            del data[position : position + value]
        elif kind == "insert":
            data[position:position] = bytes([value])
        else:
            data[position:position] = data[position : position + value]
    return bytes(data)


@contextlib.contextmanager
def allow_one_line_error(path):
    """Allow a ValueError of one line that begins with the path, and no other exception."""
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
    with allow_one_line_error(path):
        records = load_annotations(path)
        entries = {entry["video_id"]: entry for entry in json.loads(path.read_text())}
        assert len(records) == len(entries)
        for record in records:  # loaded values equal those in the file
            entry = entries[record.video_id]
            assert record.duration == entry["duration"] > 0 and list(record.tsum) == entry["tsum"]
            assert record.vsum_onehot.tolist() == entry["vsum_onehot"]
            assert "/" not in record.video_id and record.video_id.isprintable()


@fuzz
@given(damages)
def test_damaged_bytes_of_annotations(tmp_path, damage):
    path = tmp_path / "test_videoxum.json"
    path.write_bytes(apply_damage(json.dumps(ANNOTATIONS).encode(), damage))
    check_annotations(path)


@fuzz
@given(st.sampled_from(sorted(RECORD)), json_values)
def test_random_values_in_annotations(tmp_path, field, value):
    path = tmp_path / "test_videoxum.json"
    path.write_text(json.dumps([RECORD | {field: value}, ANNOTATIONS[1]]))
    check_annotations(path)


@fuzz
@given(damages)
def test_damaged_bytes_of_features(tmp_path, damage):
    path, array = tmp_path / "v.npz", np.arange(24, dtype=np.float32).reshape(6, 4)
    np.savez(path, features=array, other=array[:1])
    path.write_bytes(apply_damage(path.read_bytes(), damage))
    with allow_one_line_error(path):
        features = load_features(tmp_path, "v", "features", 4)
        assert np.array_equal(features, array)  # the archive's checksum covers the header and every number


@fuzz
@given(damages)
def test_damaged_bytes_of_packed_features(tmp_path, damage):
    path, array = tmp_path / "x.safetensors", np.arange(24, dtype=np.float32).reshape(6, 4)
    intact = safetensors.numpy.save({"a": array, "b": array + 1}, metadata=dict(format=PACKED_FORMAT, field="features"))
    path.write_bytes(apply_damage(intact, damage))
    with allow_one_line_error(path):  # the format has no checksum
        features = PackedFeatures(tmp_path, "features", 4)
        assert all(features.load(video_id).shape[1] == 4 for video_id in features.videos)


YAML = "# settings\nmodel: vtsum_blip_tt_ca\ninit_lr: 2e-5\nmax_epoch: 56\nsplits: [val, test]\nprompt: 'a video of '\n"


@fuzz
@given(damages)
def test_damaged_bytes_of_a_config(tmp_path, damage):
    path = tmp_path / "c.yaml"
    path.write_bytes(apply_damage(YAML.encode(), damage))
    with allow_one_line_error(path):
        values = read_settings(path, Config)
        with contextlib.suppress(ValueError):  # an error in one field, which it names
            assert Config(**values).as_dict() == Config().as_dict() | Config(**values).as_dict()


@fuzz
@given(st.sampled_from(sorted(Config().as_dict())), json_values)
def test_random_values_in_a_config(tmp_path, field, value):
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps({field: value}))  # JSON is YAML
    with allow_one_line_error(path):
        values = read_settings(path, Config)
        try:
            config = Config(**values)
        except ValueError as error:
            assert str(error).split(":")[0] in Config().as_dict()
        else:
            null_value = {} if field == "ann_files" else ""
            expected = null_value if values[field] is None else values[field]
            if isinstance(getattr(config, field), float):
                expected = float(expected)  # whole numbers above 2^53 are rounded
            assert getattr(config, field) == (tuple(expected) if isinstance(expected, list) else expected) or (
                field == "splits" and getattr(config, field) == (expected,)
            )


PREDICTION = dict(video_id="v_1", caption="a man runs", saliency=[0.5, 1.0, 0.25, 0.0], vt_clip_score=None)


@fuzz
@given(damages, st.sampled_from(sorted(PREDICTION)), json_values, st.booleans())
def test_damaged_predictions(tmp_path, damage, field, value, damages_bytes):
    path = tmp_path / "predictions_test.jsonl"
    line = json.dumps(PREDICTION if damages_bytes else PREDICTION | {field: value}).encode() + b"\n"
    path.write_bytes(apply_damage(line, damage) if damages_bytes else line)
    anno = tmp_path / "test_videoxum.json"
    anno.write_text(json.dumps([RECORD]))
    records = load_annotations(anno)
    with allow_one_line_error(path):
        predictions = read_predictions(path)
        predictions = [entry.model_copy(update=dict(caption=None)) for entry in predictions]  # captions need Java
        try:
            results, _ = score_predictions(predictions, records)
        except ValueError as error:
            assert str(error).startswith("predictions: ") and "\n" not in str(error)
        else:
            assert all(math.isfinite(score) for score in results["metrics"].values())


STATE = {"a.weight": torch.arange(12.0).view(3, 4), "b.bias": torch.ones(5, dtype=torch.float16)}


def check_checkpoint(path):
    with allow_one_line_error(path):
        checkpoint = read_checkpoint(path)
        if not isinstance(checkpoint, dict) or "model" not in checkpoint:
            return
        state = extract_state_dict(checkpoint, path)
        assert all(name not in state or torch.equal(state[name], value) for name, value in STATE.items())


@fuzz
@given(damages)
def test_damaged_bytes_of_a_checkpoint(tmp_path, damage):
    """The archive's checksums cover all bytes that are read, so a file that loads has the saved values."""
    path = tmp_path / "c.pth"
    torch.save(dict(model=STATE, epoch=3), path)
    path.write_bytes(apply_damage(path.read_bytes(), damage))
    check_checkpoint(path)


@fuzz
@given(damages)
def test_damaged_bytes_of_safetensors(tmp_path, damage):
    path = tmp_path / "c.safetensors"
    intact = safetensors.torch.save(STATE, metadata=dict(config="{}"))
    path.write_bytes(apply_damage(intact, damage))
    with allow_one_line_error(path):  # the format has no checksum
        extract_state_dict(read_checkpoint(path), path)


@fuzz
@given(damages)
def test_damaged_bytes_of_decoder_sizes(tmp_path, damage):
    path = tmp_path / "med.json"
    sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=50)
    path.write_bytes(apply_damage(json.dumps(sizes).encode(), damage))
    with allow_one_line_error(path):
        assert TextDecoderConfig.from_json(path).hidden_size > 0


@pytest.mark.parametrize("text", ["[" * 10**6, '{"a":' * 10**5, "1" * 10**6, '"\\ud800"', '{"a": 1, "a": 2}', "\xff"])
def test_hostile_json(tmp_path, text):
    path = tmp_path / "test_videoxum.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match="annotations: "):
        load_annotations(path)
