"""Write files so that a reader never sees half of one, and checkpoints with them."""

import contextlib
import hashlib
import os
import pathlib
import re
import socket

import torch

from models.weights import read_checkpoint


@contextlib.contextmanager
def replacing(path, mode="w"):
    """Open a temporary file beside `path` and rename it to `path` when the block ends without an error.

    Raises:
        OSError: it cannot be written; the message names `path`.
    """
    path = pathlib.Path(path)
    # The end of the name alone: the whole and more may be longer than a file system takes.
    temporary = path.with_name(f".{path.name[-40:]}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        with open(temporary, mode, **({} if "b" in mode else {"encoding": "utf-8"})) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def make_folder(path, name):
    """Make an output folder, if it is not there, and return its `pathlib.Path`.

    Raises:
        ValueError: something else is there, or it cannot be made; the message names the setting.
    """
    path = pathlib.Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ValueError(f"{path}: {name}: found a file, expected a folder") from None
    except OSError as error:
        raise ValueError(f"{path}: {name}: cannot be made ({error.strerror})") from None
    return path


def remove_leftovers(folder):
    """Remove the temporary files of processes that were killed while `replacing` a file of this folder."""
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


def save_checkpoint(path, *, model, optimizer, scaler=None, epoch, config):
    """Write a checkpoint in the released layout, with the optimiser beside the weights.

    Args:
        path: file to write or replace.
        model: `VTSumBLIP` (not wrapped).
        optimizer: the optimiser.
        scaler: `torch.amp.GradScaler` or None; kept where it is enabled.
        epoch: epochs finished, counted from 0: the number of the last one.
        config: `Config`.
    """
    state = dict(model=model.state_dict(), optimizer=optimizer.state_dict(), config=config.as_dict(), epoch=epoch)
    if scaler is not None and scaler.is_enabled():
        state["scaler"] = scaler.state_dict()
    with replacing(path, "wb") as file:
        torch.save(state, file)


def load_training_state(path, *, model, optimizer, scaler=None):
    """Load what `save_checkpoint` wrote into model, optimiser and scaler; returns the next epoch's number.

    Raises:
        FileNotFoundError, ValueError: no such file, or it does not fit the run.
    """
    state = read_checkpoint(path)
    missing = [key for key in ("model", "optimizer", "epoch") if not isinstance(state, dict) or key not in state]
    if missing:
        raise ValueError(f"{path}: resume: missing {', '.join(missing)}, expected the checkpoint.pth of a training run")
    own = [{name: group[name] for name in ("weight_decay", "fused", "foreach")} for group in optimizer.param_groups]
    if isinstance(state["epoch"], bool) or not isinstance(state["epoch"], int) or state["epoch"] < 0:
        raise ValueError(f"{path}: resume: epoch: found {state['epoch']!r}, expected the number of the last epoch")
    try:
        model.load_state_dict(state["model"])
        for group, settings in zip(state["optimizer"]["param_groups"], own):
            group.update(settings)  # what this run was told, not what the other was
        optimizer.load_state_dict(state["optimizer"])
        if scaler is not None and scaler.is_enabled() and "scaler" in state:  # not in a checkpoint of another precision
            scaler.load_state_dict(state["scaler"])
    except Exception as error:  # torch checks little of an optimiser's state before it uses it
        raise ValueError(f"{path}: resume: does not fit the model ({' '.join(str(error).split())[:500]})") from None
    return state["epoch"] + 1


def sha256_of(path):
    """Hex SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
