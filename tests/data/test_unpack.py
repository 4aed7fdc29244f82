import os
import stat
import zipfile

import numpy as np
import pytest

from data import unpack as module
from data.unpack import unpack_archive


def make_npz(path, value, frames=3):
    np.savez(path, features=np.full((frames, 4), value, np.float32))
    return path.read_bytes()


@pytest.fixture
def write_zip(tmp_path):
    """Return a function that writes an archive of (name or `ZipInfo`, bytes) pairs and returns its path."""

    def write(*entries, compression=zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "a.zip", "w", compression) as archive:
            for name, content in entries:
                archive.writestr(name, content)
        return tmp_path / "a.zip"

    return write


@pytest.fixture
def contents(tmp_path):
    return [make_npz(tmp_path / "v.npz", value) for value in range(3)]


def list_names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_nested_files_are_unpacked_into_one_folder(write_zip, contents, tmp_path):
    archive = write_zip(
        ("x/y/blip/a.npz", contents[0]),
        ("b.npz", contents[1]),
        ("x/", b""),
        ("x/README.md", b"text"),
        ("__MACOSX/x/._b.npz", b"junk"),
        ("x/.hidden.npz", b"junk"),
        ("copy/a.npz", contents[0]),
    )
    assert unpack_archive(archive, tmp_path / "out") == (2, 0) and list_names(tmp_path / "out") == ["a.npz", "b.npz"]
    assert [(tmp_path / "out" / name).read_bytes() for name in ("a.npz", "b.npz")] == contents[:2]


def test_interrupted_unpacking_resumes_and_repairs_files(write_zip, contents, tmp_path, monkeypatch):
    archive = write_zip(*((f"f/{name}.npz", content) for name, content in zip("abc", contents)))
    out, written = tmp_path / "out", []
    copy = module.shutil.copyfileobj

    def copy_or_interrupt(source, file, *size):
        if written:
            file.write(source.read(10))
            raise KeyboardInterrupt
        written.append(copy(source, file, *size))

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module.shutil, "copyfileobj", copy_or_interrupt)
        unpack_archive(archive, out)
    assert list_names(out) == ["a.npz"]  # no partial file
    before = os.stat(out / "a.npz").st_mtime_ns
    assert unpack_archive(archive, out) == (2, 1) and os.stat(out / "a.npz").st_mtime_ns == before
    (out / "b.npz").write_bytes(bytes(len(contents[1])))  # of the right size, as after a power failure
    assert unpack_archive(archive, out) == (1, 2) and (out / "b.npz").read_bytes() == contents[1]


def make_symlink_entry(name):
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
        (make_symlink_entry("a.npz"), "found a link or a device"),
        ("x/a\n.npz", r"a\\n.npz: found a path that leads outside, or is not a path"),
        ("x/a.npz", "x/b.npz and y/b.npz of different content, expected one file of each name"),
    ],
)
def test_unsafe_archives_are_refused_before_writing(write_zip, contents, tmp_path, name, reason):
    entries = [("x/b.npz", contents[0]), (name, contents[1])]
    if name == "x/a.npz":
        entries.append(("y/b.npz", contents[2]))
    with pytest.raises(ValueError, match=reason):
        unpack_archive(write_zip(*entries), tmp_path / "out")
    assert list_names(tmp_path / "out") == []


def replace_bytes(archive, old, new, count=-1):
    archive.write_bytes(archive.read_bytes().replace(old, new, count))
    return archive


def test_damaged_entries_are_not_written(write_zip, contents, tmp_path):
    out = tmp_path / "out"
    intact = write_zip(("a.npz", contents[0]), ("b.npz", contents[2]), compression=zipfile.ZIP_STORED)
    two = np.float32(2).tobytes()
    with pytest.raises(ValueError, match="a.zip: b.npz: damaged .*CRC"):
        unpack_archive(replace_bytes(intact, two * 4, two * 3 + bytes(4), 1), out)
    assert list_names(out) == ["a.npz"]


def test_truncated_archives_raise(write_zip, contents, tmp_path):
    for compression, reason in {
        zipfile.ZIP_DEFLATED: "a.zip: damaged or not a zip archive",
        zipfile.ZIP_STORED: "a.zip: found no .npz file among 1 entries: another archive, or a truncated one",
    }.items():
        truncated = write_zip(("a.npz", contents[0]), ("b.npz", contents[2]), compression=compression)
        truncated.write_bytes(truncated.read_bytes()[:-30])
        with pytest.raises(ValueError, match=reason):
            unpack_archive(truncated, tmp_path / "out")
    assert list_names(tmp_path / "out") == []


def test_insufficient_space_raises_before_writing(write_zip, contents, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: module.shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(ValueError, match="out: found 0.00 GB free, expected 0.00 GB for"):
        unpack_archive(write_zip(("a.npz", contents[0])), tmp_path / "out")
    assert list_names(tmp_path / "out") == []
