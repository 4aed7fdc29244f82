"""List of `Sample` -> padded `Batch`."""

import dataclasses
from typing import Self

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from data.dataset import Sample


@dataclasses.dataclass(frozen=True)
class Batch:
    """B videos, padded with zeros to T frames.

    The model reads lengths from `video_mask` and `caption_ids`: they stay on the host, so that this costs no host sync.

    Attributes:
        video_ids: B ids.
        indices: indices of the videos in the dataset.
        video_embeddings: (B, T, D) float32.
        video_mask: (B, T) float32, 1 = real frame; on the host.
        vsum_labels: (B, R, T), key-frames, uint8 in {0, 1}, or importance, float32 in [0, 1]. If the videos differ in
            R, float32, with rows of NaN for the annotators that a video does not have.
        captions: B texts, prompt included.
        lengths: B numbers of real frames.
        num_labels: B numbers of annotated frames, before any cut.
        caption_ids: (B, L) int64, padded with [PAD], on the host; None if the dataset does not tokenize.
        clip_vision: (B, T, C) float32, on the host; None without VT-CLIP features.
    """

    video_ids: list[str]
    indices: list[int]
    video_embeddings: torch.Tensor
    video_mask: torch.Tensor
    vsum_labels: torch.Tensor
    captions: list[str]
    lengths: list[int]
    num_labels: list[int]
    caption_ids: torch.Tensor | None = None
    clip_vision: torch.Tensor | None = None

    @property
    def tsum_labels(self) -> list[str] | torch.Tensor:
        """Captions as the model takes them: ids if the loader tokenized them, else the texts."""
        return self.captions if self.caption_ids is None else self.caption_ids

    def to(self, device: torch.device | str) -> Self:
        """Copy the tensors to a device, except those that stay on the host."""
        return dataclasses.replace(
            self,
            video_embeddings=self.video_embeddings.to(device, non_blocking=True),
            vsum_labels=self.vsum_labels.to(device, non_blocking=True),
        )

    def pin_memory(self) -> Self:
        """Pin the tensors; called by the loader."""
        return dataclasses.replace(
            self,
            video_embeddings=self.video_embeddings.pin_memory(),
            video_mask=self.video_mask.pin_memory(),
            vsum_labels=self.vsum_labels.pin_memory(),
            caption_ids=None if self.caption_ids is None else self.caption_ids.pin_memory(),
        )


def collate(samples: list[Sample], pad_id: int = 0) -> Batch:
    """Pad samples to the longest: frames, labels and features with 0, caption ids with `pad_id`."""
    embeddings = pad_sequence([s.video_embeddings for s in samples], batch_first=True)  # (B, T, D)
    lengths = [len(s.video_embeddings) for s in samples]
    mask = (torch.arange(embeddings.shape[1]) < torch.tensor(lengths)[:, None]).float()  # (B, T)
    labels = pad_sequence([rows.t() for rows in _pad_annotators(samples)], batch_first=True)  # (B, T, R)
    caption_ids = [torch.tensor(s.caption_ids) for s in samples if s.caption_ids is not None]
    clip_vision = [s.clip_vision for s in samples if s.clip_vision is not None]
    return Batch(
        video_ids=[s.video_id for s in samples],
        indices=[s.index for s in samples],
        video_embeddings=embeddings,
        video_mask=mask,
        vsum_labels=labels.transpose(1, 2).contiguous(),  # (B, R, T)
        captions=[s.caption for s in samples],
        lengths=lengths,
        num_labels=[s.num_labels for s in samples],
        caption_ids=pad_sequence(caption_ids, batch_first=True, padding_value=pad_id) if caption_ids else None,
        clip_vision=pad_sequence(clip_vision, batch_first=True) if clip_vision else None,
    )


def _pad_annotators(samples: list[Sample]) -> list[torch.Tensor]:
    """Labels (R, T) of each sample, with the same type and, by rows of NaN, the same R."""
    labels = [sample.vsum_labels for sample in samples]
    if len({(rows.dtype, len(rows)) for rows in labels}) == 1:
        return labels
    R = max(map(len, labels))
    return [F.pad(rows.float(), (0, 0, 0, R - len(rows)), value=torch.nan) for rows in labels]
