"""Features that stay in memory: read once, not once per epoch."""

import dataclasses
import logging
import os
import pathlib

import numpy as np
import torch

from data.features import require_length
from models.ragged import to_device

logger = logging.getLogger(__name__)


class ResidentFeatures:
    """Features of a data set's videos in one tensor, in the precision they are stored in.

    Args:
        features: `FeatureFiles` or `FeatureStore`.
        records: list of `VideoRecord`.
        device: where the tensor lies.
    Raises:
        FileNotFoundError, ValueError: features are missing or bad.
    """

    def __init__(self, features, records, device):
        ends = np.cumsum([record.num_frames for record in records]).tolist()
        self.features, self.frames = features, None  # (n, D)
        self.places = {record.video_id: (end - record.num_frames, end) for record, end in zip(records, ends)}
        for record in records:
            array = torch.from_numpy(np.array(features.stored(record.video_id)))
            require_length(len(array), record, self.path(record.video_id))
            if self.frames is None:
                self.frames = torch.empty(ends[-1], array.shape[1], dtype=array.dtype, device=device)
            start, end = self.places[record.video_id]
            self.frames[start:end] = array.to(device)

    def path(self, video_id):
        """File that a video was read from."""
        return self.features.path(video_id)

    def load(self, video_id):
        """One video: (T, D) float32 on the host."""
        start, end = self.places[video_id]
        return self.frames[start:end].float().numpy()

    def complete(self, batch):
        """Put the frames into a batch that came without: (B, T, D) float32 on the device."""
        columns = torch.arange(batch.video_mask.shape[1])
        starts = torch.tensor([self.places[video_id][0] for video_id in batch.video_ids])
        mask = columns < torch.tensor(batch.lengths)[:, None]  # (B, T)
        rows = to_device(torch.where(mask, starts[:, None] + columns, 0), self.frames.device)
        frames = self.frames[rows].float() * to_device(mask, self.frames.device)[..., None]
        return dataclasses.replace(batch, video_embeddings=frames)


class OnDevice:
    """Stands for `ResidentFeatures` on a device: the loader brings frames of no width, which `complete` replaces."""

    def __init__(self, resident):
        self.path, self.places = resident.features.path, resident.places

    def load(self, video_id):
        start, end = self.places[video_id]
        return np.empty((end - start, 0), np.float32)


def keep_resident(dataset, where, device):
    """Read a data set's features now, if they fit into half of what is free.

    Args:
        dataset: `VideoXum`; reads from memory afterwards.
        where: `none`, `ram` (of each process) or `device`.
        device: the process's.
    Returns:
        function from a batch on the device to the batch with its frames.
    """
    if where == "none":
        return lambda batch: batch
    device = torch.device("cpu") if where == "ram" else torch.device(device)
    sample = dataset.features.stored(dataset.records[0].video_id)
    needed = sum(record.num_frames for record in dataset.records) * sample.shape[1] * sample.itemsize
    free = _free_bytes(device)
    if 2 * needed > free:
        logger.warning(
            "preload: %.1f GB of features do not fit into half of the %.1f GB free on %s: they are read as needed",
            needed / 1e9,
            free / 1e9,
            device,
        )
        return lambda batch: batch
    resident = ResidentFeatures(dataset.features, dataset.records, device)
    logger.info("preload: %.1f GB of features on %s", needed / 1e9, device)
    if where == "ram":
        dataset.features = resident
        return lambda batch: batch
    dataset.features = OnDevice(resident)
    return resident.complete


def _free_bytes(device):
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # the other processes here want the same
