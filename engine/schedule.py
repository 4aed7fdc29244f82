"""The learning rate of an epoch."""

import math


def cosine_lr(epoch, max_epoch, init_lr, min_lr):
    """Learning rate of `epoch` (0 is the first): half a cosine from `init_lr` to `min_lr`, reached at `max_epoch`."""
    return min_lr + (init_lr - min_lr) / 2 * (1 + math.cos(math.pi * epoch / max_epoch))


def set_lr(optimizer, lr):
    """Give every parameter group of the optimiser this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr
