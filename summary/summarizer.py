"""Summarize video files: skim, caption, storyboard and page.

Axes: T frames at 1 fps, D feature width.
"""

import dataclasses
import json
import logging
import os
import pathlib
from typing import Any

import numpy as np
import torch

from data.video.decoding import DecodeJob
from data.video.files import derive_video_id
from data.video.reader import VideoFile
from engine.config import Config
from engine.extraction import encode_videos
from engine.provenance import find_model_note, recorded_name, require_same_encoder
from engine.setup import build_model, load_trained, with_feature_width
from models.frame_encoders import EncoderOptions, FrameEncoder, load_frame_encoder
from models.vtsum_blip import NUM_POSITIONS
from models.weights import extract_state_dict, read_checkpoint, read_feature_width, read_metadata
from summary.files import FILES, JSON_FILE, list_files, write_files
from summary.parts import VideoPart, check_chunk, join_captions, split_seconds
from summary.released import RELEASED_CONFIG, announce_downloads, resolve_weights
from summary.selection import (
    Budget,
    check_selection,
    describe_short_budget,
    parse_budget,
    select_frames,
    selected_segments,
)
from summary.skim import check_audio
from summary.stages import OnStage, StageProgress, Stages
from summary.storyboard import Storyboard
from utils.device import autocast, setup_device
from utils.download import is_local, resolve_file
from utils.encoder_names import EncoderName
from utils.files import compute_sha256, require_writable
from utils.published_weights import find_weights
from utils.settings import read_settings
from utils.text import printable_path

logger = logging.getLogger(__name__)

FRAMES_PER_BATCH = 32  # of the encoder
MAX_UNREAD = 0.02  # fraction of a video that may be missing without a note


