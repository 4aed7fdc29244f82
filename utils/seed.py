"""Seeding, and the state of what was seeded."""

import random
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def epoch_seed(seed: int, rank: int, epoch: int) -> int:
    """Seed of one epoch on one process.

    Each epoch has a seed of its own, so that a run resumed at the start of an epoch draws what an uninterrupted run
    draws.
    """
    return (seed + rank + 1_000_003 * epoch) % 2**63


def random_state() -> dict[str, Any]:
    """RNG state of Python, NumPy and torch, in plain values and tensors."""
    kind, key, *rest = np.random.get_state()
    state = dict(python=random.getstate(), numpy=(kind, torch.from_numpy(key.astype(np.int64)), *rest))
    state["torch"] = torch.get_rng_state()
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Restore the RNG state that `random_state` returned.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError: it is no such state.
    """
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, key, *rest = state["numpy"]
    np.random.set_state((kind, key.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
