"""Which videos meet in a batch, and the loaders that bring them."""

import functools

import torch
from torch.utils.data import DataLoader

from data.collate import collate
from utils.interrupt import init_loader_worker

# Videos are sorted by length within so many batches at a time: enough for little padding, and still well mixed.
POOL_BATCHES = 50


class TrainBatches:
    """Shuffled batches of one process; the epoch's last incomplete batch is dropped.

    The order is drawn from seed and epoch alone: the batches are the same for any number of processes, which take
    them in turn.

    Args:
        lengths: frames of each video.
        batch_size: videos per process and step.
        rank, world_size: this process among all.
        seed: of the order.
        bucketing: put videos of like length together, within pools of `POOL_BATCHES` shuffled batches.

    Raises:
        ValueError: there are fewer videos than one step needs.
    """

    def __init__(self, lengths, batch_size, *, rank, world_size, seed, bucketing=False):
        self.lengths, self.batch_size, self.bucketing = torch.as_tensor(lengths), batch_size, bucketing
        self.rank, self.world_size, self.seed, self.epoch, self.done = rank, world_size, seed, 0, 0
        if len(self) == 0:
            raise ValueError(
                f"batch_size: found {batch_size} on {world_size} processes, "
                f"expected at most the {len(lengths)} training videos in one step"
            )

    def set_epoch(self, epoch, done=0):
        """Choose the epoch, and begin it after so many batches of all processes together."""
        self.epoch, self.done = epoch, done

    @property
    def batches_per_epoch(self):
        """Batches of all processes together, of a whole epoch."""
        return len(self.lengths) // self.batch_size // self.world_size * self.world_size

    def __len__(self):
        return max(0, len(self.lengths) // self.batch_size - self.done) // self.world_size

    def _batches(self, bucketing):
        """All processes' batches of the epoch, in order: (batches, batch_size)."""
        generator = torch.Generator().manual_seed((self.seed + 1_000_003 * self.epoch) % 2**63)
        order = torch.randperm(len(self.lengths), generator=generator)
        order = order[: len(order) // self.batch_size * self.batch_size]
        if bucketing:
            pools = order.split(POOL_BATCHES * self.batch_size)
            order = torch.cat([pool[self.lengths[pool].argsort(stable=True)] for pool in pools])
        batches = order.view(-1, self.batch_size)
        return batches[torch.randperm(len(batches), generator=generator)] if bucketing else batches

    def __iter__(self):
        steps = self._batches(self.bucketing)[self.done :][: len(self) * self.world_size]
        yield from steps[self.rank :: self.world_size].tolist()

    def padded_share(self, bucketing):
        """Share of the epoch's frame places, of all processes, that are padding, with bucketing or without."""
        lengths = self.lengths[self._batches(bucketing)]
        return 1 - (lengths.sum() / (lengths.amax(1).sum() * self.batch_size)).item()


class EvalBatches:
    """Batches formed first, of videos of like length, and then dealt to the processes: every video exactly once.

    Since the same videos meet whatever the number of processes, so are the numbers. Videos above `alone_above`
    frames stay alone: in the model their position table depends on the batch's length (QUIRK-5), and their memory
    is their own.
    """

    def __init__(self, lengths, batch_size, *, rank, world_size, alone_above):
        batches, current = [], []
        for i in sorted(range(len(lengths)), key=lengths.__getitem__):
            if lengths[i] > alone_above:
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
        worker_init_fn=init_loader_worker,
    )
