"""Which videos meet in a batch, and the loaders that bring them."""

import functools

import torch
from torch.utils.data import DataLoader

from data.collate import collate


class TrainBatches:
    """Shuffled batches of one process; the epoch's last incomplete batch is dropped.

    The order is drawn from seed and epoch alone; of each step's `batch_size * world_size` videos, a process gets
    its share.

    Raises:
        ValueError: there are fewer videos than one step needs.
    """

    def __init__(self, num_videos, batch_size, *, rank, world_size, seed):
        self.num_videos, self.batch_size = num_videos, batch_size
        self.rank, self.world_size, self.seed, self.epoch = rank, world_size, seed, 0
        if len(self) == 0:
            raise ValueError(
                f"batch_size: found {batch_size} on {world_size} processes, "
                f"expected at most the {num_videos} training videos in one step"
            )

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.num_videos // (self.batch_size * self.world_size)

    def __iter__(self):
        generator = torch.Generator().manual_seed((self.seed + 1_000_003 * self.epoch) % 2**63)
        order = torch.randperm(self.num_videos, generator=generator)
        steps = order[: len(self) * self.batch_size * self.world_size].view(-1, self.world_size, self.batch_size)
        yield from steps[:, self.rank].tolist()


class EvalBatches:
    """Batches formed first, in the data set's order, and then dealt to the processes: every video exactly once.

    Since the same videos meet whatever the number of processes, so are the numbers. Videos above `alone_above`
    frames stay alone: in the model their position table depends on the batch's length (QUIRK-5), and their memory
    is their own.
    """

    def __init__(self, lengths, batch_size, *, rank, world_size, alone_above):
        batches, current = [], []
        for i, length in enumerate(lengths):
            if length > alone_above:
                batches.append([i])
                continue
            current.append(i)
            if len(current) == batch_size:
                batches.append(current)
                current = []
        if current:
            batches.append(current)
        self.batches = batches[rank::world_size]

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def make_loader(dataset, batches, *, num_workers, pad_id=0, pin_memory, collate_fn=None):
    """Build a loader over the given batches of a data set; results do not depend on `num_workers`."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=min(num_workers, len(batches)),
        collate_fn=collate_fn or functools.partial(collate, pad_id=pad_id),
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0 and len(batches) > 0,
        # The loader draws a seed for its workers: not from the global generator, which dropout draws from.
        generator=torch.Generator(),
    )
