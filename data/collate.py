"""List of `Sample` -> padded `Batch`."""

import dataclasses
import functools

import torch
from torch.nn.utils.rnn import pad_sequence

from data.dataset import Sample


@dataclasses.dataclass(frozen=True)
class Batch:
    """B videos padded with zeros to T frames; `video_mask` is 1 at real frames.

    What the model reads lengths from, `video_mask` and `caption_ids`, stays on the host, so that nobody has to wait for
    a device to learn them.

    `caption_ids` (padded with the tokeniser's [PAD]) and `clip_vision` are None where the data set gives none.
    """

    video_ids: list[str]
    indices: list[int]
    video_embeddings: torch.Tensor  # (B, T, D) float32
    video_mask: torch.Tensor  # (B, T) float32
    vsum_labels: torch.Tensor  # (B, R, T) uint8
    captions: list[str]
    lengths: list[int]  # real frames
    num_labels: list[int]  # annotated frames before any cut
    caption_ids: torch.Tensor | None = None  # (B, L) int64
    clip_vision: torch.Tensor | None = None  # (B, T, C) float32

    @property
    def tsum_labels(self):
        """What the model takes as captions: ids where the loader made them, else the texts."""
        return self.captions if self.caption_ids is None else self.caption_ids

    def _map(self, function, but=()):
        tensors = {k: function(v) for k, v in vars(self).items() if isinstance(v, torch.Tensor) and k not in but}
        return dataclasses.replace(self, **tensors)

    def to(self, device):
        """Copy the tensors to a device, but for those that stay on the host."""
        copy = functools.partial(torch.Tensor.to, device=device, non_blocking=True)
        return self._map(copy, but=("video_mask", "caption_ids"))

    def pin_memory(self):
        """Pin the tensors; the loader calls it."""
        return self._map(torch.Tensor.pin_memory)


def collate(samples: list[Sample], pad_id=0) -> Batch:
    """Pad samples to the longest: frames, labels and features with 0, caption ids with `pad_id`."""
    frames = pad_sequence([s.video_embeddings for s in samples], batch_first=True)  # (B, T, D)
    lengths = [len(s.video_embeddings) for s in samples]
    mask = (torch.arange(frames.shape[1]) < torch.tensor(lengths)[:, None]).float()  # (B, T)
    labels = (
        pad_sequence([s.vsum_labels.t() for s in samples], batch_first=True).transpose(1, 2).contiguous()
    )  # (B, R, T)
    ids = clip = None
    if samples[0].caption_ids is not None:
        ids = [torch.tensor(s.caption_ids) for s in samples]
        ids = pad_sequence(ids, batch_first=True, padding_value=pad_id)  # (B, L)
    if samples[0].clip_vision is not None:
        clip = pad_sequence([s.clip_vision for s in samples], batch_first=True)  # (B, T, C)
    return Batch(
        video_ids=[s.video_id for s in samples],
        indices=[s.index for s in samples],
        video_embeddings=frames,
        video_mask=mask,
        vsum_labels=labels,
        captions=[s.caption for s in samples],
        lengths=lengths,
        num_labels=[s.num_labels for s in samples],
        caption_ids=ids,
        clip_vision=clip,
    )
