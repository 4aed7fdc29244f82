"""Write files so that a reader never sees half of one, and read JSON that a stranger wrote."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import socket

import numpy as np

MOST_BYTES = 2**29  # of a JSON file; VideoXum's largest has about 2**25
MOST_DEPTH = 32


@contextlib.contextmanager
def atomic_write(path, mode="w", durable=True):
    """Open a temporary file beside `path` and rename it to `path` when the block ends without an error.

    Args:
        path: file to write or replace.
        mode: `w` for text, `wb` for bytes.
        durable: what the name then stands for is on the disk, whole: a power cut leaves the old file or the new one.
            False does not wait for the disk, for many small files that can be had again.
    Raises:
        OSError: it cannot be written; the message names `path`.
    """
    path = pathlib.Path(path)
    # The end of the name alone: the whole and more may be longer than a file system takes.
    temporary = path.with_name(f".{path.name[-40:]}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        with open(temporary, mode, **({} if "b" in mode else {"encoding": "utf-8"})) as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if durable:
            _sync_folder(path.parent)
    except OSError as error:
        raise cannot_be_written(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def cannot_be_written(path, error):
    """The `OSError` that says so in one line."""
    return OSError(f"{path}: cannot be written ({error.strerror or error})")


def _sync_folder(folder):
    """Make the names in a folder last; some file systems cannot, and say so."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def replace_hardlink(source, target):
    """Give a file a second name, replacing what has it: at once, and without its bytes twice on the disk.

    Files that are only ever replaced, never changed in place, may share them. Where the file system knows no links,
    the bytes are copied.

    Raises:
        OSError: it cannot be written; the message names `target`.
    """
    source, target = pathlib.Path(source), pathlib.Path(target)
    temporary = target.with_name(f".{target.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        os.link(source, temporary)
        os.replace(temporary, target)
        temporary.unlink(missing_ok=True)  # POSIX renames nothing where both names are one file's already
        _sync_folder(target.parent)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        with open(source, "rb") as read, atomic_write(target, "wb") as written:
            while block := read.read(2**22):
                written.write(block)


def make_folder(path, name):
    """Make an output folder, if it is not there, and return its `pathlib.Path`.

    Raises:
        ValueError: something else is there, or it cannot be made or written to; the message names the setting.
    """
    path = pathlib.Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ValueError(f"{path}: {name}: found a file, expected a folder") from None
    except OSError as error:
        raise ValueError(f"{path}: {name}: cannot be made ({error.strerror})") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise ValueError(f"{path}: {name}: found a folder that cannot be written to, expected one that can")
    return path


def remove_leftovers(folder):
    """Remove the temporary files of processes that were killed while `atomic_write` a file of this folder."""
    name = re.compile(rf"\..+\.{re.escape(socket.gethostname())}\.(\d+)\.tmp")
    for entry in os.scandir(folder):
        match = name.fullmatch(entry.name)
        if match and not _is_running(int(match[1])):
            pathlib.Path(entry.path).unlink(missing_ok=True)


def _is_running(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def sha256_of(path):
    """Hex SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path, what, most_bytes=MOST_BYTES):
    """Read a JSON file.

    Args:
        path: the file.
        what: what it is called in messages.
        most_bytes: a larger file is refused before it is read.
    Returns:
        the value; see `parse_json`.
    Raises:
        FileNotFoundError, ValueError: the message is one line that names the file.
    """
    text = read_text(path, what, most_bytes)
    try:
        return parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: {what}: not valid JSON ({error})") from None


def read_text(path, what, most_bytes=MOST_BYTES):
    """Read a UTF-8 file of at most `most_bytes`; raises as `read_json`."""
    path = pathlib.Path(path)
    try:
        with open(path, "rb") as file:
            data = file.read(most_bytes + 1)
        if len(data) > most_bytes:
            raise ValueError(f"{path}: {what}: found more than {most_bytes} bytes, expected at most so many")
        return data.decode("utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: {what}: no such file") from None
    except IsADirectoryError:
        raise ValueError(f"{path}: {what}: found a folder, expected a file") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: {what}: not UTF-8 ({error})") from None
    except OSError as error:
        raise ValueError(f"{path}: {what}: cannot be read ({error.strerror or error})") from None


def parse_json(text):
    """Parse JSON that may come from anyone.

    Raises:
        ValueError: not JSON, a name twice in one object, nested deeper than `MOST_DEPTH`, or a number of more digits
            than Python reads (4300).
    """
    if _depth(text) > MOST_DEPTH:
        raise ValueError(f"nested deeper than {MOST_DEPTH} levels")
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _object(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(repr(n)[:60] for n in names if names.count(n) > 1)} twice in one object")
    return found


def _depth(text):
    """How deep brackets nest, not counting those in strings."""
    outside = re.sub(r'"[^"\\]*(?:\\.[^"\\]*)*"?', "", text, flags=re.S)
    signs = np.frombuffer(re.sub(r"[^][{}]+", "", outside).encode(), np.uint8)
    opens = np.isin(signs, np.frombuffer(b"[{", np.uint8))
    return int(np.where(opens, 1, -1).cumsum().max(initial=0))
