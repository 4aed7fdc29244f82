"""Extract the `.npz` files of a zip archive into one folder, from any folders in the archive.

Only the last component of an entry's name is used; entries with paths that lead outside are refused before anything is
written. Files are written atomically.
"""

import os
import pathlib
import shutil
import stat
import zipfile
import zlib

from utils.files import atomic_write, make_folder, remove_leftovers
from utils.log import progress_bar
from utils.text import is_file_name, printable


def unpack_archive(archive: str | os.PathLike, folder: str | os.PathLike) -> tuple[int, int]:
    """Extract an archive's `.npz` files; existing ones of the same size and CRC-32 are kept.

    The same call resumes after an interruption. Files are not synced individually (for 14,001 files that took two
    thirds longer on a fast disk): the next call detects incomplete ones by their CRC-32 and writes them again.

    Args:
        archive: zip file.
        folder: target, created if missing.
    Returns:
        (written, kept): numbers of files.
    Raises:
        ValueError: no such archive, a damaged one, or one with an entry that leads outside; too little space.
        OSError: a file cannot be written.
    """
    archive, folder = pathlib.Path(archive), pathlib.Path(folder)
    try:
        zipped = zipfile.ZipFile(archive)
    except Exception as error:  # damaged bytes raise nearly anything in zipfile
        raise ValueError(f"{archive}: damaged or not a zip archive ({_brief(error)})") from None
    with zipped:
        members = find_members(zipped, archive)
        make_folder(folder, "--root")
        remove_leftovers(folder)
        with progress_bar(members.items(), True, desc=f"compare {folder.name}", unit="file") as bar:
            missing = {name: member for name, member in bar if not _is_unpacked(folder / name, member)}
        needed, free = sum(member.file_size for member in missing.values()), shutil.disk_usage(folder).free
        if needed > free:
            raise ValueError(f"{folder}: found {free / 1e9:.2f} GB free, expected {needed / 1e9:.2f} GB for {archive}")
        with progress_bar(missing.items(), True, desc=f"unpack {folder.name}", unit="file") as bar:
            for name, member in bar:
                _write(zipped, member, folder / name, archive)
    return len(missing), len(members) - len(missing)


def find_members(zipped: zipfile.ZipFile, archive: pathlib.Path) -> dict[str, zipfile.ZipInfo]:
    """Check all entries and select the `.npz` files: base name -> entry.

    Raises:
        ValueError: an entry leads outside, or is a link or a device; two have the same name and different content;
            there is no `.npz` file.
    """
    members: dict[str, zipfile.ZipInfo] = {}
    entries = zipped.infolist()
    for member in entries:
        _require_inside(member, archive)
        path = pathlib.PurePosixPath(member.filename)
        is_hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
        if member.is_dir() or path.suffix != ".npz" or is_hidden:
            continue
        other = members.setdefault(path.name, member)
        if (other.CRC, other.file_size) != (member.CRC, member.file_size):
            both = f"{printable(other.filename)} and {printable(member.filename)}"
            raise ValueError(f"{archive}: found {both} of different content, expected one file of each name")
    if not members:
        raise ValueError(
            f"{archive}: found no .npz file among {len(entries)} entries: another archive, or a truncated one"
        )
    return members


def _require_inside(member: zipfile.ZipInfo, archive: pathlib.Path) -> None:
    path = pathlib.PurePosixPath(member.filename)
    if path.is_absolute() or ".." in path.parts or set(member.filename) & set("\\:") or not is_file_name(path.name):
        problem = "a path that leads outside, or is not a path"
    elif stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        problem = "a link or a device"
    else:
        return
    raise ValueError(f"{archive}: {printable(member.filename)}: found {problem}, expected files of features")


def _is_unpacked(path: pathlib.Path, member: zipfile.ZipInfo) -> bool:
    if not path.is_file() or path.stat().st_size != member.file_size:
        return False
    return zlib.crc32(path.read_bytes()) == member.CRC


def _write(zipped: zipfile.ZipFile, member: zipfile.ZipInfo, path: pathlib.Path, archive: pathlib.Path) -> None:
    with atomic_write(path, "wb", durable=False) as file:
        try:
            with zipped.open(member) as source:  # compares the CRC-32 at the end
                shutil.copyfileobj(source, file, 2**20)
        except OSError:
            raise
        except Exception as error:
            raise ValueError(f"{archive}: {printable(member.filename)}: damaged ({_brief(error)})") from None


def _brief(error: Exception) -> str:
    return printable(" ".join(str(error).split()))[:200] or type(error).__name__
