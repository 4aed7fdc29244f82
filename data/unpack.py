"""Unpack the `.npz` files of a zip archive into one folder, wherever in the archive they lie.

The archive may come from anyone: before anything is written, each entry's path, kind and sizes are looked at. A file
stands under its name only when it is whole.
"""

import pathlib
import shutil
import stat
import zipfile
import zlib

from utils.files import atomic_write, make_folder, remove_leftovers
from utils.log import progress_bar
from utils.text import printable

MOST_RATIO = 50  # features hardly compress; a bomb does, a thousandfold


def unpack(archive, folder):
    """Unpack an archive's `.npz` files; those that are there already, with the same size and CRC-32, are kept.

    The same call goes on after an interruption. The disk is not waited for after each of 14,001 files, as it is
    elsewhere (that took two thirds as long again on a fast disk): what a power cut tears, the next call finds by its
    CRC-32 and writes anew.

    Args:
        archive: zip file.
        folder: where to, made if missing.
    Returns:
        (written, kept): numbers of files.
    Raises:
        ValueError: no such archive, a damaged one, or one with an entry that is not to be trusted; too little space.
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
        with progress_bar(members.items(), True, desc=f"look at {folder.name}", unit="file") as bar:
            todo = {name: member for name, member in bar if not _is_there(folder / name, member)}
        needed, free = sum(member.file_size for member in todo.values()), shutil.disk_usage(folder).free
        if needed > free:
            raise ValueError(f"{folder}: found {free / 1e9:.2f} GB free, expected {needed / 1e9:.2f} GB for {archive}")
        with progress_bar(todo.items(), True, desc=f"unpack {folder.name}", unit="file") as bar:
            for name, member in bar:
                _write(zipped, member, folder / name, archive)
    return len(todo), len(members) - len(todo)


def find_members(zipped, archive):
    """Look at all entries and choose the `.npz` files: dictionary from base name to `ZipInfo`.

    Raises:
        ValueError: an entry lies outside, is a link or a device, is encrypted or unpacks to far too much; two have
            one name and different content; entries overlap; there are none.
    """
    found, entries = {}, zipped.infolist()
    if sum(member.compress_size for member in entries) > archive.stat().st_size:
        raise ValueError(f"{archive}: found entries that overlap")
    for member in entries:
        name = pathlib.PurePosixPath(member.filename).name
        _require_harmless(member, archive)
        parts = pathlib.PurePosixPath(member.filename).parts
        if member.is_dir() or not name.endswith(".npz") or any(p.startswith((".", "__MACOSX")) for p in parts):
            continue
        other = found.setdefault(name, member)
        if (other.CRC, other.file_size) != (member.CRC, member.file_size):
            both = f"{printable(other.filename)} and {printable(member.filename)}"
            raise ValueError(f"{archive}: found {both} of different content, expected one file of each name")
    if not found:
        raise ValueError(f"{archive}: found no .npz file among {len(entries)} entries: another archive, or a cut one")
    return found


def _require_harmless(member, archive):
    path = pathlib.PurePosixPath(member.filename)
    kind = stat.S_IFMT(member.external_attr >> 16)
    reason = None
    if path.is_absolute() or ".." in path.parts or any(sign in member.filename for sign in "\\:"):
        reason = "a path that leads outside"
    elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        reason = "a link or a device"
    elif member.flag_bits & 1:
        reason = "an encrypted file"
    elif member.file_size > 2**16 + MOST_RATIO * member.compress_size:
        reason = f"{member.file_size} bytes packed into {member.compress_size}"
    elif not path.name.isprintable():
        reason = "control signs"
    if reason:
        raise ValueError(f"{archive}: {printable(member.filename)}: found {reason}, expected plain files of features")


def _is_there(path, member):
    if not path.is_file() or path.stat().st_size != member.file_size:
        return False
    return zlib.crc32(path.read_bytes()) == member.CRC


def _write(zipped, member, path, archive):
    with atomic_write(path, "wb", durable=False) as file:
        try:
            with zipped.open(member) as source:  # which compares the CRC-32 at the end, and reads no more than declared
                shutil.copyfileobj(source, file, 2**20)
            if file.tell() != member.file_size:
                raise ValueError(f"found {file.tell()} bytes, expected {member.file_size}")
        except OSError:
            raise
        except Exception as error:
            raise ValueError(f"{archive}: {printable(member.filename)}: damaged ({_brief(error)})") from None


def _brief(error):
    return printable(" ".join(str(error).split()))[:200] or type(error).__name__
