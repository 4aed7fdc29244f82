"""The files of a feature extraction: found and checked before anything slow, without a process group."""

import argparse
import dataclasses
import pathlib
from collections.abc import Collection, Mapping

from data.annotations import VideoRecord
from data.registry import load_annotations
from data.video.files import find_videos
from utils.download import is_url
from utils.encoder_names import DEFAULT_FOLDERS, DEFAULT_WEIGHTS, WEIGHTS_SUFFIXES, EncoderName
from utils.published_weights import fetch_hint

MAX_NAMED = 3  # videos in a line of the log


@dataclasses.dataclass(frozen=True)
class SelectedEncoders:
    """The encoders of an extraction.

    Attributes:
        names: folder of the features -> name of the encoder.
        notes: which default encoders are left out, and why.
    """

    names: dict[str, EncoderName]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ExtractionInputs:
    """The files of an extraction.

    Attributes:
        videos: video id -> file.
        records: video id -> annotations.
        encoders: the encoders.
    """

    videos: dict[str, pathlib.Path]
    records: dict[str, VideoRecord]
    encoders: SelectedEncoders

    def describe_unmatched(self) -> list[str]:
        """Describe the annotated videos without a file, and the files that are not annotated, in a line each."""
        missing, unknown = self.records.keys() - self.videos.keys(), self.videos.keys() - self.records.keys()
        lines = {"annotated, but no video file": missing, "not annotated": unknown}
        return [f"{meaning}: {_name_first(video_ids)}" for meaning, video_ids in lines.items() if video_ids]


def find_inputs(args: argparse.Namespace) -> ExtractionInputs:
    """Find and check the files of an extraction.

    Args:
        args: parsed arguments of `extract_features.py`.
    Raises:
        FileNotFoundError, ValueError: videos, annotations or checkpoints are missing, or annotations are invalid.
    """
    videos = find_videos(args.videos)
    encoders = select_encoders(args)
    records: dict[str, VideoRecord] = {}
    for path in args.annotations:
        if not pathlib.Path(path).is_file():
            raise FileNotFoundError(f"{path}: annotations: no such file; run python -m data.download for VideoXum")
        records |= {record.video_id: record for record in load_annotations(path, dataset=args.dataset, needs=())}
    return ExtractionInputs(videos, records, encoders)


def select_encoders(args: argparse.Namespace) -> SelectedEncoders:
    """List the encoders that the arguments name, or whose default checkpoints exist.

    Args:
        args: parsed arguments of `extract_features.py`.
    Raises:
        FileNotFoundError: a requested checkpoint is missing.
        ValueError: there is no encoder, or two have the same folder.
    """
    names: dict[str, EncoderName] = {}
    missing: dict[str, str] = {}  # flag -> its default weights
    defaults = DEFAULT_WEIGHTS | dict(blip=args.pretrained)
    for flag, library, source in (("--blip", "blip", args.blip), ("--vt_clip", "vt_clip", args.vt_clip)):
        if source is None and args.encoder:  # in place of the defaults
            continue
        weights = defaults[library] if source is None else source
        if _is_available(library, weights):
            names[DEFAULT_FOLDERS[library]] = EncoderName(library, weights=weights)
        elif source is None:
            missing[flag] = weights
        elif weights:
            raise FileNotFoundError(_missing_message(flag, weights))
    for name, folder in args.encoder:
        if folder in names:
            raise ValueError(
                f"--encoder: {name}: found the folder {folder} of {names[folder]}, expected another: {name}=FOLDER"
            )
        if name.library in DEFAULT_WEIGHTS and not _is_available(name.library, name.weights):
            raise FileNotFoundError(_missing_message("--encoder", name.weights))
        names[folder] = name
    if not names:
        raise ValueError(_describe_no_encoder(missing))
    notes = (
        f"{flag}: its features are not extracted: {_describe_missing(weights)}{fetch_hint(weights)}"
        for flag, weights in missing.items()
    )
    return SelectedEncoders(names, tuple(notes))


def _is_available(library: str, weights: str) -> bool:
    """Whether weights are a URL, a file, or the name of a CLIP on open_clip's hub."""
    if is_url(weights) or pathlib.Path(weights).is_file():
        return True
    if library != "vt_clip" or weights.endswith(WEIGHTS_SUFFIXES):
        return False
    from models.vt_clip import list_hub_clips  # imports torch

    return weights in list_hub_clips()


def _describe_no_encoder(missing: Mapping[str, str]) -> str:
    """Describe that there is no encoder; `missing`: flag -> default weights, "" for none."""
    if not missing:
        return "--encoder, --blip, --vt_clip: found no encoder, expected at least one"
    causes = "; ".join(f"{flag}: {_describe_missing(weights)}" for flag, weights in missing.items())
    hint = next(filter(None, map(fetch_hint, missing.values())), "")
    return f"{causes}{hint}{', or' if hint else ';'} name an encoder with --encoder, --blip or --vt_clip"


def _describe_missing(weights: str) -> str:
    return f"{weights}: no such file" if weights else "pretrained is '' in --config"


def _missing_message(flag: str, weights: str) -> str:
    return f"{weights}: {flag}: no such file{fetch_hint(weights)}"


def _name_first(video_ids: Collection[str]) -> str:
    first, rest = sorted(video_ids)[:MAX_NAMED], len(video_ids) - MAX_NAMED
    return ", ".join(first) + (f" and {rest} more" if rest > 0 else "")
