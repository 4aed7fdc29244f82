"""Made-up videos with the lengths of real ones, and a full-size model on them.

Axes: B videos, T frames, R annotators, L text tokens, D width.
"""

import pathlib
import tempfile

import numpy as np
import torch

from models.vtsum_blip import v2vt_sum

# 21 quantiles (0, 5, … 100 %) of 601 ActivityNet videos: seconds, and tokens of the reference caption with its prompt.
FRAMES = [15, 28, 38, 50, 63, 72, 81, 91, 105, 116, 125, 137, 148, 158, 167, 180, 191, 204, 215, 227, 239]
TOKENS = [21, 30, 32, 35, 37, 40, 42, 43, 45, 48, 50, 53, 56, 60, 63, 68, 74, 85, 97, 121, 128]
RANK_CORRELATION = 0.27  # longer videos have longer captions

VOCABULARY = 30524
WIDTH = 768
ANNOTATORS = 10


def draw_lengths(count, seed=0):
    """Draw lengths of videos and captions as real ones have: two (count,) integer arrays, frames and tokens."""
    rng = np.random.default_rng(seed)
    normal = rng.multivariate_normal([0, 0], [[1, RANK_CORRELATION], [RANK_CORRELATION, 1]], size=count)
    places = np.linspace(0, 1, len(FRAMES))
    shares = np.argsort(np.argsort(normal, axis=0), axis=0) / max(1, count - 1)
    return tuple(np.interp(shares[:, i], places, table).round().astype(int) for i, table in enumerate((FRAMES, TOKENS)))


def draw_videos(frames, seed=0, width=WIDTH):
    """Draw padded videos of these lengths: embeddings (B, T, D), mask (B, T), labels (B, R, T) uint8."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.as_tensor(frames)
    B, T = len(frames), int(frames.max())
    mask = (torch.arange(T) < frames[:, None]).float()
    embeddings = torch.randn(B, T, width, generator=generator) * mask[..., None]
    labels = (torch.rand(B, ANNOTATORS, T, generator=generator) < 0.15) & mask[:, None].bool()
    return embeddings, mask, labels.to(torch.uint8)


def draw_captions(tokens, model, seed=0):
    """Draw caption ids of these lengths, prompt to [SEP], padded: (B, L) int64."""
    generator = torch.Generator().manual_seed(seed)
    prompt, end = model.tokenizer.prompt_ids, model.tokenizer.end_id
    words = [torch.randint(1000, 30000, (n - len(prompt) - 1,), generator=generator).tolist() for n in tokens]
    return model.tokenizer.pad([[*prompt, *word, end] for word in words])


def full_size_model(version="vtsum_blip_tt_ca", **options):
    """Build the published model with random weights, on a vocabulary of BERT's size."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
        special |= {1037: "a", 2678: "video", 1997: "of"}
        words = [special.get(i, f"w{i}") for i in range(VOCABULARY - 2)]
        pathlib.Path(folder, "vocab.txt").write_text("\n".join(words) + "\n")
        return v2vt_sum(version, tokenizer=folder, **options)