class Summarizer:
    """Summarizes video files.

    Args:
        config: a YAML file, or a `Config`; None is the released VTSUM-BLIP (TT+CA), `configs/released_tt_ca.yaml`.
        pretrained_model: VTSUM-BLIP checkpoint (path, https:// or hf://); None is the configuration's. Published
            weights, see `utils.published_weights`, are downloaded once if they are not at their local path.
        blip: checkpoint (likewise) with BLIP's image encoder; None is the one that `pretrained_model` records, if the
            file exists, else the configuration's `pretrained`.
        encoder: name of another frame encoder, see `models.frame_encoders.load_frame_encoder`; None is the one that
            `pretrained_model` records, else BLIP's. Image size and antialiasing of the position table are the recorded
            ones, too, else the configuration's.
        settings: further settings that override the configuration's.
    Attributes:
        config: the `Config`, with overrides.
        note: sentence about the model: `model_note` of its training, else of the configuration; "" if there is none.
        model: the `VTSumBLIP`.
        encoder: the `FrameEncoder`.
        device: device of model and encoder.
        checkpoints: role (`model`, and `blip` or `encoder`) -> path or name, and SHA-256: of the file, or of another
            encoder's weights.
    Raises:
        FileNotFoundError, ValueError: a file is missing or invalid, or the models do not fit each other.
    """

    def __init__(
        self,
        config: str | os.PathLike | Config | None = None,
        pretrained_model: str | os.PathLike | None = None,
        blip: str | os.PathLike | None = None,
        encoder: str | None = None,
        **settings: Any,
    ) -> None:
        if pretrained_model is not None:
            settings["pretrained_model"] = str(pretrained_model)
        if isinstance(config, Config):
            config = config.replace(**settings)
        else:
            config = Config(**(read_settings(config or RELEASED_CONFIG, Config) | settings))
        if not config.pretrained_model:
            raise ValueError("pretrained_model: missing, expected a VTSUM-BLIP checkpoint (--pretrained_model PATH)")
        if config.task == "v2t":
            raise ValueError("task: found v2t, expected v2vt or v2v, which predict saliency")
        if blip is not None and encoder is not None:
            raise ValueError(f"encoder: found {encoder} and the checkpoint {blip} of BLIP, expected one of the two")
        source = find_weights(config.pretrained_model)
        blip_source = find_weights(config.pretrained if blip is None else blip)
        is_download = not is_local(source)
        if is_download:  # what is downloaded is trained with BLIP's encoder, unless another one is given
            announce_downloads([source] if encoder else [source, blip_source], config.tokenizer)
        path = resolve_weights(source)
        checkpoint = read_checkpoint(path)
        metadata = read_metadata(checkpoint)
        trained = metadata.encoder
        if encoder is None and (blip is not None or trained.get("encoder", "blip") == "blip"):
            if blip is None and trained:
                recorded_file = EncoderName.parse(recorded_name(trained) or "blip").weights
                blip_source = recorded_file if pathlib.Path(recorded_file).is_file() else blip_source
            if not is_download:
                announce_downloads([blip_source], config.tokenizer)
            encoder = _blip_encoder_name(blip_source)
        self.encoder = _load_encoder(config, trained, encoder)
        config = with_feature_width(config, self.encoder.width, str(self.encoder.name))
        expected = read_feature_width(extract_state_dict(checkpoint, path), path)
        if self.encoder.width != expected:
            raise ValueError(
                f"{self.encoder.name}: encoder: found features of width {self.encoder.width}, expected {expected}, "
                f"which {path} was trained with"
            )
        model = build_model(config)
        load_trained(config, model, path)
        self.config = config
        self.note = find_model_note(metadata.config, config.as_dict())
        self.device = setup_device(config.device, tf32=config.tf32)
        self.model = model.to(self.device).eval()
        self.encoder.to(self.device)
        self.checkpoints = dict(model=_describe_file(path)) | _describe_encoder(self.encoder)

    def summarize(
        self,
        video: str | os.PathLike,
        out: str | os.PathLike = "summaries",
        budget: Budget = 0.15,
        method: str = "topk",
        on_stage: OnStage | None = None,
        audio: str = "keep",
        chunk: int | None = None,
    ) -> dict[str, Any]:
        """Summarize one video.

        Args:
            video: path of a video file.
            out: folder; the summary is written to `out/{file name without its suffix}/`, replacing an earlier one.
            budget: what to keep: a fraction of the video, above 0 and at most 1, or seconds such as "30s".
            method: `topk`, the most salient seconds, or `shots`, whole shots; see `summary.selection`.
            on_stage: called with (stage, second) at the start of each stage and during it; stages are the keys of
                `timings`. Its exceptions are propagated.
            audio: `keep`, or `mute` for a skim without audio.
            chunk: run the model on parts of nearly equal length, at most this many seconds. The seconds are selected
                from the whole video; the captions of the parts are joined. None runs it on the whole video.
        Returns:
            The content of `summary.json`.
        Raises:
            FileNotFoundError, ValueError, OSError: an argument is not one of the above, not a video, or the summary
                cannot be written; nothing is written.
        """
        path = pathlib.Path(video)
        check_selection(budget, method)
        check_audio(audio)
        check_chunk(chunk)
        folder = pathlib.Path(out, derive_video_id(path))
        require_writable(folder, "out")
        _warn_if_replaced(folder / JSON_FILE, path)
        if path.resolve() in [(folder / name).resolve() for name in FILES]:
            raise ValueError(f"{path}: video: the summary would replace this file; use another --out")
        stages = Stages(printable_path(path.name), on_stage)
        with stages.run("features") as progress:
            source, features = self._encode(path, chunk, progress)  # features (T, D)
        duration = source.timeline.duration
        with stages.run("model", len(features)) as progress:
            parts, saliency = self._predict_parts(features, duration, chunk, progress)  # saliency (T,)
        with stages.run("choose", len(features)):
            selection = select_frames(saliency, features, budget, method)
        notes = [note for note in (_describe_truncation(source), *selection.notes) if note]
        for note in (describe_short_budget(budget, len(saliency)), *notes):
            if note:
                logger.warning("%s: %s", printable_path(path), note)
        segments = selected_segments(selection.selected, duration)
        summary = dict(
            name=printable_path(path.name),
            video=printable_path(path),
            duration=duration,
            caption=join_captions([part.caption for part in parts]),
            saliency=saliency.tolist(),
            chosen=selection.selected.tolist(),
            segments=segments,
            method=method,
            selection_notes=notes,
            budget=dict(asked=parse_budget(budget), used=sum(end - start for start, end in segments) / duration),
            model=self.config.model,
            note=self.note,
            encoder=self.encoder.architecture,
            checkpoints=self.checkpoints,
            timings=stages.timings,
            audio=audio,
            chunk=chunk,
            parts=[dataclasses.asdict(part) for part in parts],
        )
        summary["files"] = list_files(summary)
        write_files(summary, source, Storyboard(source, saliency, selection.selected), folder, stages)
        return summary

    def _encode(self, path: pathlib.Path, chunk: int | None, progress: StageProgress) -> tuple[VideoFile, np.ndarray]:
        """Decode and encode a video at 1 fps; returns the file and its features (T, D)."""
        job, encoded = DecodeJob(path.stem, str(path)), 0

        def on_frames(count: int, total: int) -> None:
            nonlocal encoded
            if not encoded:
                _warn_if_long(path, total, chunk)
            encoded += count
            progress.set_total(total)
            progress.advance_to(float(encoded))

        encoders = {"encoder": self.encoder}
        ((result, features),) = encode_videos([job], encoders, chunk=FRAMES_PER_BATCH, workers=0, on_frames=on_frames)
        if result.video is None:
            raise ValueError(result.reason)
        return result.video, features["encoder"]

    def _predict_parts(
        self, features: np.ndarray, duration: float, chunk: int | None, progress: StageProgress
    ) -> tuple[list[VideoPart], np.ndarray]:
        """Run the model on each part of a video with features (T, D); returns the parts and saliency (T,)."""
        parts, saliency = [], []
        for first, stop in split_seconds(len(features), chunk):
            caption, part_saliency = self._predict(features[first:stop])
            parts.append(VideoPart(float(first), min(float(stop), duration), caption))
            saliency.append(part_saliency)
            progress.advance_to(float(stop))
        return parts, np.concatenate(saliency)

    def _predict(self, features: np.ndarray) -> tuple[str | None, np.ndarray]:
        """Predict caption (None for task v2v) and saliency (T,) in [0, 1] from frame features (T, D)."""
        config = self.config
        with autocast(config.precision, self.device):
            captions, logits = self.model.generate(
                torch.from_numpy(features)[None].to(self.device),
                torch.ones(1, len(features)),
                num_beams=config.num_beams,
                max_length=config.max_text_length,
                min_length=config.min_text_length,
            )
        assert logits is not None  # of the saliency head
        return None if captions is None else captions[0], logits.double().sigmoid().cpu().numpy()


