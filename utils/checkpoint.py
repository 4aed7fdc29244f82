"""Write files so that a reader never sees half of one, and checkpoints with them."""

import contextlib
import hashlib
import os
import pathlib

import torch

from models.weights import read_checkpoint


@contextlib.contextmanager
def replacing(path, mode="w"):
    """Open a temporary file beside `path` and rename it to `path` when the block ends without an error."""
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, mode, **({} if "b" in mode else {"encoding": "utf-8"})) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_checkpoint(path, *, model, optimizer, epoch, config):
    """Write a checkpoint in the released layout, with the optimiser beside the weights.

    Args:
        path: file to write or replace.
        model: `VTSumBLIP` (not wrapped).
        optimizer: the optimiser.
        epoch: epochs finished, counted from 0: the number of the last one.
        config: `Config`.
    """
    state = dict(model=model.state_dict(), optimizer=optimizer.state_dict(), config=config.as_dict(), epoch=epoch)
    with replacing(path, "wb") as file:
        torch.save(state, file)


def load_training_state(path, *, model, optimizer):
    """Load what `save_checkpoint` wrote into model and optimiser; returns the next epoch's number.

    Raises:
        FileNotFoundError, ValueError: no such file, or it does not fit the run.
    """
    state = read_checkpoint(path)
    missing = [key for key in ("model", "optimizer", "epoch") if not isinstance(state, dict) or key not in state]
    if missing:
        raise ValueError(f"{path}: resume: missing {', '.join(missing)}, expected the checkpoint.pth of a training run")
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    if isinstance(state["epoch"], bool) or not isinstance(state["epoch"], int) or state["epoch"] < 0:
        raise ValueError(f"{path}: resume: epoch: found {state['epoch']!r}, expected the number of the last epoch")
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    except Exception as error:  # torch checks little of an optimiser's state before it uses it
        raise ValueError(f"{path}: resume: does not fit the model ({' '.join(str(error).split())[:500]})") from None
    for group, decay in zip(optimizer.param_groups, decays):
        group["weight_decay"] = decay  # what this run was told, not what the other was
    return state["epoch"] + 1


def sha256_of(path):
    """Hex SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
