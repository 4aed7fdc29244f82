"""Scores of predictions in the space of VT-CLIP: VT-CLIPScore, F_CLIP and Cross-F_CLIP.

Axes: T frames at 1 fps, C width of VT-CLIP's features.
"""

import dataclasses
import os
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch

from data.annotations import LABEL_KINDS, LabelKind, VideoRecord
from data.features import open_features
from engine.predictions import Prediction
from engine.provenance import encoder_label, read_encoder
from engine.scoring import build_labels
from metrics.alignment import clip_similarity, cross_f_clip, f_clip, vt_clip_score
from metrics.keyframes import select_top_frames
from models.frame_encoders import FRAME_ENCODERS, EncoderOptions, FrameEncoder, load_frame_encoder
from models.vt_clip import VTClip, load_vt_clip
from models.weights import hash_weights
from utils.device import setup_device
from utils.encoder_names import EncoderName
from utils.text import split_sentences

_BATCH = 64  # videos whose texts are encoded together


TextEncoder = VTClip | FrameEncoder  # with `width` C, and `encode_text`: N texts -> (N, C), not normalized


def is_encoder_name(source: str) -> bool:
    """Whether a source of a text encoder is the name of a frame encoder, not a file or URL."""
    return source.partition(":")[0] in FRAME_ENCODERS


def load_text_encoder(source: str, device: torch.device, text_tokenizer: str = "") -> TextEncoder | None:
    """Load the text encoder of VT-CLIPScore.

    Args:
        source: VT-CLIP checkpoint (path or URL), or name of a frame encoder with a text encoder, such as
            `open_clip:MODEL[@TAG_OR_PATH]`.
        device: its device.
        text_tokenizer: folder of its tokenizer, see `EncoderOptions`.
    Returns:
        The text encoder; None if the model has none, or, with a warning, if its tokenizer is not available.
    Raises:
        FileNotFoundError, ValueError: the checkpoint or the model is missing or invalid.
    """
    if not is_encoder_name(source):
        return load_vt_clip(source).to(device)
    options = EncoderOptions(with_text=True, text_tokenizer=text_tokenizer)
    encoder = load_frame_encoder(EncoderName.parse(source), options).to(device)
    return None if encoder.text_encoder is None else encoder


def add_clip_scores(
    predictions: Sequence[Prediction],
    records: Sequence[VideoRecord],
    vision: Sequence[np.ndarray],
    text_encoder: TextEncoder | None,
    kinds: Collection[LabelKind] = LABEL_KINDS,
) -> list[Prediction]:
    """Add `vt_clip_score`, `f_clip` and `cross_f_clip` to predictions that have what they need.

    Args:
        predictions: predictions of N videos.
        records: annotations of the videos.
        vision: (T, C) features of the frames of each video. If features, saliency and labels differ in length, all are
            cut to the shortest.
        text_encoder: text encoder of the same model; None adds `f_clip` only.
        kinds: labels that all videos of the split have.
    """
    texts = [
        (prediction.caption, split_sentences(prediction.caption or ""), _split_references(record))
        for prediction, record in zip(predictions, records)
    ]
    features = {} if text_encoder is None else _encode_texts(texts, text_encoder)
    scored = []
    for prediction, record, frames, (caption, generated, references) in zip(predictions, records, vision, texts):
        T = min(len(frames), len(prediction.saliency or frames), record.num_frames or len(frames))
        frames, selected = frames[:T], _select_frames(prediction, T)
        changes: dict[str, float] = {}
        if selected is not None and "keyframes" in kinds:
            keyframes = build_labels(record, T).keyframes
            changes["f_clip"] = f_clip(clip_similarity(frames, frames), selected, keyframes)
            if features and caption is not None and "captions" in kinds:
                reference_features = [_stack(features, sentences, frames.shape[1]) for sentences in references]
                generated_features = _stack(features, generated, frames.shape[1])
                changes["cross_f_clip"] = cross_f_clip(
                    frames, selected, keyframes, reference_features, generated_features
                )
        if selected is not None and features and caption is not None:
            changes["vt_clip_score"] = _vt_clip_score(prediction, selected, frames, features[caption])
        scored.append(prediction.model_copy(update=changes))
    return scored


def _select_frames(prediction: Prediction, T: int) -> np.ndarray | None:
    """Frames of the visual summary, (T,) bool; None without one."""
    if prediction.saliency is not None:
        return select_top_frames(np.array(prediction.saliency[:T]))
    return prediction.select_frames(T)[0] if prediction.has_selection else None


def _split_references(record: VideoRecord) -> list[list[str]]:
    """Sentences of each reference."""
    if record.references:
        return [split_sentences(text) for text in record.references]
    return [list(record.tsum)] if record.tsum else []


def _encode_texts(
    texts: Sequence[tuple[str | None, list[str], list[list[str]]]], text_encoder: TextEncoder
) -> dict[str, np.ndarray]:
    """Encode captions, their sentences and those of the references: text -> (C,)."""
    unique: dict[str, None] = {}
    for caption, generated, references in texts:
        unique |= dict.fromkeys([] if caption is None else [caption])
        unique |= dict.fromkeys([*generated, *(sentence for sentences in references for sentence in sentences)])
    return dict(zip(unique, text_encoder.encode_text(list(unique)).float().cpu().numpy())) if unique else {}


