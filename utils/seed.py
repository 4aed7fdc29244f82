"""Seeding."""

import random

import numpy as np
import torch


def seed_everything(seed):
    """Seed Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def epoch_seed(seed, rank, epoch):
    """Seed of one epoch on one process.

    Each epoch starts from a seed of its own, so that a run continued at an epoch's start draws what an undisturbed
    run draws.
    """
    return (seed + rank + 1_000_003 * epoch) % 2**63
