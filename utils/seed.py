"""Seeds and RNG states."""

import random
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def derive_epoch_seed(seed: int, rank: int, epoch: int) -> int:
    """Derive the seed of one epoch on one process.

    A run that resumes at the start of an epoch draws the same numbers as an uninterrupted one.
    """
    return (seed + rank + 1_000_003 * epoch) % 2**63


def get_rng_state() -> dict[str, Any]:
    """Return the RNG states of Python, NumPy and torch as plain values and tensors."""
    name, key, *rest = np.random.get_state(legacy=True)
    state = dict[str, Any](
        python=random.getstate(),
        numpy=(name, torch.from_numpy(np.asarray(key, np.int64)), *rest),
        torch=torch.get_rng_state(),
    )
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore the RNG states that `get_rng_state` returned.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError: it is not such a state.
    """
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, key, *rest = state["numpy"]
    np.random.set_state((name, key.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
