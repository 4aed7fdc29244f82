"""The VideoXum data set: annotation + features + caption -> unpadded `Sample`."""

import dataclasses

import numpy as np
import torch
from torch.utils.data import Dataset

from data.annotations import fingerprint, load_annotations
from data.captions import reference_caption
from data.features import open_features, require_length


@dataclasses.dataclass(frozen=True)
class Sample:
    """One video: T frames at 1 fps, R annotators, D and C the widths of the BLIP and VT-CLIP features.

    `num_labels` is the number of annotated frames before any cut; `caption_ids` and `clip_vision` are None where
    they were not asked for.
    """

    video_id: str
    index: int
    video_embeddings: torch.Tensor  # (T, D) float32
    vsum_labels: torch.Tensor  # (R, T) uint8
    caption: str  # prompt and cleaned reference
    num_labels: int
    caption_ids: list[int] | None = None
    clip_vision: torch.Tensor | None = None  # (T, C) float32


class VideoXum(Dataset):
    """One split of VideoXum.

    Args:
        ann_file: annotation JSON of the split.
        feature_root: folder of BLIP features.
        width: D, columns the features must have.
        prompt: what every caption begins with.
        max_frames: cut videos after so many frames; None cuts nothing.
        max_words: cut captions after so many words; None cuts nothing.
        tokenize: function from a caption to its ids, so that the loader's workers do it; None leaves it out.
        clip_root: folder of VT-CLIP features to read too; None reads none. Where a video's differ in length from
            the labels, everything of that video is cut to the shorter.
        clip_width: C, columns the VT-CLIP features must have; None takes any.
    Raises:
        FileNotFoundError, ValueError: bad annotations or missing files; on reading a sample, bad features.
    """

    def __init__(
        self,
        ann_file,
        feature_root,
        *,
        width,
        prompt,
        max_frames=None,
        max_words=None,
        tokenize=None,
        clip_root=None,
        clip_width=None,
    ):
        self.records = load_annotations(ann_file)
        self.prompt, self.tokenize = prompt, tokenize
        self.max_frames, self.max_words = max_frames, max_words
        video_ids = [record.video_id for record in self.records]
        self.features = open_features(feature_root, video_ids, "features", width, "BLIP features")
        self.clip_features = None
        if clip_root is not None:
            self.clip_features = open_features(clip_root, video_ids, "vision", clip_width, "VT-CLIP features")

    def __len__(self):
        return len(self.records)

    def fingerprint(self):
        """Hex SHA-256 of the annotations."""
        return fingerprint(self.records)

    def num_frames(self, i):
        """Annotated frames of video i."""
        return self.records[i].num_frames

    def __getitem__(self, i):
        record = self.records[i]
        features = self.features.load(record.video_id)  # (T, D)
        labels = record.vsum_onehot  # (R, T)
        require_length(len(features), record, self.features.path(record.video_id))
        clip_vision, stop = None, self.max_frames
        if self.clip_features is not None:
            clip_vision = self.clip_features.load(record.video_id)  # (T', C)
            stop = min(len(clip_vision), record.num_frames, self.max_frames or record.num_frames)
            clip_vision = torch.from_numpy(clip_vision[:stop])
        caption = self.prompt + reference_caption(record.tsum, self.max_words)
        return Sample(
            video_id=record.video_id,
            index=record.index,
            video_embeddings=torch.from_numpy(features[:stop]),
            vsum_labels=torch.from_numpy(np.ascontiguousarray(labels[:, :stop])),
            caption=caption,
            num_labels=record.num_frames,
            caption_ids=None if self.tokenize is None else self.tokenize(caption),
            clip_vision=clip_vision,
        )
