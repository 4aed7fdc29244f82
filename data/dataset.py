"""The dataset of a split: annotations, features and captions -> unpadded `Sample`.

Axes: T frames at 1 fps, R annotators, D and C widths of BLIP's and VT-CLIP's features.
"""

import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Collection

import numpy as np
import torch
from torch.utils.data import Dataset

from data.annotations import LABEL_KINDS, LabelKind, Subset, fingerprint
from data.captions import pre_caption
from data.features import list_unlabeled, open_features, require_length
from data.registry import load_annotations


@dataclasses.dataclass(frozen=True)
class Sample:
    """One video.

    Attributes:
        video_id: its id.
        index: in the dataset.
        video_embeddings: (T, D) float32, frame features.
        vsum_labels: (R, T), the annotators' key-frames, uint8 in {0, 1}, or importance, float32 in [0, 1]; R is 0
            without labels.
        caption: prompt and cleaned reference caption, the first one if there are several; only the prompt without any.
        num_labels: number of annotated frames, before any cut; without labels, number of frames.
        caption_ids: token ids of the caption; None if the dataset does not tokenize.
        clip_vision: (T, C) float32; None without VT-CLIP features.
    """

    video_id: str
    index: int
    video_embeddings: torch.Tensor
    vsum_labels: torch.Tensor
    caption: str
    num_labels: int
    caption_ids: list[int] | None = None
    clip_vision: torch.Tensor | None = None


class VideoXum(Dataset[Sample]):
    """One split of VideoXum, or of another dataset.

    Args:
        ann_file: annotation file of the split; None: all videos of `feature_root`, without labels.
        feature_root: folder of frame features.
        dataset: format of the annotation file, a key of `DATASETS`.
        width: D, number of columns expected.
        prompt: beginning of every caption.
        max_frames: cut videos to this many frames; None does not cut.
        max_words: cut captions to this many words; None does not cut.
        tokenize: caption -> its ids, called in the loader's workers; None leaves captions as text.
        clip_root: folder of VT-CLIP features; None reads none. If a video's VT-CLIP features and labels differ in
            length, all its arrays are truncated to the shorter.
        clip_width: C, number of columns expected; None accepts any.
        needs: labels that every video must have.
        subset: restrict the split to these videos; None keeps all.
    Attributes:
        records: the annotated videos.
        subset: see above.
        num_frames: number of frames of each video, before any cut.
    Raises:
        FileNotFoundError, ValueError: invalid annotations or missing files; on reading a sample, invalid features.
    """

    def __init__(
        self,
        ann_file: str | os.PathLike | None,
        feature_root: str | os.PathLike,
        *,
        dataset: str = "videoxum",
        width: int,
        prompt: str,
        max_frames: int | None = None,
        max_words: int | None = None,
        tokenize: Callable[[str], list[int]] | None = None,
        clip_root: str | os.PathLike | None = None,
        clip_width: int | None = None,
        needs: Collection[LabelKind] = LABEL_KINDS,
        subset: Subset | None = None,
    ) -> None:
        if ann_file is None:
            self.records = list_unlabeled(feature_root, subset)
        else:
            self.records = load_annotations(ann_file, dataset=dataset, needs=needs, subset=subset)
        self.subset = subset
        self.prompt = prompt
        self.max_frames = max_frames
        self.max_words = max_words
        self.tokenize = tokenize
        video_ids = [record.video_id for record in self.records]
        self.features = open_features(feature_root, video_ids, "features", width, "frame features")
        self.clip_features = None
        if clip_root is not None:
            self.clip_features = open_features(clip_root, video_ids, "vision", clip_width, "VT-CLIP features")
        self.num_frames = [
            self.features.shape(record.video_id)[0] if record.num_frames is None else record.num_frames
            for record in self.records
        ]

    def __len__(self) -> int:
        return len(self.records)

    def fingerprint(self) -> str:
        """Hex SHA-256 of the annotations."""
        return fingerprint(self.records)

    def check_features(self, rank: int = 0, world_size: int = 1) -> None:
        """Check width and length of every `world_size`-th video's features by the headers of the files.

        Raises:
            FileNotFoundError, ValueError: as on reading the sample.
        """

        def check(index: int) -> None:
            record = self.records[index]
            num_frames, _ = self.features.shape(record.video_id)
            require_length(num_frames, record, self.features.path(record.video_id), self.max_frames)
            if self.clip_features is not None:
                self.clip_features.shape(record.video_id)

        pool = concurrent.futures.ThreadPoolExecutor()
        try:
            for _ in pool.map(check, range(rank, len(self), world_size)):
                pass
        finally:
            pool.shutdown(cancel_futures=True)  # after an error, do not read the rest

    def __getitem__(self, index: int) -> Sample:
        record, num_frames = self.records[index], self.num_frames[index]
        features = self.features.load(record.video_id)  # (T, D)
        require_length(len(features), record, self.features.path(record.video_id), self.max_frames)
        stop, clip_vision = self.max_frames, None
        if self.clip_features is not None:
            vision = self.clip_features.load(record.video_id)  # (T', C)
            stop = min(len(vision), num_frames, self.max_frames or num_frames)
            clip_vision = torch.from_numpy(vision[:stop])
        labels = record.labels if record.labels is not None else np.zeros((0, num_frames), np.uint8)
        texts = record.reference_texts
        caption = self.prompt + (pre_caption(texts[0], self.max_words) if texts else "")
        return Sample(
            video_id=record.video_id,
            index=record.index,
            video_embeddings=torch.from_numpy(features[:stop]),
            vsum_labels=torch.from_numpy(np.ascontiguousarray(labels[:, :stop])),
            caption=caption,
            num_labels=num_frames,
            caption_ids=None if self.tokenize is None else self.tokenize(caption),
            clip_vision=clip_vision,
        )
