"""Random videos and captions with the length distribution of real ones, and a full-size model.

Axes: B videos, T frames, R annotators, L text tokens, D width.
"""

import pathlib
import tempfile
from collections.abc import Sequence

import numpy as np
import torch

from data.videoxum import NUM_ANNOTATORS
from models.blip_decoder import BlipCaptionDecoder
from models.vtsum_blip import FEATURE_WIDTHS, VTSumBLIP, v2vt_sum

# 21 quantiles (0, 5, … 100%) of 601 ActivityNet videos: seconds, and tokens of the reference caption with its prompt.
FRAME_QUANTILES = [15, 28, 38, 50, 63, 72, 81, 91, 105, 116, 125, 137, 148, 158, 167, 180, 191, 204, 215, 227, 239]
TOKEN_QUANTILES = [21, 30, 32, 35, 37, 40, 42, 43, 45, 48, 50, 53, 56, 60, 63, 68, 74, 85, 97, 121, 128]
LENGTH_CORRELATION = 0.27  # rank correlation of a video's frames and tokens

BERT_VOCABULARY_SIZE = 30524  # with [DEC] and [ENC]
BASE_WIDTH = FEATURE_WIDTHS["base"]
FULL_SIZE_CONFIG = "configs/med_config.json"


def draw_lengths(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw the lengths of videos and captions.

    Args:
        count: number of videos.
        seed: random seed of the generator.
    Returns:
        frames and tokens: (count,) int each.
    """
    rng = np.random.default_rng(seed)
    covariance = [[1, LENGTH_CORRELATION], [LENGTH_CORRELATION, 1]]
    normal = rng.multivariate_normal([0, 0], covariance, size=count)  # (count, 2)
    ranks = np.argsort(np.argsort(normal, axis=0), axis=0) / max(1, count - 1)  # in [0, 1]
    probabilities = np.linspace(0, 1, len(FRAME_QUANTILES))
    frames = np.interp(ranks[:, 0], probabilities, FRAME_QUANTILES).round().astype(int)
    tokens = np.interp(ranks[:, 1], probabilities, TOKEN_QUANTILES).round().astype(int)
    return frames, tokens


def draw_videos(
    lengths: Sequence[int], seed: int = 0, width: int = BASE_WIDTH
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw a padded batch of videos.

    Args:
        lengths: frames of each video.
        seed: random seed of the generator.
        width: D.
    Returns:
        embeddings (B, T, D) float, mask (B, T) float, labels (B, R, T) uint8.
    """
    generator = torch.Generator().manual_seed(seed)
    frames = torch.as_tensor(lengths)
    B = len(frames)
    T = int(frames.max())
    mask = (torch.arange(T) < frames[:, None]).float()  # (B, T)
    embeddings = torch.randn(B, T, width, generator=generator) * mask[..., None]
    labels = (torch.rand(B, NUM_ANNOTATORS, T, generator=generator) < 0.15) & mask[:, None].bool()
    return embeddings, mask, labels.to(torch.uint8)


def get_blip_decoder(model: VTSumBLIP) -> BlipCaptionDecoder:
    """Return the caption decoder of a model that has BLIP's."""
    assert isinstance(model.text_decoder, BlipCaptionDecoder)
    return model.text_decoder


def draw_captions(lengths: Sequence[int], model: VTSumBLIP, seed: int = 0) -> torch.Tensor:
    """Draw a padded batch of captions: prompt, random tokens, [SEP].

    Args:
        lengths: tokens of each caption, prompt and [SEP] included.
        model: has the tokenizer.
        seed: random seed of the generator.
    Returns:
        (B, L) int64.
    """
    tokenizer = get_blip_decoder(model).tokenizer
    generator = torch.Generator().manual_seed(seed)
    prompt_ids = tokenizer.prompt_ids
    captions = []
    for length in lengths:
        token_ids = torch.randint(1000, 30000, (length - len(prompt_ids) - 1,), generator=generator)
        captions.append([*prompt_ids, *token_ids.tolist(), tokenizer.end_id])
    return tokenizer.pad(captions)


def build_full_size_model(
    version: str = "vtsum_blip_tt_ca", *, smoothing_scope: str = "published", med_config: str = FULL_SIZE_CONFIG
) -> VTSumBLIP:
    """Build the published model with random weights, on a vocabulary of BERT's size.

    Args:
        version: see `v2vt_sum`.
        smoothing_scope: see `v2vt_sum`.
        med_config: JSON file with the decoder's sizes; tests use a small one.
    """
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
        special |= {1037: "a", 2678: "video", 1997: "of"}
        words = [special.get(i, f"w{i}") for i in range(BERT_VOCABULARY_SIZE - 2)]
        pathlib.Path(folder, "vocab.txt").write_text("\n".join(words) + "\n")
        return v2vt_sum(version, tokenizer=folder, smoothing_scope=smoothing_scope, med_config=med_config)
