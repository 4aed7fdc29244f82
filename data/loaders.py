"""Batch samplers and loaders."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from data.collate import collate
from utils.interrupt import init_loader_worker

# With bucketing, videos are sorted by length within pools of this many batches: large enough for little padding, small
# enough to keep the order random.
POOL_BATCHES = 50


def require_full_step(batch_size: int, world_size: int, num_videos: int) -> None:
    """Raise a ValueError unless there are enough training videos for a batch of each process."""
    if batch_size * world_size > num_videos:
        raise ValueError(
            f"batch_size: found {batch_size} on {world_size} processes, expected at most the {num_videos} training "
            "videos in one step"
        )


class TrainBatchSampler(Sampler[list[int]]):
    """Shuffled batches of one process; the epoch's last incomplete batch is dropped.

    The order depends on seed and epoch only. The processes take the batches in turn, so that any number of processes
    trains on the same batches.

    Args:
        lengths: frames of each video.
        batch_size: videos per process and batch.
        rank: rank of this process.
        world_size: number of processes.
        seed: random seed of the order.
        bucketing: batch videos of similar length, within pools of `POOL_BATCHES` shuffled batches.
    Raises:
        ValueError: there are fewer videos than one batch of each process needs.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        *,
        rank: int,
        world_size: int,
        seed: int,
        bucketing: bool = False,
    ) -> None:
        self.lengths = torch.as_tensor(lengths)
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.bucketing = bucketing
        self.epoch = 0
        self.batches_done = 0
        require_full_step(batch_size, world_size, len(lengths))

    def set_epoch(self, epoch: int, batches_done: int = 0) -> None:
        """Set the epoch, and how many of its batches, of all processes together, to skip."""
        self.epoch = epoch
        self.batches_done = batches_done

    @property
    def batches_per_epoch(self) -> int:
        """Batches of a whole epoch, of all processes together."""
        return len(self.lengths) // self.batch_size // self.world_size * self.world_size

    def __len__(self) -> int:
        """Remaining batches of the epoch on this process."""
        return max(0, len(self.lengths) // self.batch_size - self.batches_done) // self.world_size

    def _batches(self, bucketing: bool) -> torch.Tensor:
        """Batches of the epoch, of all processes, in order: (batches, batch_size) int."""
        generator = torch.Generator().manual_seed((self.seed + 1_000_003 * self.epoch) % 2**63)
        order = torch.randperm(len(self.lengths), generator=generator)
        order = order[: len(order) // self.batch_size * self.batch_size]
        if bucketing:
            pools = order.split(POOL_BATCHES * self.batch_size)
            order = torch.cat([pool[self.lengths[pool].argsort(stable=True)] for pool in pools])
        batches = order.view(-1, self.batch_size)
        return batches[torch.randperm(len(batches), generator=generator)] if bucketing else batches

    def __iter__(self) -> Iterator[list[int]]:
        remaining = self._batches(self.bucketing)[self.batches_done :][: len(self) * self.world_size]
        yield from remaining[self.rank :: self.world_size].tolist()

    def padding_fraction(self, bucketing: bool) -> float:
        """Fraction of the epoch's frame slots, of all processes, that are padding, with or without bucketing."""
        lengths = self.lengths[self._batches(bucketing)]
        return 1 - (lengths.sum() / (lengths.amax(1).sum() * self.batch_size)).item()


class EvalBatchSampler(Sampler[list[int]]):
    """Batches of videos of similar length, distributed over the processes: every video exactly once.

    The batches do not depend on the number of processes, so neither do the results. Each video longer than
    `singleton_threshold` is a separate batch, because its position table depends on the padded length of the batch
    (QUIRK-5); this also limits memory.

    Args:
        lengths: frames of each video.
        batch_size: videos per batch.
        rank: rank of this process.
        world_size: number of processes.
        singleton_threshold: in frames.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, *, rank: int, world_size: int, singleton_threshold: int
    ) -> None:
        by_length = sorted(range(len(lengths)), key=lengths.__getitem__)
        short = [i for i in by_length if lengths[i] <= singleton_threshold]
        batches = [short[start : start + batch_size] for start in range(0, len(short), batch_size)]
        batches += [[i] for i in by_length[len(short) :]]
        self.batches = batches[rank::world_size]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


class ValidationBatchSampler(Sampler[list[int]]):
    """Batches of one process for the losses of a split: every video exactly once, in the same batches each epoch.

    The losses depend on the padding of a batch (QUIRK-1, QUIRK-2): to be comparable with those of the training, the
    batches are composed as those of `TrainBatchSampler`, at random or, with bucketing, by length. They do not depend on
    the number of processes. The last batch may be smaller.

    Args:
        lengths: frames of each video.
        batch_size: videos per batch.
        rank: rank of this process.
        world_size: number of processes.
        seed: random seed of the order.
        bucketing: batch videos of similar length.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        *,
        rank: int,
        world_size: int,
        seed: int,
        bucketing: bool = False,
    ) -> None:
        order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed))
        if bucketing:
            order = torch.as_tensor(lengths).argsort(stable=True)
        self.batches = [indices.tolist() for indices in order.split(batch_size)][rank::world_size]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def make_loader(
    dataset: Dataset,
    batch_sampler: Sampler[list[Any]],
    *,
    num_workers: int,
    pin_memory: bool,
    pad_id: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
) -> DataLoader:
    """Build a loader; what it returns does not depend on `num_workers`.

    Args:
        dataset: map-style dataset.
        batch_sampler: batches of its indices, with a length.
        num_workers: worker processes, at most one per batch; 0 loads in this process.
        pin_memory: copy batches to pinned memory, for asynchronous copies to a GPU.
        pad_id: id that pads captions.
        collate_fn: list of items -> batch; None is `collate`.
    """
    num_batches = len(batch_sampler)  # type: ignore[arg-type]
    return DataLoader(
        dataset,
        batch_sampler=batch_sampler,
        num_workers=min(num_workers, num_batches),
        collate_fn=collate_fn or functools.partial(collate, pad_id=pad_id),
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0 and num_batches > 0,
        # The loader draws a seed for its workers; from the global generator, it would change the random numbers of
        # dropout.
        generator=torch.Generator(),
        worker_init_fn=init_loader_worker,
    )
