"""Training data of VT-CLIP: a video's key-frames, its other frames, and its text.

Axes: N videos, n frames drawn of each kind, C width of VT-CLIP's features, S image side, R annotators, T frames
at 1 fps.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from data.annotations import Subset, VideoRecord, fingerprint
from data.features import NpzFeatures, PackedFeatures, open_features
from data.loaders import EvalBatchSampler, TrainBatchSampler
from data.registry import load_annotations
from data.video.preprocessing import preprocess
from data.video.reader import VideoFile, to_upright_rgb
from utils.frame_transform import FrameTransform


class VTClipSample(NamedTuple):
    """One video; shapes as in `VTClipBatch`, without N."""

    keyframes: torch.Tensor
    others: torch.Tensor
    has_others: bool
    text: str
    video_id: str


@dataclasses.dataclass(frozen=True)
class VTClipBatch:
    """N videos.

    Attributes:
        keyframes: (N, 1, C) float32 mean feature of each video's key-frames, or (N, n, S, S, 3) uint8 frames.
        others: likewise, of the other frames; 0 for a video without any.
        has_others: (N,) bool.
        texts: N texts.
        video_ids: N ids.
    """

    keyframes: torch.Tensor
    others: torch.Tensor
    has_others: torch.Tensor
    texts: list[str]
    video_ids: list[str]

    def to(self, device: torch.device | str) -> Self:
        """Copy the tensors to a device."""
        return dataclasses.replace(
            self,
            keyframes=self.keyframes.to(device, non_blocking=True),
            others=self.others.to(device, non_blocking=True),
            has_others=self.has_others.to(device, non_blocking=True),
        )

    def pin_memory(self) -> Self:
        """Pin the tensors; called by the loader."""
        return dataclasses.replace(
            self,
            keyframes=self.keyframes.pin_memory(),
            others=self.others.pin_memory(),
            has_others=self.has_others.pin_memory(),
        )


class VTClipDataset(Dataset[VTClipSample]):
    """Key-frames of an annotator, who is drawn in each epoch, and the other frames of the video.

    An item's key is (index, epoch): what is drawn depends only on seed, epoch and index.

    Args:
        ann_file: annotation file of the split.
        dataset: its format, a key of `DATASETS`.
        seed: random seed of the draws.
        select_keyframes: importance (R, T) -> key-frames (R, T), for videos whose frames are graded.
        subset: restrict the split to these videos; None keeps all.
        vision_root: folder of VT-CLIP features, used if `videos` is None.
        width: C, number of columns expected.
        videos: video id -> path of its file.
        transform: preprocessing of the image tower's frames; needed with `videos`.
        frames: n, with `videos`.
    Attributes:
        records: the annotated videos.
    Raises:
        FileNotFoundError, ValueError: invalid annotations or missing files; on reading an item, invalid features or
            videos.
    """

    def __init__(
        self,
        ann_file: str | os.PathLike,
        *,
        dataset: str = "videoxum",
        seed: int,
        select_keyframes: Callable[[np.ndarray], np.ndarray],
        subset: Subset | None = None,
        vision_root: str | os.PathLike = "",
        width: int | None = None,
        videos: Mapping[str, pathlib.Path] | None = None,
        transform: FrameTransform | None = None,
        frames: int = 8,
    ) -> None:
        self.records = load_annotations(ann_file, dataset=dataset, subset=subset)
        self.select_keyframes = select_keyframes
        self.seed = seed
        self.videos = videos
        self.transform = transform
        self.frames = frames
        self.features: NpzFeatures | PackedFeatures | None = None
        video_ids = [record.video_id for record in self.records]
        if videos is None:
            self.features = open_features(vision_root, video_ids, "vision", width, "VT-CLIP features")
            return
        missing = [video_id for video_id in video_ids if video_id not in videos]
        if missing:
            rest = f" (and of {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise FileNotFoundError(f"{ann_file}: video {missing[0]}: found no video file{rest}")

    def __len__(self) -> int:
        return len(self.records)

    def fingerprint(self) -> str:
        """Hex SHA-256 of the annotations."""
        return fingerprint(self.records)

    def __getitem__(self, key: tuple[int, int]) -> VTClipSample:
        index, epoch = key
        record = self.records[index]
        rng = np.random.default_rng((self.seed, epoch, index))
        labels = self._keyframes(record)
        if self.features is not None:
            features = self.features.load(record.video_id)  # (T', C)
            labels = labels[:, : len(features)]
            is_keyframe = _draw_keyframes(labels, rng)  # (T,)
            features = features[: len(is_keyframe)]
            keyframes, others = (_mean_feature(features, rows) for rows in (is_keyframe, ~is_keyframe))
        else:
            is_keyframe = _draw_keyframes(labels, rng)
            seconds = [_draw_seconds(rows, self.frames, rng) for rows in (is_keyframe, ~is_keyframe)]
            keyframes, others = self._decode_seconds(record.video_id, len(is_keyframe), seconds)
        return VTClipSample(
            torch.from_numpy(keyframes),
            torch.from_numpy(others),
            not is_keyframe.all(),
            record.captions()[0],
            record.video_id,
        )

    def _keyframes(self, record: VideoRecord) -> np.ndarray:
        """Key-frames of a video's annotators, (R, T) bool."""
        if record.importance is not None:
            return self.select_keyframes(record.importance).astype(bool)
        assert record.vsum_onehot is not None
        return record.vsum_onehot.astype(bool)

    def _decode_seconds(
        self, video_id: str, num_frames: int, seconds_by_kind: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Decode the seconds of each kind: (n, S, S, 3) uint8 each, zeros for a kind without seconds."""
        assert self.videos is not None and self.transform is not None
        wanted = sorted({int(second) for seconds in seconds_by_kind for second in seconds})
        frames = VideoFile(self.videos[video_id]).iter_sampled_frames(num_frames, wanted)
        pixels = {second: preprocess(to_upright_rgb(frame), self.transform) for second, frame in frames}
        empty = np.zeros((self.frames, self.transform.size, self.transform.size, 3), np.uint8)
        return [
            np.stack([pixels[int(second)] for second in seconds]) if len(seconds) else empty
            for seconds in seconds_by_kind
        ]


def _draw_keyframes(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw an annotator of (R, T) bool and return the key-frames, (T,) bool.

    Annotators with both key-frames and other frames are preferred to those with key-frames only. Without any
    key-frames, all frames are key-frames.
    """
    fraction = labels.mean(1)  # (R,)
    candidates = np.flatnonzero((fraction > 0) & (fraction < 1))
    if not len(candidates):
        candidates = np.flatnonzero(fraction > 0)
    return labels[rng.choice(candidates)] if len(candidates) else np.ones(labels.shape[1], bool)


def _mean_feature(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Mean of the rows (T,) bool of features (T, C): (1, C); 0 without rows."""
    return features[rows].sum(0, keepdims=True) / np.float32(max(1, rows.sum()))


def _draw_seconds(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `count` of the True seconds in (T,) bool, repeated only if there are fewer; (0,) if there are none."""
    seconds = np.flatnonzero(rows)
    return rng.choice(seconds, count, replace=len(seconds) < count) if len(seconds) else seconds


def collate_vt_clip(samples: list[VTClipSample]) -> VTClipBatch:
    """Stack samples."""
    return VTClipBatch(
        keyframes=torch.stack([sample.keyframes for sample in samples]),
        others=torch.stack([sample.others for sample in samples]),
        has_others=torch.tensor([sample.has_others for sample in samples]),
        texts=[sample.text for sample in samples],
        video_ids=[sample.video_id for sample in samples],
    )


class EpochIndexSampler(Sampler[list[tuple[int, int]]]):
    """Batches of indices -> batches of (index, epoch), the keys of `VTClipDataset`.

    Args:
        batch_sampler: batch sampler of indices.
    """

    def __init__(self, batch_sampler: TrainBatchSampler | EvalBatchSampler) -> None:
        self.batch_sampler = batch_sampler
        self.epoch = 0

    def set_epoch(self, epoch: int, batches_done: int = 0) -> None:
        """As `TrainBatchSampler.set_epoch`."""
        self.epoch = epoch
        if isinstance(self.batch_sampler, TrainBatchSampler):
            self.batch_sampler.set_epoch(epoch, batches_done)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return ([(index, self.epoch) for index in batch] for batch in self.batch_sampler)
