"""A video file -> its summary on disk: skim, caption, storyboard and page."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import tempfile
import time

import torch

from data.video.decoding import DecodeJob
from data.video.files import video_id_of
from engine.config import Config
from engine.extraction import encode_videos
from engine.setup import build_model, load_trained
from models.frame_encoders import FrameEncoder, blip_frame_encoder
from models.vtsum_blip import WIDTHS, VTSumBLIP
from summary.page import write_page
from summary.selection import choose, segments_of
from summary.skim import write_skim
from summary.storyboard import Storyboard
from utils import distributed
from utils.device import autocast
from utils.download import fetch
from utils.files import make_folder, sha256_of
from utils.log import progress_bar
from utils.settings import read_yaml

FILES = ("summary.mp4", "storyboard.png", "index.html", "summary.json")  # the last one says that all are there
CHUNK = 32  # frames that are encoded together


@dataclasses.dataclass(frozen=True)
class Summarizer:
    """What summarising needs: the two models and where they are from."""

    config: Config
    model: VTSumBLIP
    encoder: FrameEncoder
    device: torch.device
    checkpoints: dict  # role -> path and SHA-256


def load(config, pretrained_model=None, blip=None, **settings):
    """Load the models that summarising needs.

    Args:
        config: a YAML file, or a `Config`.
        pretrained_model: VTSUM-BLIP checkpoint (path, https:// or hf://); None takes the configuration's.
        blip: checkpoint (likewise) with BLIP's image encoder; None takes the configuration's `pretrained`.
        settings: further settings that override the configuration's, as flags do.
    Returns:
        `Summarizer` for `summarize`.
    Raises:
        FileNotFoundError, ValueError: a file is missing or bad, or the models do not fit each other.
    """
    settings |= {} if pretrained_model is None else dict(pretrained_model=str(pretrained_model))
    if isinstance(config, Config):
        config = dataclasses.replace(config, **settings)
    else:
        config = Config(**(read_yaml(config, Config) | settings))
    blip = config.pretrained if blip is None else blip
    if not config.pretrained_model:
        raise ValueError("pretrained_model: missing, expected a VTSUM-BLIP checkpoint (--pretrained_model PATH)")
    if not blip:
        raise ValueError("blip: missing, expected a checkpoint with BLIP's image encoder (--blip PATH)")
    if config.task == "v2t":
        raise ValueError("task: found v2t, expected v2vt or v2v: without saliency there is nothing to choose by")
    device = distributed.pick_device(config.device)
    paths = dict(model=fetch(config.pretrained_model), blip=fetch(blip))
    model = build_model(config)
    load_trained(config, model, paths["model"])
    encoder = blip_frame_encoder(paths["blip"], config.image_size)
    width = encoder.image_encoder.embed_dim
    if width != WIDTHS[config.vit]:
        expected = f"{WIDTHS[config.vit]} for vit {config.vit}"
        raise ValueError(f"{blip}: BLIP's image encoder: found width {width}, expected {expected}")
    checkpoints = {role: dict(path=str(path), sha256=sha256_of(path)) for role, path in paths.items()}
    return Summarizer(config, model.to(device).eval(), encoder.to(device), device, checkpoints)


def summarize(summarizer, video, out, budget=0.15, method="topk", on_stage=None):
    """Summarise one video.

    Args:
        summarizer: what `load` gave.
        video: path of a video file.
        out: folder; the summary is written to `out/{name of the file without its suffix}/`, over an earlier one.
        budget: part of the video to keep, above 0 and at most 1.
        method: `topk`, the most salient seconds, or `shots`, whole shots; see `summary.selection`.
        on_stage: function that is told each stage as it begins and goes on: its name in `timings`, and the second of
            the video that it has reached. What it raises ends the work.
    Returns:
        dictionary, what `summary.json` holds.
    Raises:
        FileNotFoundError, ValueError, OSError: not a video, or the summary cannot be written; then nothing is.
    """
    path, timings = pathlib.Path(video), {}
    timed = functools.partial(_timed, timings, on_stage or _ignore)
    folder = pathlib.Path(out, video_id_of(path))
    if path.resolve() in [(folder / name).resolve() for name in FILES]:
        raise ValueError(f"{path}: video: is what its own summary would replace; use another --out")
    with timed("features") as reached:
        source, features = _encode(summarizer, path, reached)  # VideoFile, (T, D)
    with timed("model"):
        caption, saliency = _predict(summarizer, features)  # str, (T,)
    with timed("choose"):
        chosen = choose(saliency, features, budget, method)  # (T,)
    duration = source.timeline.duration
    segments = segments_of(chosen, duration)
    summary = dict(
        name=_printable(path.name),
        video=_printable(path),
        duration=duration,
        caption=caption,
        saliency=saliency.tolist(),
        chosen=chosen.tolist(),
        segments=segments,
        method=method,
        budget=dict(asked=budget, used=sum(end - start for start, end in segments) / duration),
        model=summarizer.config.model,
        checkpoints=summarizer.checkpoints,
        timings=timings,
    )
    _write(summary, source, Storyboard(source, saliency, chosen), folder, timed)
    return summary


def _printable(path):
    """A path as text that any file and terminal takes: bytes that are no UTF-8 and control signs become �."""
    text = os.fsencode(path).decode("utf-8", errors="replace")
    return "".join(sign if sign.isprintable() else "�" for sign in text)


def _ignore(stage, second):
    pass


@contextlib.contextmanager
def _timed(timings, on_stage, stage):
    """Measure a stage and tell that it begins; gives a function that tells the second that it has reached."""
    start = time.perf_counter()
    on_stage(stage, 0.0)
    yield functools.partial(on_stage, stage)
    timings[stage] = round(time.perf_counter() - start, 3)


def _encode(summarizer, path, reached):
    """Decode and encode a video at 1 fps."""
    job, encoders, encoded = DecodeJob(path.stem, str(path)), {"blip": summarizer.encoder}, 0
    with progress_bar(None, True, desc=path.name, unit="frame") as bar:

        def on_frames(count):
            nonlocal encoded
            encoded += count
            bar.update(count)
            reached(float(encoded))

        ((end, features),) = encode_videos([job], encoders, chunk=CHUNK, workers=0, on_frames=on_frames)
    if end.reason:
        raise ValueError(end.reason)
    return end.video, features["blip"]


def _predict(summarizer, features):
    """Frame features (T, D) -> caption (None for task v2v) and saliency (T,) in [0, 1]."""
    config = summarizer.config
    with autocast(config.precision, summarizer.device):
        captions, logits = summarizer.model.generate(
            torch.from_numpy(features)[None].to(summarizer.device),
            torch.ones(1, len(features)),
            num_beams=config.num_beams,
            max_length=config.max_text_length,
            min_length=config.min_text_length,
        )
    return None if captions is None else captions[0], logits.double().sigmoid().cpu().numpy()


def _write(summary, video, storyboard, folder, timed):
    """Write a summary's files in a folder of their own and put them in place when all are there."""
    make_folder(folder, "out")
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished.") as unfinished:
            made = pathlib.Path(unfinished)
            with timed("skim") as reached:

                def seen(k, frame):
                    storyboard.seen(k, frame)
                    reached(float(video.timeline.starts[k]))

                write_skim(video, summary["segments"], made / FILES[0], seen)
            with timed("page"):
                storyboard.write(made / FILES[1])
                write_page(summary, made / FILES[2], len(storyboard.frames))
            (made / FILES[3]).write_text(json.dumps(summary, indent=1), encoding="utf-8")
            for name in FILES:
                os.replace(made / name, folder / name)
    except OSError as error:
        raise OSError(f"{folder}: cannot be written ({error.strerror or error})") from None
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # if nothing is in it
