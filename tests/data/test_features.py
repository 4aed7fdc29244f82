import random
import zipfile

import numpy as np
import pytest

from data.features import check_files, is_complete, load_features


def test_floating_point_arrays_become_float32(tmp_path):
    for dtype in (np.float16, np.float32, np.float64):
        np.savez(tmp_path / "v.npz", features=np.ones((3, 4), dtype))
        array = load_features(tmp_path, "v", "features", 4)
        assert array.dtype == np.float32 and array.shape == (3, 4)


def make_array_with_nan():
    array = np.ones((3, 4), np.float32)
    array[1, 2] = np.nan
    return array


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (dict(features=np.ones((3, 5), np.float32)), r"found shape \(3, 5\), expected \(frames, 4\)"),
        (dict(features=np.ones((3, 4, 1), np.float32)), r"found shape \(3, 4, 1\)"),
        (dict(features=np.ones(4, np.float32)), r"found shape \(4,\)"),
        (dict(features=np.ones((0, 4), np.float32)), r"found shape \(0, 4\)"),
        (dict(features=np.ones((3, 4), np.int64)), "found dtype int64, expected floating point"),
        (dict(features=np.array([["a"]])), "found dtype"),
        (dict(features=make_array_with_nan()), "found 1 values that are NaN or infinite"),
        (dict(vision=np.ones((3, 4))), "missing, found vision"),
        (
            dict(features=np.array([{}], dtype=object)),
            "damaged or not an .npz file .* .Object arrays cannot",
        ),
    ],
)
def test_invalid_arrays_raise(tmp_path, arrays, message):
    np.savez(tmp_path / "v_7.npz", **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        load_features(tmp_path, "v_7", "features", 4)
    assert "v_7.npz: video v_7: features: " in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04junk"])
def test_damaged_files_raise(tmp_path, content):
    (tmp_path / "v.npz").write_bytes(content)
    with pytest.raises(ValueError, match="v.npz: video v: features: damaged or not an .npz"):
        load_features(tmp_path, "v", "features", 4)


def test_truncated_flipped_and_mistyped_files_raise(tmp_path):
    path = tmp_path / "v.npz"
    np.savez(path, features=np.random.default_rng(0).random((30, 4)))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        load_features(tmp_path, "v", "features", 4)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    path.write_bytes(flipped)
    with pytest.raises(ValueError, match="damaged"):
        load_features(tmp_path, "v", "features", 4)
    with open(path, "wb") as file:
        np.save(file, np.ones((3, 4)))
    with pytest.raises(ValueError, match="damaged or not an .npz file of arrays .File is not a zip file"):
        load_features(tmp_path, "v", "features", 4)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("features.txt", "x")
    with pytest.raises(ValueError, match="missing, found features.txt"):
        load_features(tmp_path, "v", "features", 4)


def test_flipped_bytes_load_or_raise_one_line(tmp_path):
    path = tmp_path / "v.npz"
    np.savez(path, features=np.random.default_rng(0).random((3, 4)))
    whole, rng, num_errors = path.read_bytes(), random.Random(0), 0
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(damaged))] ^= rng.randint(1, 255)
        path.write_bytes(damaged)
        try:
            load_features(tmp_path, "v", "features", 4)
        except ValueError as error:
            num_errors += 1
            assert str(error).startswith(f"{path}: video v: features: ") and "\n" not in str(error)
    assert num_errors > 200


def test_archive_entries_that_are_not_arrays_raise(tmp_path):
    for name, content in (
        ("features.npy", b"text"),
        ("features", b"text"),
        ("features.npy", b"\x93NUMPY\x01\x00v\x00{"),
    ):
        with zipfile.ZipFile(tmp_path / "v.npz", "w") as file:
            file.writestr(name, content)
        with pytest.raises(ValueError, match="features: (damaged|missing, found features)"):
            load_features(tmp_path, "v", "features", 4)


def test_missing_files_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match="v.npz: video v: features: no such file"):
        load_features(tmp_path, "v", "features")
    np.savez(tmp_path / "a.npz", features=np.ones((1, 1)))
    check_files(tmp_path, ["a"], "BLIP features")
    with pytest.raises(
        FileNotFoundError, match=r"b.npz: video b: BLIP features: no such file \(and those of 1 more.*data.download"
    ):
        check_files(tmp_path, ["a", "b", "c"], "BLIP features")
    with pytest.raises(FileNotFoundError, match="none: BLIP features: no such folder"):
        check_files(tmp_path / "none", ["a"], "BLIP features")


def test_is_complete(tmp_path):
    path = tmp_path / "x.npz"
    assert not is_complete(path, {"vision": None})
    np.savez(path, vision=np.zeros((5, 3), np.float32))
    assert is_complete(path, {"vision": None}) and is_complete(path, {"vision": 5})
    assert not is_complete(path, {"vision": 6})
    assert not is_complete(path, {"vision": 5, "text": 1})
    path.write_bytes(path.read_bytes()[:-30])
    assert not is_complete(path, {"vision": None})
    rng, content = np.random.default_rng(0), bytearray(path.read_bytes() + bytes(30))
    for _ in range(300):  # any bytes give an answer and no exception
        damaged = bytearray(content)
        damaged[rng.integers(len(damaged))] = rng.integers(256)
        path.write_bytes(damaged)
        assert is_complete(path, {"vision": 5}) in (True, False)
