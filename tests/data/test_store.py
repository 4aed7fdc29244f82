import json
import pickle

import numpy as np
import pytest

from data.features import load_features, open_features
from data.pack import main as pack
from data.store import FeatureStore, verify
from tests.conftest import ROOT
from tests.processes import run


@pytest.fixture
def packed(mini_root, tmp_path):
    def build(*flags, out="packed", splits=("train", "val")):
        annotations = [str(mini_root / f"anno/{split}_videoxum.json") for split in splits]
        words = ["--features", str(mini_root / "feat/blip"), "--annotations", *annotations]
        pack([*words, "--out", str(tmp_path / out), *flags])
        return tmp_path / out

    return build


def test_packed_features_are_the_files(packed, mini_root):
    out = packed()
    assert sorted(p.name for p in out.iterdir()) == ["train.json", "train.npy", "val.json", "val.npy"]
    store = open_features(out, ["mini_train_003", "mini_val_001"], "features", 768, "BLIP features")
    assert isinstance(store, FeatureStore) and len(store.videos) == 36
    for video_id in store.videos:
        assert np.array_equal(store.load(video_id), load_features(mini_root / "feat/blip", video_id, "features"))
        assert store.path(video_id) == out / f"{video_id.split('_')[1]}.npy"
    index = json.loads((out / "train.json").read_text())
    assert index["source"] == str(mini_root / "feat/blip") and next(iter(index["videos"])) in store
    whole = np.load(out / "train.npy")
    assert whole.flags["C_CONTIGUOUS"] and len(whole) == sum(count for _, count, _ in index["videos"].values())


def test_half_precision_and_the_vision_field(packed, mini_root, tmp_path):
    half = FeatureStore(packed("--dtype", "float16"), "features")
    expected = load_features(mini_root / "feat/blip", "mini_val_000", "features")
    assert half.load("mini_val_000").dtype == np.float32 and half.stored("mini_val_000").dtype == np.float16
    assert np.array_equal(half.load("mini_val_000"), expected.astype(np.float16).astype(np.float32))
    words = ["--features", str(mini_root / "feat/vt_clipscore"), "--out", str(tmp_path / "clip"), "--field", "vision"]
    pack([*words, "--annotations", str(mini_root / "anno/val_videoxum.json")])
    clip = FeatureStore(tmp_path / "clip", "vision")
    expected = load_features(mini_root / "feat/vt_clipscore", "mini_val_000", "vision")
    assert np.array_equal(clip.load("mini_val_000"), expected)


def test_a_store_travels_to_workers_without_its_bytes(packed):
    out = packed(splits=("val",))
    store = FeatureStore(out, "features", 768)
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    again = pickle.loads(sent)
    assert np.array_equal(again.load("mini_val_000"), store.load("mini_val_000"))
    assert again.path("mini_val_000") == out / "val.npy"


def test_packing_again_never_leaves_an_old_index(packed, monkeypatch):
    out = packed(splits=("val",))
    monkeypatch.setattr("data.store.json.dump", lambda *_: 1 / 0)  # ended between the two files
    with pytest.raises(ZeroDivisionError):
        packed(splits=("val",))
    assert [path.name for path in out.iterdir()] == ["val.npy"]


def test_a_changed_byte_is_found_and_named(packed, capsys):
    out = packed(splits=("val",))
    verify(out / "val.json")
    data = bytearray((out / "val.npy").read_bytes())
    data[-5] ^= 1
    (out / "val.npy").write_bytes(data)
    status, shown = run(["python", "-m", "data.pack", "--verify", "--out", str(out)], ROOT)
    last = list(json.loads((out / "val.json").read_text())["videos"])[-1]
    assert (status, shown.strip()) == (
        2,
        f"error: {out / 'val.npy'}: video {last}: its checksum is not that of the index",
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda out: (out / "val.npy").write_bytes((out / "val.npy").read_bytes()[:-4]),
            "packed features: damaged",
        ),
        (lambda out: np.savez(open(out / "val.npy", "wb"), a=np.ones(3)), "packed features: damaged \\(an .npz file"),
        (lambda out: (out / "val.npy").write_bytes(b"nothing"), "val.npy: packed features: damaged"),
        (lambda out: (out / "val.json").write_text("{"), "val.json: packed features: not valid JSON"),
        (lambda out: (out / "val.json").write_text("[]"), "format: found 'list', expected 1"),
        (lambda out: (out / "val.json").write_text('{"format": 1, "videos": {"a": [0]}}'), "damaged index; pack"),
        (lambda out: edit_index(out, dtype="float16"), "found shape .* of float32, expected .* of float16"),
        (lambda out: edit_index(out, field="vision"), "field: found 'vision', expected 'features'"),
        (lambda out: (out / "val.npy").unlink(), "no such file"),
    ],
)
def test_damaged_stores(packed, spoil, message):
    out = packed(splits=("val",))
    spoil(out)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_features(out, ["mini_val_000"], "features", 768, "BLIP features")


def edit_index(out, **changes):
    path = out / "val.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_does_not_fit(packed, mini_root, tmp_path):
    out = packed(splits=("val",))
    with pytest.raises(FileNotFoundError, match="video mini_test_000: BLIP features: not in the packed features"):
        open_features(out, ["mini_val_000", "mini_test_000"], "features", 768, "BLIP features")
    with pytest.raises(ValueError, match="found width 768, expected 1024"):
        open_features(out, ["mini_val_000"], "features", 1024, "BLIP features")
    with pytest.raises(ValueError, match="found the folder of the features, expected another"):
        blip = str(mini_root / "feat/blip")
        pack(["--features", blip, "--out", blip, "--annotations", str(mini_root / "anno/val_videoxum.json")])


def test_values_too_large_for_half_precision_leave_nothing_behind(mini_root, tmp_path):
    source, out = tmp_path / "blip", tmp_path / "out"
    source.mkdir()
    for i in range(3):
        np.savez(source / f"mini_val_00{i}.npz", features=np.full((5, 8), 1e5 if i == 2 else 1.0, np.float32))
    words = ["--features", str(source), "--out", str(out), "--annotations", str(mini_root / "anno/val_videoxum.json")]
    with pytest.raises(ValueError, match="video mini_val_002: features: found 100000, too large for float16"):
        pack([*words, "--dtype", "float16"])
    assert not list(out.iterdir())
