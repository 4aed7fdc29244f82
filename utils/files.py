"""Atomic writes, output folders, hashes, and reading of JSON with one-line errors."""

import concurrent.futures
import contextlib
import hashlib
import os
import pathlib
import re
import shutil
import socket
from collections.abc import Iterator
from typing import IO, Any

import pydantic_core


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w", durable: bool = True) -> Iterator[IO]:
    """Open a temporary file in the folder of `path`, and rename it to `path` if the block succeeds.

    Args:
        path: file to write or replace.
        mode: `w` for text, `wb` for bytes.
        durable: sync the file and its folder, so that a power failure leaves either the old or the new file. Use False
            for many small files that can be written again.
    Raises:
        OSError: the file cannot be written; the message names `path`.
    """
    path = pathlib.Path(path)
    # Only the end of the name: with the suffix, the whole name may be longer than a file system allows.
    temporary = path.with_name(f".{path.name[-40:]}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if durable:
            _sync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_error(path: str | os.PathLike, error: OSError) -> OSError:
    """Return the one-line `OSError` for a file that cannot be written."""
    return OSError(f"{path}: cannot be written ({error.strerror or error})")


def _sync_folder(folder: pathlib.Path) -> None:
    """Sync the entries of a folder; some file systems do not support it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def replace_hardlink(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Replace `target` by a hard link to `source`, atomically; copy where the file system has no links.

    Both names share the data: only for files that are replaced, never modified in place.

    Raises:
        OSError: the file cannot be written; the message names `target`.
    """
    source, target = pathlib.Path(source), pathlib.Path(target)
    temporary = target.with_name(f".{target.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        os.link(source, temporary)
        os.replace(temporary, target)
        temporary.unlink(missing_ok=True)  # POSIX renames nothing if both names already are links to one file
        _sync_folder(target.parent)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        with open(source, "rb") as reader, atomic_write(target, "wb") as writer:
            shutil.copyfileobj(reader, writer, 2**22)


def make_folder(path: str | os.PathLike, setting: str) -> pathlib.Path:
    """Create an output folder if it does not exist.

    Args:
        path: the folder.
        setting: name of its setting, for messages.
    Raises:
        ValueError: the path is a file, or the folder cannot be created or is not writable.
    """
    path = pathlib.Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ValueError(f"{path}: {setting}: found a file, expected a folder") from None
    except OSError as error:
        raise ValueError(f"{path}: {setting}: cannot be created ({error.strerror})") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise ValueError(f"{path}: {setting}: found a folder that is not writable, expected a writable one")
    return path


def require_writable(path: str | os.PathLike, setting: str) -> None:
    """Check, without creating it, that an output folder exists or can be created.

    Args:
        path: the folder.
        setting: name of its setting, for messages.
    Raises:
        ValueError: the path, or a parent, is a file or is not writable.
    """
    path = pathlib.Path(path).absolute()
    existing = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
    if not existing.is_dir():
        raise ValueError(f"{existing}: {setting}: found a file, expected a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"{existing}: {setting}: found a folder that is not writable, expected a writable one")


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Remove the temporary files of processes on this host that were killed during an `atomic_write` into a folder."""
    pattern = re.compile(rf"\..+\.{re.escape(socket.gethostname())}\.(\d+)\.tmp")
    for entry in os.scandir(os.fspath(folder)):
        match = pattern.fullmatch(entry.name)
        if match and not _is_running(int(match[1])):
            pathlib.Path(entry.path).unlink(missing_ok=True)


def _is_running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process
        return True
    return True


def compute_sha256(path: str | os.PathLike) -> str:
    """Hex SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compute_folder_sha256(folder: str | os.PathLike) -> str:
    """Hex SHA-256 over the names and contents of a folder's files, without hidden ones and subfolders.

    It is that of the output of `LC_ALL=C sha256sum -- *` in the folder.
    """
    paths = [path for path in pathlib.Path(folder).iterdir() if not path.name.startswith(".") and path.is_file()]
    paths.sort(key=lambda path: os.fsencode(path.name))
    total = hashlib.sha256()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for path, sha256 in zip(paths, pool.map(compute_sha256, paths)):
            total.update(f"{sha256}  ".encode() + os.fsencode(path.name) + b"\n")
    return total.hexdigest()


def read_json(path: str | os.PathLike, description: str) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        description: name of its content, for messages.
    Raises:
        FileNotFoundError, ValueError: the message is one line that names the file.
    """
    text = read_text(path, description)
    try:
        return parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: {description}: not valid JSON ({error})") from None


def read_text(path: str | os.PathLike, description: str) -> str:
    """Read a UTF-8 file, without a byte order mark; raises as `read_json`."""
    try:
        return pathlib.Path(path).read_bytes().decode("utf-8-sig")  # read_text would convert line endings
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: {description}: no such file") from None
    except IsADirectoryError:
        raise ValueError(f"{path}: {description}: found a folder, expected a file") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: {description}: not UTF-8 ({error})") from None
    except OSError as error:
        raise ValueError(f"{path}: {description}: cannot be read ({error.strerror or error})") from None


def parse_json(text: str) -> Any:
    """Parse JSON; NaN and Infinity are numbers, as for `json.loads`.

    Unlike for `json.loads`, a lone surrogate is an error.

    Raises:
        ValueError: not JSON, or nested too deeply.
    """
    return pydantic_core.from_json(text)
