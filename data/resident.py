"""Features that stay in memory: read once, not once per epoch."""

import dataclasses
import logging
import pathlib

import numpy as np
import torch

from models.ragged import to_device

logger = logging.getLogger(__name__)


class ResidentFeatures:
    """Features of some videos in one tensor, in the precision they are stored in.

    Args:
        features: `FeatureFiles` or `FeatureStore`.
        video_ids: which videos.
        device: where the tensor lies.
    Raises:
        FileNotFoundError, ValueError: features are missing or bad.
    """

    def __init__(self, features, video_ids, device):
        arrays = [torch.from_numpy(np.array(features.stored(video_id))) for video_id in video_ids]
        ends = np.cumsum([len(array) for array in arrays]).tolist()
        self.features, self.frames = features, torch.cat(arrays).to(device)  # (n, D)
        self.places = {video_id: (end - len(a), end) for video_id, a, end in zip(video_ids, arrays, ends)}

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
        self.path, self.places = resident.path, resident.places

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
    resident = ResidentFeatures(dataset.features, [record.video_id for record in dataset.records], device)
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
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
