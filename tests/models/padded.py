"""Padded batches through modules that work on real places only."""

from models.ragged import Ragged


def through(module, x, mask):
    """A module of `models.temporal` on padded frames: (B, T, D), (B, T) -> (B, T, D)."""
    videos = Ragged.of(mask, "mask", x.device)
    return videos.unpack(module(videos.pack(x), videos))


def caption_states(decoder, ids, attention, frames, frame_mask):
    """States of whole captions, padding included: (B, L), (B, L), (B, T, D), (B, T) -> (B, L, D_txt)."""
    B, L = ids.shape
    queries, keys = Ragged([L] * B, L, ids.device), Ragged.of(attention, "attention", ids.device)
    videos = Ragged.of(frame_mask, "frame_mask", ids.device)
    return queries.unpack(decoder(ids.flatten(), queries, keys, videos.pack(frames), videos))