def _stack(features: dict[str, np.ndarray], sentences: Sequence[str], width: int) -> np.ndarray:
    """Features (n, C) of n sentences."""
    return np.stack([features[s] for s in sentences]) if sentences else np.zeros((0, width), np.float32)


def _vt_clip_score(prediction: Prediction, selected: np.ndarray, frames: np.ndarray, text: np.ndarray) -> float:
    """VT-CLIPScore of a caption (C,) and the top frames of its saliency, or all frames of its set, of (T, C)."""
    vision, text_features = torch.from_numpy(frames), torch.from_numpy(text)[None]  # (1, C)
    if prediction.saliency is not None:
        saliency = torch.tensor([prediction.saliency[: len(frames)]])  # (1, T)
        return vt_clip_score(saliency, [len(frames)], vision[None], text_features).item()
    if not selected.any():
        return 0.0
    pooled = vision[torch.from_numpy(selected)].mean(0, keepdim=True)  # (1, C)
    return torch.cosine_similarity(pooled, text_features).item()


@dataclasses.dataclass(frozen=True)
class ClipScored:
    """Predictions with the scores of `add_clip_scores`, and what they are computed from.

    Attributes:
        predictions: the predictions.
        frame_features: video id -> (T, C) features.
        encoder: see `describe_clip_encoder`.
    """

    predictions: list[Prediction]
    frame_features: Callable[[str], np.ndarray]
    encoder: dict[str, Any]


def score_with_clip_features(
    predictions: Sequence[Prediction],
    records: Sequence[VideoRecord],
    clip_root: str | os.PathLike,
    source: str,
    text_tokenizer: str = "",
) -> ClipScored:
    """Add the scores of `add_clip_scores` to predictions, from features on the disk.

    Args:
        predictions: predictions of some of the videos.
        records: annotations of the videos.
        clip_root: folder of the features of the frames.
        source: text encoder, see `load_text_encoder`; "" adds `f_clip` only.
        text_tokenizer: folder of its tokenizer.
    Raises:
        FileNotFoundError, ValueError: features or the checkpoint are missing or invalid.
    """
    text_encoder = load_text_encoder(source, setup_device("auto"), text_tokenizer) if source else None
    by_id = {record.video_id: record for record in records}
    known = [prediction for prediction in predictions if prediction.video_id in by_id]
    width = None if text_encoder is None else text_encoder.width
    features = open_features(clip_root, [p.video_id for p in known], "vision", width, "VT-CLIP features")
    kinds = [kind for kind in LABEL_KINDS if all(by_id[p.video_id].has_labels(kind) for p in known)]
    scored: dict[str, Prediction] = {}
    for start in range(0, len(known), _BATCH):
        batch = known[start : start + _BATCH]
        vision = [features.load(prediction.video_id) for prediction in batch]
        with torch.inference_mode():
            rescored = add_clip_scores(batch, [by_id[p.video_id] for p in batch], vision, text_encoder, kinds)
        scored |= {prediction.video_id: prediction for prediction in rescored}
    updated = [scored.get(prediction.video_id, prediction) for prediction in predictions]
    return ClipScored(updated, features.load, describe_clip_encoder(clip_root, source, text_encoder))


def describe_clip_encoder(
    clip_root: str | os.PathLike, source: str, text_encoder: TextEncoder | None
) -> dict[str, Any]:
    """Describe the encoder of VT-CLIPScore, F_CLIP and Cross-F_CLIP: entries of the results.

    Args:
        clip_root: folder of the features of the frames.
        source: source of `text_encoder`.
        text_encoder: the text encoder; None without it.
    Returns:
        `clip_encoder`, the source of the text encoder, and architecture and hash of the frame encoder; and
        `vt_clip_sha256`, the hash of the text encoder.
    Raises:
        ValueError: the frames' features are of another model than the text encoder, where provenance tells.
    """
    frames = read_encoder(clip_root)
    frames_sha256, text_sha256 = frames.get("weights_sha256"), None
    if isinstance(text_encoder, FrameEncoder):
        text_sha256 = text_encoder.weights_sha256
    elif text_encoder is not None:
        text_sha256 = hash_weights(text_encoder.clip)
    if text_sha256 and frames_sha256 and text_sha256 != frames_sha256:
        raise ValueError(
            f"{clip_root}: weights_sha256: found frame features of {encoder_label(frames)}, expected those of "
            f"pretrained_clip {source} ({text_sha256[:12]}): texts and frames must be encoded by one model"
        )
    encoder = dict(
        text=None if text_encoder is None else source,
        frames=frames.get("encoder"),
        frames_weights_sha256=frames_sha256,
    )
    sha256 = hash_weights(text_encoder) if isinstance(text_encoder, VTClip) else text_sha256
    return dict(clip_encoder=encoder, vt_clip_sha256=sha256)