def _warn_if_long(path: pathlib.Path, T: int, chunk: int | None) -> None:
    """Warn if the model is run on more seconds than the videos have that it was trained on."""
    longest = max(stop - first for first, stop in split_seconds(T, chunk))
    if longest > NUM_POSITIONS:
        logger.warning(
            "%s: the model is run on %d s at once, more than the %d s of the videos that it was trained on; "
            "--chunk %d runs it on parts of at most that length",
            printable_path(path),
            longest,
            NUM_POSITIONS,
            NUM_POSITIONS,
        )


def _warn_if_replaced(path: pathlib.Path, video: pathlib.Path) -> None:
    """Warn if a `summary.json` is that of another video."""
    try:
        other = pathlib.Path(json.loads(path.read_text(encoding="utf-8"))["video"])
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or it is not one
        return
    if os.path.realpath(other) != os.path.realpath(printable_path(video)):
        logger.warning("%s: replaces the summary of %s in %s", printable_path(video), other, path.parent)


def _describe_truncation(source: VideoFile) -> str:
    """Describe a file of which much less can be read than its header states; "" if it is complete."""
    duration, stated = source.timeline.duration, source.stated_duration
    if stated is None or stated - duration <= max(1.0, MAX_UNREAD * stated):
        return ""
    return f"Only {duration:.1f} s of the video can be read, of {stated:.1f} s by its header."


def _blip_encoder_name(source: str) -> str:
    """Return the name of BLIP's image encoder with weights from a path or URL, which is downloaded."""
    if not source:
        raise ValueError("blip: missing, expected a checkpoint with BLIP's image encoder (--blip PATH)")
    return f"blip:{resolve_weights(source)}"


def _load_encoder(config: Config, trained: dict[str, Any], encoder: str | None) -> FrameEncoder:
    """Load the frame encoder and check that the model was trained on its features.

    Args:
        config: the configuration.
        trained: the encoder in the model's checkpoint, {} if it is not known.
        encoder: name of the encoder; None is that of `trained`.
    """
    options = EncoderOptions(
        config.precision,
        image_size=trained.get("image_size", config.image_size),
        position_antialias=trained.get("vit_position_antialias", config.vit_position_antialias),
    )
    try:
        loaded = load_frame_encoder(encoder or recorded_name(trained), options)
    except FileNotFoundError as error:
        if encoder is not None:
            raise
        raise FileNotFoundError(
            f"{error}; {config.pretrained_model} was trained on its features: --encoder NAME names your copy"
        ) from None
    require_same_encoder(trained, loaded.describe() if trained else {}, config.pretrained_model)
    return loaded


def _describe_encoder(encoder: FrameEncoder) -> dict[str, dict[str, str]]:
    """Provenance of an encoder: role -> entries."""
    assert encoder.name is not None
    if encoder.name.library == "blip":
        return dict(blip=_describe_file(resolve_file(encoder.name.weights)))
    return dict(encoder=dict(path=str(encoder.name), sha256=encoder.weights_sha256))


def _describe_file(path: str | os.PathLike) -> dict[str, str]:
    return dict(path=str(path), sha256=compute_sha256(path))
