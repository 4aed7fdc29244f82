"""Summarize video files: skim, caption, storyboard and page.

Axes: T frames at 1 fps, D feature width.
"""

import contextlib
import functools
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from data.video.decoding import DecodeJob
from data.video.files import derive_video_id
from data.video.reader import VideoFile
from engine.config import Config
from engine.extraction import encode_videos
from engine.provenance import recorded_name, require_same_encoder
from engine.setup import build_model, load_trained, with_feature_width
from models.frame_encoders import EncoderOptions, FrameEncoder, load_frame_encoder
from models.weights import extract_state_dict, read_checkpoint, read_feature_width, read_metadata
from summary.page import write_page
from summary.released import RELEASED_CONFIG, announce_downloads, resolve_weights
from summary.selection import select_frames, selected_segments
from summary.skim import write_skim
from summary.storyboard import Storyboard
from utils.device import autocast, setup_device
from utils.download import is_local, resolve_file
from utils.files import compute_sha256, make_folder
from utils.log import progress_bar
from utils.published_weights import find_weights
from utils.settings import read_settings
from utils.text import printable_path

if TYPE_CHECKING:
    import av

SKIM_FILE = "summary.mp4"
STORYBOARD_FILE = "storyboard.png"
PAGE_FILE = "index.html"
JSON_FILE = "summary.json"
FILES = (SKIM_FILE, STORYBOARD_FILE, PAGE_FILE, JSON_FILE)  # in the order of writing
FRAMES_PER_BATCH = 32  # of the encoder

OnStage = Callable[[str, float], None]


class Summarizer:
    """Summarizes video files.

    Args:
        config: a YAML file, or a `Config`; None is the released VTSUM-BLIP (TT+CA), `configs/released_tt_ca.yaml`.
        pretrained_model: VTSUM-BLIP checkpoint (path, https:// or hf://); None is the configuration's. Published
            weights, see `utils.published_weights`, are downloaded once if they are not at their local path.
        blip: checkpoint (likewise) with BLIP's image encoder; None is the configuration's `pretrained`.
        encoder: name of another frame encoder, see `models.frame_encoders.load_frame_encoder`; None is the one that the
            checkpoint was trained with, if it records it, else BLIP's.
        settings: further settings that override the configuration's.
    Attributes:
        config: the `Config`, with overrides.
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
        trained = read_metadata(checkpoint).encoder
        if encoder is None and (blip is not None or trained.get("encoder", "blip") == "blip"):
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
        self.device = setup_device(config.device, tf32=config.tf32)
        self.model = model.to(self.device).eval()
        self.encoder.to(self.device)
        self.checkpoints = dict(model=_describe_file(path)) | _describe_encoder(self.encoder)

    def summarize(
        self,
        video: str | os.PathLike,
        out: str | os.PathLike = "summaries",
        budget: float = 0.15,
        method: str = "topk",
        on_stage: OnStage | None = None,
    ) -> dict[str, Any]:
        """Summarize one video.

        Args:
            video: path of a video file.
            out: folder; the summary is written to `out/{file name without its suffix}/`, replacing an earlier one.
            budget: fraction of the video to keep, above 0 and at most 1.
            method: `topk`, the most salient seconds, or `shots`, whole shots; see `summary.selection`.
            on_stage: called with (stage, second) at the start of each stage and during it; stages are the keys of
                `timings`. Its exceptions are propagated.
        Returns:
            The content of `summary.json`.
        Raises:
            FileNotFoundError, ValueError, OSError: not a video, or the summary cannot be written; nothing is written.
        """
        path = pathlib.Path(video)
        timings: dict[str, float] = {}
        timed = functools.partial(_timed, timings, on_stage or (lambda stage, second: None))
        folder = pathlib.Path(out, derive_video_id(path))
        if path.resolve() in [(folder / name).resolve() for name in FILES]:
            raise ValueError(f"{path}: video: the summary would replace this file; use another --out")
        with timed("features") as on_second:
            source, features = self._encode(path, on_second)  # features (T, D)
        with timed("model"):
            caption, saliency = self._predict(features)  # saliency (T,)
        with timed("choose"):
            selected = select_frames(saliency, features, budget, method)  # (T,)
        duration = source.timeline.duration
        segments = selected_segments(selected, duration)
        summary = dict(
            name=printable_path(path.name),
            video=printable_path(path),
            duration=duration,
            caption=caption,
            saliency=saliency.tolist(),
            chosen=selected.tolist(),
            segments=segments,
            method=method,
            budget=dict(asked=budget, used=sum(end - start for start, end in segments) / duration),
            model=self.config.model,
            encoder=self.encoder.architecture,
            checkpoints=self.checkpoints,
            timings=timings,
        )
        _write(summary, source, Storyboard(source, saliency, selected), folder, timed)
        return summary

    def _encode(self, path: pathlib.Path, on_second: Callable[[float], None]) -> tuple[VideoFile, np.ndarray]:
        """Decode and encode a video at 1 fps; returns the file and its features (T, D)."""
        job, encoded = DecodeJob(path.stem, str(path)), 0
        with progress_bar(None, True, desc=path.name, unit="frame") as bar:

            def on_frames(count: int) -> None:
                nonlocal encoded
                encoded += count
                bar.update(count)
                on_second(float(encoded))

            encoders = {"encoder": self.encoder}
            ((result, features),) = encode_videos(
                [job], encoders, chunk=FRAMES_PER_BATCH, workers=0, on_frames=on_frames
            )
        if result.video is None:
            raise ValueError(result.reason)
        return result.video, features["encoder"]

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
    options = EncoderOptions(image_size=config.image_size, position_antialias=config.vit_position_antialias)
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


@contextlib.contextmanager
def _timed(timings: dict[str, float], on_stage: OnStage, stage: str) -> Iterator[Callable[[float], None]]:
    """Time a stage and report its start; yields a function that reports the current second of the video."""
    start = time.perf_counter()
    on_stage(stage, 0.0)
    yield functools.partial(on_stage, stage)
    timings[stage] = round(time.perf_counter() - start, 3)


def _write(
    summary: dict[str, Any],
    video: VideoFile,
    storyboard: Storyboard,
    folder: pathlib.Path,
    timed: Callable[[str], contextlib.AbstractContextManager[Callable[[float], None]]],
) -> None:
    """Write a summary's files to a temporary folder and move them when all are complete."""
    make_folder(folder, "out")
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished.") as unfinished:
            work = pathlib.Path(unfinished)
            with timed("skim") as on_second:

                def on_frame(k: int, frame: "av.VideoFrame") -> None:
                    storyboard.add(k, frame)
                    on_second(float(video.timeline.starts[k]))

                write_skim(video, summary["segments"], work / SKIM_FILE, on_frame)
            with timed("page"):
                storyboard.write(work / STORYBOARD_FILE)
                write_page(summary, work / PAGE_FILE, len(storyboard.frames))
            (work / JSON_FILE).write_text(json.dumps(summary, indent=1), encoding="utf-8")
            for name in FILES:
                os.replace(work / name, folder / name)
    except OSError as error:
        raise OSError(f"{folder}: cannot be written ({error.strerror or error})") from None
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # if it is empty
