"""Write mini VideoXum, a small dataset in the published layout: `python -m data.mini OUT [--seed 0]`.

160 videos of colored shapes with two or three events each: a shape performs an action, which has a peak. Ten simulated
annotators select frames around the peaks, with the partial agreement of real annotators. Captions follow a small
grammar. The dataset includes a tokenizer for that grammar, a small frame encoder in BLIP's layout with random weights,
and a tiny VT-CLIP.

    OUT/videos/{video_id}.mp4
    OUT/anno/{train,val,test}_videoxum.json
    OUT/tokenizer/vocab.txt
    OUT/frame_encoder.pth, OUT/vt_clip.pth

`extract_features.py` computes the features. --ready_made writes synthetic features instead of videos:

    OUT/feat/blip/{video_id}.npz            features (T, 768)
    OUT/feat/vt_clipscore/{video_id}.npz    vision (T, 512), text (1, 512)

Axes: T frames at 1 fps, R annotators, D feature width, C width of VT-CLIP's features.
"""

import json
import logging
import os
import pathlib
import string
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from data.captions import pre_caption
from data.mini.encoders import (
    CLIP_WIDTH,
    FEATURE_WIDTH,
    build_frame_encoder_state,
    build_vt_clip_state,
    compute_text_features,
    fit_image_projection,
)
from data.mini.plans import ACTIONS, COLORS, SHAPES, VideoPlan, iter_sentences, plan_videos
from data.mini.video_writer import write_videos
from data.videoxum import NUM_ANNOTATORS
from metrics.keyframes import SUMMARY_FRACTION
from models.vt_clip import VTClip, load_vt_clip
from models.weights import StateDict
from utils.files import atomic_write

logger = logging.getLogger(__name__)

SPLIT_SIZES = dict(train=96, val=24, test=40)
VOCABULARY_SIZE = 254  # with [DEC] and [ENC] the 256 of configs/med_config_mini.json
NUM_FITTING_VIDEOS = 40  # training videos that VT-CLIP is fitted to
NUM_NORM_VIDEOS = 16  # training videos that the frame encoder's last norm is fitted to


def annotate_video(plan: VideoPlan, rng: np.random.Generator) -> dict[str, Any]:
    """Simulate the annotators of a video: one record of the annotation file.

    Each annotator spends about 15% of the video in windows near the peaks, with an error of a few seconds, and skips
    some events.
    """
    onehot = np.zeros((NUM_ANNOTATORS, plan.num_frames), int)  # (R, T)
    windows: list[list[list[float]]] = [[] for _ in plan.events]  # event -> annotator -> [first, last] second
    for annotator in range(NUM_ANNOTATORS):
        is_selected = rng.random(len(plan.events)) > 0.2
        is_selected[rng.integers(len(is_selected))] = True
        width = max(1.0, SUMMARY_FRACTION * plan.num_frames / is_selected.sum())
        for index, event in enumerate(plan.events):
            if not is_selected[index]:
                windows[index].append([float(event.start), float(event.start)])
                continue
            size = min(event.stop - event.start, width * rng.uniform(0.75, 1.25))
            center = np.clip(event.peak + rng.normal(0, 1.6), event.start + size / 2, event.stop - size / 2)
            first = center - size / 2
            last = center + size / 2
            onehot[annotator, round(first) : max(round(first) + 1, round(last))] = 1
            windows[index].append([round(float(first), 2), round(float(last), 2)])
    return dict(
        video_id=plan.video_id,
        duration=plan.duration,
        sampled_frames=plan.num_frames,
        timestamps=[[event.start, event.stop] for event in plan.events],
        tsum=plan.tsum,
        vsum=windows,
        vsum_onehot=onehot.tolist(),
    )


def draw_frame_features(plan: VideoPlan, rng: np.random.Generator, directions: Mapping[str, np.ndarray]) -> np.ndarray:
    """Draw synthetic features of BLIP's width: content of each frame, strength of its event, and noise.

    Args:
        plan: plan of the video.
        rng: draws the noise.
        directions: `background`, `peak`, and each color, shape and action -> (D,).
    Returns:
        (T, D) float32.
    """
    features = 0.5 * rng.standard_normal((plan.num_frames, FEATURE_WIDTH)) + directions["background"]  # (T, D)
    for event in plan.events:
        content = directions[event.color] + directions[event.shape] + directions[event.action]
        features[event.start : event.stop] += content
        features += 1.5 * event.compute_strength(plan.frame_times)[:, None] * directions["peak"]
    return features.astype(np.float32)


