"""Modules that work on packed sequences, run on padded batches."""

from models.ragged import RaggedLayout


def run_padded(module, x, mask):
    """Run a module of `models.temporal` on padded frames: (B, T, D), (B, T) -> (B, T, D)."""
    videos = RaggedLayout.from_mask(mask, "mask")
    return videos.unpack(module(videos.pack(x), videos))


def compute_caption_states(decoder, ids, attention, frames, frame_mask):
    """Compute the states of whole captions, padding included: (B, L), (B, L), (B, T, D), (B, T) -> (B, L, D_txt)."""
    B, L = ids.shape
    queries, keys = RaggedLayout([L] * B, L), RaggedLayout.from_mask(attention, "attention")
    videos, key_rows = RaggedLayout.from_mask(frame_mask, "frame_mask"), keys.row_indices(queries)
    return queries.unpack(decoder(ids.flatten(), queries, keys, key_rows, videos.pack(frames), videos))
