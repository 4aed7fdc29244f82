"""What VT-CLIP learns from: a video's key-frames, its other frames, and its text.

Axes: N videos, n frames drawn of each kind, C width of VT-CLIP's features, S side of its images.
"""

import dataclasses

import numpy as np
import torch
from torch.utils.data import Dataset

from data.annotations import fingerprint, load_annotations
from data.captions import reference_caption
from data.features import open_features
from data.video.preprocessing import preprocess
from data.video.reader import VideoFile, to_upright_rgb


@dataclasses.dataclass(frozen=True)
class PairBatch:
    """N videos; `keyframes` and `others` are their frames, `others` 0 where a video has none.

    With features, n = 1: the mean is taken before. With pixels, n frames are drawn of each kind.
    """

    keyframes: torch.Tensor  # (N, n, C) float32, or (N, n, S, S, 3) uint8
    others: torch.Tensor  # as keyframes
    has_others: torch.Tensor  # (N,) bool
    texts: list[str]
    video_ids: list[str]

    def _map(self, function):
        tensors = map(function, (self.keyframes, self.others, self.has_others))
        return PairBatch(*tensors, self.texts, self.video_ids)

    def to(self, device):
        """Copy the tensors to a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self):
        """Pin the tensors; the loader calls it."""
        return self._map(torch.Tensor.pin_memory)


class Pairs(Dataset):
    """Key-frames of one annotator, drawn anew in each epoch, against the rest of the video.

    An item is asked for by (index, epoch), so that what is drawn hangs on nothing else but the seed.

    Args:
        ann_file: annotation JSON of the split.
        seed: of the draws.
        vision_root: folder of VT-CLIP features; used where `videos` is None.
        width: C, columns that these must have.
        videos: video id -> path of the file.
        transform: `FrameTransform` of the image tower's frames; with videos.
        frames: n, with videos.
    Raises:
        FileNotFoundError, ValueError: bad annotations or missing files; on reading an item, bad features or videos.
    """

    def __init__(self, ann_file, *, seed, vision_root=None, width=None, videos=None, transform=None, frames=8):
        self.records, self.seed = load_annotations(ann_file), seed
        self.videos, self.transform, self.frames = videos, transform, frames
        if videos is None:
            video_ids = [record.video_id for record in self.records]
            self.features = open_features(vision_root, video_ids, "vision", width, "VT-CLIP features")
        else:
            missing = [record.video_id for record in self.records if record.video_id not in videos]
            if missing:
                rest = f" (and of {len(missing) - 1} more)" if len(missing) > 1 else ""
                raise FileNotFoundError(f"{ann_file}: video {missing[0]}: found no video file{rest}")

    def __len__(self):
        return len(self.records)

    def fingerprint(self):
        """Hex SHA-256 of the annotations."""
        return fingerprint(self.records)

    def __getitem__(self, place):
        """(index, epoch) -> keyframes, others (both (n, …) arrays), whether there are others, text, video id."""
        index, epoch = place
        record, rng = self.records[index], np.random.default_rng((self.seed, epoch, index))
        labels = record.vsum_onehot.astype(bool)  # (R, T)
        if self.videos is None:
            features = self.features.load(record.video_id)  # (T', C)
            T = min(len(features), labels.shape[1])
            chosen, rest = _draw(labels[:, :T], rng)
            means = [
                features[:T][rows].sum(0, keepdims=True) / np.float32(max(1, rows.sum())) for rows in (chosen, rest)
            ]
        else:
            chosen, rest = _draw(labels, rng)
            means = self._pixels(record, [_some(rows, self.frames, rng) for rows in (chosen, rest)])
        return (*map(torch.from_numpy, means), bool(rest.any()), reference_caption(record.tsum), record.video_id)

    def _pixels(self, record, kinds):
        """Decode the seconds of each kind: two arrays (n, S, S, 3) uint8, zeros for a kind without seconds."""
        wanted = sorted({int(second) for seconds in kinds for second in seconds})
        frames = VideoFile(self.videos[record.video_id]).iter_sampled_frames(record.num_frames, wanted)
        pixels = {second: preprocess(to_upright_rgb(frame), self.transform) for second, frame in frames}
        empty = np.zeros((self.frames, self.transform.size, self.transform.size, 3), np.uint8)
        return [np.stack([pixels[int(second)] for second in seconds]) if len(seconds) else empty for seconds in kinds]


def _draw(labels, rng):
    """One annotator's key-frames and the rest, (T,) bool each, of those that have both if any has.

    A video without key-frames stands for itself as a whole.
    """
    part = labels.mean(1)
    both = np.flatnonzero((part > 0) & (part < 1))
    some = both if len(both) else np.flatnonzero(part > 0)
    chosen = labels[rng.choice(some)] if len(some) else np.ones(labels.shape[1], bool)
    return chosen, ~chosen


def _some(rows, count, rng):
    """Draw `count` seconds of a kind, each once if there are enough; none if there is none."""
    seconds = np.flatnonzero(rows)
    return rng.choice(seconds, count, replace=len(seconds) < count) if len(seconds) else seconds


def collate_pairs(items):
    """List of items -> `PairBatch`."""
    keyframes, others, has_others, texts, video_ids = zip(*items)
    tensors = torch.stack(keyframes), torch.stack(others), torch.tensor(has_others)
    return PairBatch(*tensors, list(texts), list(video_ids))


class InEpoch:
    """Batches of indices -> batches of (index, epoch)."""

    def __init__(self, batches, epoch=0):
        self.batches, self.epoch = batches, epoch

    def set_epoch(self, epoch, done=0):
        """As `TrainBatches.set_epoch`."""
        self.epoch = epoch
        self.batches.set_epoch(epoch, done)

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return ([(index, self.epoch) for index in batch] for batch in self.batches)