def draw_clip_features(
    plan: VideoPlan, rng: np.random.Generator, text_features: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Draw synthetic VT-CLIP features: near the text feature of the event, nearest at the peak, and noise.

    Args:
        plan: plan of the video.
        rng: draws the noise.
        text_features: sentence -> (C,), of length 1.
    Returns:
        (T, C) float32.
    """
    noise = rng.standard_normal((plan.num_frames, CLIP_WIDTH)) / np.sqrt(CLIP_WIDTH)
    features = 0.7 * noise  # (T, C)
    for position, event in enumerate(plan.events):
        text_feature = text_features[event.describe(position)]
        base_strength = np.zeros(plan.num_frames)
        base_strength[event.start : event.stop] = 0.5
        strength = base_strength + event.compute_strength(plan.frame_times)
        features = features + strength[:, None] * text_feature
    return features.astype(np.float32)


def build_vocabulary() -> list[str]:
    """Build the WordPiece vocabulary of the grammar: special tokens, letters for unknown words, words, unused rest."""
    words = {word for sentence in iter_sentences() for word in pre_caption(sentence, None).split()}
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase]
    tokens += [f"##{letter}" for letter in string.ascii_lowercase]
    tokens += sorted((words | {"a", "video", "of"}) - set(tokens))
    return tokens + [f"[unused{i}]" for i in range(VOCABULARY_SIZE - len(tokens))]


def write_mini(
    out: str | os.PathLike, seed: int = 0, counts: Mapping[str, int] = SPLIT_SIZES, ready_made: bool = False
) -> None:
    """Write the dataset, its tokenizer and its encoders.

    The arguments determine all files, except for one bias in `frame_encoder.pth`: see `build_frame_encoder_state`.

    Args:
        out: root folder, created if it is missing.
        seed: random seed of the whole dataset.
        counts: split -> number of videos.
        ready_made: write synthetic features instead of videos and a frame encoder: fast, for tests.
    """
    out = pathlib.Path(out)
    for folder in ("anno", "tokenizer", *(("feat/blip", "feat/vt_clipscore") if ready_made else ("videos",))):
        (out / folder).mkdir(parents=True, exist_ok=True)
    with atomic_write(out / "tokenizer/vocab.txt") as file:
        file.write("\n".join(build_vocabulary()) + "\n")
    plans = plan_videos(seed, counts)
    all_plans = [plan for split_plans in plans.values() for plan in split_plans]
    rng = np.random.default_rng(seed + 1)
    clip_state = build_vt_clip_state(seed)
    if ready_made:
        _save_weights(out / "vt_clip.pth", clip_state)
        write_synthetic_features(out / "feat", all_plans, load_vt_clip(out / "vt_clip.pth"), rng)
    else:
        fitting_plans = plans["train"][:NUM_FITTING_VIDEOS]
        logger.info("fitting VT-CLIP")
        _save_weights(out / "vt_clip.pth", fit_image_projection(clip_state, fitting_plans))
        logger.info("fitting the frame encoder")
        _save_weights(out / "frame_encoder.pth", build_frame_encoder_state(seed, fitting_plans[:NUM_NORM_VIDEOS]))
        logger.info("rendering %d videos", len(all_plans))
        write_videos(out / "videos", all_plans)
    for split, split_plans in plans.items():
        records = [annotate_video(plan, rng) for plan in split_plans]
        with atomic_write(out / "anno" / f"{split}_videoxum.json") as file:
            json.dump(records, file)


def write_synthetic_features(
    folder: pathlib.Path, plans: Iterable[VideoPlan], clip: VTClip, rng: np.random.Generator
) -> None:
    """Write synthetic features of videos.

    Args:
        folder: existing folder that has the folders `blip` and `vt_clipscore`.
        plans: plans of the videos.
        clip: encodes the captions.
        rng: draws the features.
    """
    plans = list(plans)
    captions = {plan.video_id: pre_caption("".join(plan.tsum), None) for plan in plans}
    text_features = compute_text_features(clip, sorted({*iter_sentences(), *captions.values()}))
    names = ("background", "peak", *COLORS, *SHAPES, *ACTIONS)
    directions = dict(zip(names, rng.standard_normal((len(names), FEATURE_WIDTH))))
    for plan in plans:
        features = draw_frame_features(plan, rng, directions)
        with atomic_write(folder / "blip" / f"{plan.video_id}.npz", "wb") as file:
            np.savez(file, features=features)
        vision = draw_clip_features(plan, rng, text_features)
        text = text_features[captions[plan.video_id]][None].astype(np.float32)  # (1, C)
        with atomic_write(folder / "vt_clipscore" / f"{plan.video_id}.npz", "wb") as file:
            np.savez(file, vision=vision, text=text)


def _save_weights(path: pathlib.Path, state: StateDict) -> None:
    with atomic_write(path, "wb") as file:
        torch.save(dict(model=state), file)
