"""Modules that work on packed sequences, run on padded batches."""

from models.ragged import RaggedLayout


def run_padded(module, x, mask):
    """Run a module of `models.temporal` on padded frames: (B, T, D), (B, T) -> (B, T, D)."""
    videos = RaggedLayout.from_mask(mask, "mask", x.device)
    return videos.unpack(module(videos.pack(x), videos))


def compute_caption_states(decoder, ids, attention, frames, frame_mask):
    """Compute the states of whole captions, padding included: (B, L), (B, L), (B, T, D), (B, T) -> (B, L, D_txt)."""
    B, L = ids.shape
    queries, keys = RaggedLayout([L] * B, L, ids.device), RaggedLayout.from_mask(attention, "attention", ids.device)
    videos = RaggedLayout.from_mask(frame_mask, "frame_mask", ids.device)
    return queries.unpack(decoder(ids.flatten(), queries, keys, videos.pack(frames), videos))
