import pickle
import shutil

import numpy as np
import pytest
import safetensors.numpy

from data.features import PackedFeatures, load_features, open_features
from data.pack import main as pack


@pytest.fixture
def pack_mini(mini_root, tmp_path):
    """Return a function that packs the BLIP features of mini VideoXum and returns the folder."""

    def build(*flags, out="packed", splits=("train", "val")):
        annotations = [str(mini_root / f"anno/{split}_videoxum.json") for split in splits]
        argv = ["--features", str(mini_root / "feat/blip"), "--annotations", *annotations]
        pack([*argv, "--out", str(tmp_path / out), *flags])
        return tmp_path / out

    return build


def test_packed_features_equal_npz_files(pack_mini, mini_root):
    out = pack_mini()
    assert sorted(path.name for path in out.iterdir()) == ["train.safetensors", "val.safetensors"]
    features = open_features(out, ["mini_train_003", "mini_val_001"], "features", 768, "BLIP features")
    assert isinstance(features, PackedFeatures) and len(features.videos) == 36
    for video_id in features.videos:
        assert np.array_equal(features.load(video_id), load_features(mini_root / "feat/blip", video_id, "features"))
        assert features.path(video_id) == out / f"{video_id.split('_')[1]}.safetensors"
    with safetensors.safe_open(out / "train.safetensors", framework="np") as file:
        assert file.metadata()["source"] == str(mini_root / "feat/blip") and file.metadata()["field"] == "features"
    before = (out / "val.safetensors").read_bytes()
    features.load("mini_val_001")[:] = 0
    assert (out / "val.safetensors").read_bytes() == before  # a private mapping does not write to the file


def test_float16_and_vision_field(pack_mini, mini_root, tmp_path):
    half = PackedFeatures(pack_mini("--dtype", "float16"), "features")
    expected = load_features(mini_root / "feat/blip", "mini_val_000", "features")
    assert half.load("mini_val_000").dtype == np.float32
    assert np.array_equal(half.load("mini_val_000"), expected.astype(np.float16).astype(np.float32))
    argv = ["--features", str(mini_root / "feat/vt_clipscore"), "--out", str(tmp_path / "clip"), "--field", "vision"]
    pack([*argv, "--annotations", str(mini_root / "anno/val_videoxum.json")])
    clip = PackedFeatures(tmp_path / "clip", "vision")
    expected = load_features(mini_root / "feat/vt_clipscore", "mini_val_000", "vision")
    assert np.array_equal(clip.load("mini_val_000"), expected)


def test_pickled_features_do_not_contain_arrays(pack_mini):
    out = pack_mini(splits=("val",))
    features = PackedFeatures(out, "features", 768)
    pickled = pickle.dumps(features)
    assert len(pickled) < 1000
    unpickled = pickle.loads(pickled)
    assert np.array_equal(unpickled.load("mini_val_000"), features.load("mini_val_000"))
    assert unpickled.path("mini_val_000") == out / "val.safetensors"


def test_provenance_is_copied(pack_mini, mini_root, tmp_path):
    source = shutil.copytree(mini_root / "feat/blip", tmp_path / "blip")
    (source / "extraction.json").write_text("{}")
    annotations = str(mini_root / "anno/val_videoxum.json")
    pack(["--features", str(source), "--out", str(tmp_path / "out"), "--annotations", annotations])
    assert (tmp_path / "out/extraction.json").read_text() == "{}"
    # extraction.json is not read as an index.
    open_features(tmp_path / "out", ["mini_val_000"], "features", 768, "BLIP features")


def save_tensors(path, tensors, **metadata):
    safetensors.numpy.save_file(tensors, path, metadata=dict(format="packed features 2", field="features") | metadata)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-4]), "packed features: damaged .*; pack the features again"),
        (lambda path: path.write_bytes(b"nothing"), "val.safetensors: packed features: damaged"),
        (
            lambda path: save_tensors(path, {"a": np.ones((1, 768))}, format="1"),
            "format: found '1', expected 'packed features",
        ),
        (lambda path: safetensors.numpy.save_file({"a": np.ones((1, 768))}, path), "format: found None, expected"),
        (
            lambda path: save_tensors(path, {"a": np.ones((1, 768))}, field="vision"),
            "found 'vision', expected 'features'",
        ),
        (
            lambda path: save_tensors(path, {"a": np.ones(768)}),
            r"video a: found float64 \(768,\), expected float",
        ),
        (
            lambda path: save_tensors(path, {"a": np.ones((1, 768), int)}),
            r"video a: found int64 \(1, 768\), expected float",
        ),
        (
            lambda path: shutil.copy(path, path.with_stem("x")),
            "x.safetensors: .* video mini_val_000: found in",
        ),
        (lambda path: path.unlink(), "no such file"),
    ],
)
def test_invalid_packed_files_raise(pack_mini, damage, message):
    out = pack_mini(splits=("val",))
    damage(out / "val.safetensors")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_features(out, ["mini_val_000"], "features", 768, "BLIP features")


def test_missing_videos_wrong_width_and_same_folder_raise(pack_mini, mini_root):
    out = pack_mini(splits=("val",))
    with pytest.raises(FileNotFoundError, match="video mini_test_000: BLIP features: not in the packed features"):
        open_features(out, ["mini_val_000", "mini_test_000"], "features", 768, "BLIP features")
    with pytest.raises(ValueError, match=r"found float32 \([0-9]+, 768\), expected float \(frames, 1024\)"):
        open_features(out, ["mini_val_000"], "features", 1024, "BLIP features")
    with pytest.raises(ValueError, match="found the folder of the features, expected another"):
        blip = str(mini_root / "feat/blip")
        pack(["--features", blip, "--out", blip, "--annotations", str(mini_root / "anno/val_videoxum.json")])


def test_failed_packing_leaves_no_files(mini_root, tmp_path):
    source, out = tmp_path / "blip", tmp_path / "out"
    source.mkdir()
    for i in range(3):
        np.savez(source / f"mini_val_00{i}.npz", features=np.full((5, 8), 1e5 if i == 2 else 1.0, np.float32))
    argv = ["--features", str(source), "--out", str(out), "--annotations", str(mini_root / "anno/val_videoxum.json")]
    with pytest.raises(ValueError, match="video mini_val_002: features: found 100000, too large for float16"):
        pack([*argv, "--dtype", "float16"])
    np.savez(source / "mini_val_000.npz", features=np.ones((5, 9), np.float32))
    with pytest.raises(ValueError, match="blip: features: found widths 8 to 9, expected one"):
        pack(argv)
    assert not list(out.iterdir())
