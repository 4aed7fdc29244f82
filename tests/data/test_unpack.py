import os
import stat
import zipfile

import numpy as np
import pytest

from data import unpack as module
from data.unpack import unpack


def npz(path, value, frames=3):
    np.savez(path, features=np.full((frames, 4), value, np.float32))
    return path.read_bytes()


@pytest.fixture
def zipped(tmp_path):
    """Write an archive of (name or `ZipInfo`, bytes) pairs; returns its path."""

    def write(*entries, compression=zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "a.zip", "w", compression) as archive:
            for name, data in entries:
                archive.writestr(name, data)
        return tmp_path / "a.zip"

    return write


@pytest.fixture
def data(tmp_path):
    return [npz(tmp_path / "v.npz", value) for value in range(3)]


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_files_are_found_wherever_they_lie(zipped, data, tmp_path):
    archive = zipped(
        ("x/y/blip/a.npz", data[0]),
        ("b.npz", data[1]),
        ("x/", b""),
        ("x/README.md", b"text"),
        ("__MACOSX/x/._b.npz", b"junk"),
        ("x/.hidden.npz", b"junk"),
        ("copy/a.npz", data[0]),
    )
    assert unpack(archive, tmp_path / "out") == (2, 0) and names(tmp_path / "out") == ["a.npz", "b.npz"]
    assert [(tmp_path / "out" / name).read_bytes() for name in ("a.npz", "b.npz")] == data[:2]


def test_unpacking_goes_on_and_mends(zipped, data, tmp_path, monkeypatch):
    archive, out, written = zipped(*((f"f/{name}.npz", d) for name, d in zip("abc", data))), tmp_path / "out", []
    copy = module.shutil.copyfileobj

    def interrupted(source, file, *size):
        if written:
            file.write(source.read(10))
            raise KeyboardInterrupt
        written.append(copy(source, file, *size))

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module.shutil, "copyfileobj", interrupted)
        unpack(archive, out)
    assert names(out) == ["a.npz"]  # nothing half-written
    before = os.stat(out / "a.npz").st_mtime_ns
    assert unpack(archive, out) == (2, 1) and os.stat(out / "a.npz").st_mtime_ns == before
    (out / "b.npz").write_bytes(bytes(len(data[1])))  # of the right size, as after a power cut
    assert unpack(archive, out) == (1, 2) and (out / "b.npz").read_bytes() == data[1]


def link(name):
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    "name, reason",
    [
        ("../a.npz", "../a.npz: found a path that leads outside"),
        ("x/../../a.npz", "a path that leads outside"),
        ("/etc/a.npz", "a path that leads outside"),
        ("C:\\a.npz", "a path that leads outside"),
        (link("a.npz"), "found a link or a device"),
        ("x/a\n.npz", r"a\\n.npz: found a path that leads outside, or is no path"),
        ("x/a.npz", "x/b.npz and y/b.npz of different content, expected one file of each name"),
    ],
)
def test_what_is_not_to_be_trusted_is_refused_before_anything_is_written(zipped, data, tmp_path, name, reason):
    entries = [("x/b.npz", data[0]), (name, data[1])] + ([("y/b.npz", data[2])] if name == "x/a.npz" else [])
    with pytest.raises(ValueError, match=reason):
        unpack(zipped(*entries), tmp_path / "out")
    assert names(tmp_path / "out") == []


def edited(archive, find, replace, count=-1):
    archive.write_bytes(archive.read_bytes().replace(find, replace, count))
    return archive


def test_damage_leaves_no_file(zipped, data, tmp_path):
    out = tmp_path / "out"
    whole = zipped(("a.npz", data[0]), ("b.npz", data[2]), compression=zipfile.ZIP_STORED)
    two = np.float32(2).tobytes()
    with pytest.raises(ValueError, match="a.zip: b.npz: damaged .*CRC"):
        unpack(edited(whole, two * 4, two * 3 + bytes(4), 1), out)
    assert names(out) == ["a.npz"]


def test_cut_archives_are_told_from_whole_ones(zipped, data, tmp_path):
    for compression, reason in {
        zipfile.ZIP_DEFLATED: "a.zip: damaged or not a zip archive",
        zipfile.ZIP_STORED: "a.zip: found no .npz file among 1 entries: another archive, or a cut one",  # the last .npz
    }.items():
        cut = zipped(("a.npz", data[0]), ("b.npz", data[2]), compression=compression)
        cut.write_bytes(cut.read_bytes()[:-30])
        with pytest.raises(ValueError, match=reason):
            unpack(cut, tmp_path / "out")
    assert names(tmp_path / "out") == []


def test_too_little_space_is_said_beforehand(zipped, data, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: module.shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(ValueError, match="out: found 0.00 GB free, expected 0.00 GB for"):
        unpack(zipped(("a.npz", data[0])), tmp_path / "out")
    assert names(tmp_path / "out") == []
