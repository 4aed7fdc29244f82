"""Checks of a run's settings and files before anything slow; they need neither a launcher nor a process group."""

import pathlib
from collections.abc import Sequence
from typing import get_args

from data.annotations import LABELS_OF_TASK, MissingLabels, read_subset
from data.features import open_features
from data.loaders import require_full_step
from data.registry import load_annotations
from data.video.files import find_videos
from engine.checkpoint import NEWEST, PREVIOUS
from engine.config import Config, TrainingConfig, VTClipConfig
from engine.setup import NO_ANNOTATIONS_HINT, TASK_HINT, annotation_file, resolve_feature_width
from engine.trackers import check_trackers
from metrics.registry import METRICS, PredictionField
from models.vt_clip import check_clip
from utils.download import is_url, resolve_file
from utils.published_weights import fetch_hint

FIELDS_OF_TASK: dict[str, tuple[PredictionField, ...]] = {
    "v2vt": get_args(PredictionField),
    "v2v": ("saliency", "f_clip"),
    "v2t": ("caption",),
}


def check_training(config: Config, *, read_annotations: bool = False) -> None:
    """Check what training VTSUM-BLIP needs: initial weights, packages, annotations and frame features.

    Args:
        config: settings of the run.
        read_annotations: see `check_data`.
    Raises:
        FileNotFoundError, ValueError: something is missing, or a setting does not fit the data.
    """
    check_best_metric(config)
    check_initial_weights(config)
    check_trackers(config)
    check_data(config, ("train", *config.splits), read_annotations=read_annotations)


def check_best_metric(config: Config) -> None:
    """Check that the task computes the metric that selects `checkpoint_best.pth`.

    Raises:
        ValueError: it does not, and there are evaluations during the training.
    """
    field = METRICS[config.best_metric].needs
    if config.eval_freq and field not in FIELDS_OF_TASK[config.task]:
        raise ValueError(
            f"best_metric: found {config.best_metric}, expected a metric of the task {config.task}, which has no "
            f"{field}; use --best_metric {'CIDEr' if config.task == 'v2t' else 'Kendall'}"
        )


def check_evaluation(config: Config, source: str, *, read_annotations: bool = False) -> None:
    """Check what the evaluation of a checkpoint needs: the checkpoint, annotations and frame features.

    Args:
        config: settings of the run.
        source: path or URL of the checkpoint.
        read_annotations: see `check_data`.
    Raises:
        FileNotFoundError, ValueError: something is missing, or a setting does not fit the data.
    """
    check_data(config, config.splits, read_annotations=read_annotations)
    if not is_url(source):
        resolve_file(source)


def check_vt_clip_training(config: VTClipConfig) -> None:
    """Check what training VT-CLIP needs: CLIP, annotations, and features or videos.

    Raises:
        FileNotFoundError, ValueError: something is missing.
    """
    check_clip(config.clip)
    _check_annotations(config, ("train", "val"))
    if config.videos:
        find_videos([config.videos])
    elif not pathlib.Path(config.vision_root).is_dir():
        raise FileNotFoundError(
            f"{config.vision_root}: VT-CLIP features: no such folder; extract the features with extract_features.py "
            f"--blip '' --vt_clip {config.clip}, or set vision_root or videos"
        )


def check_data(config: Config, splits: Sequence[str], *, read_annotations: bool = False) -> None:
    """Check that the data of a run exists.

    Args:
        config: settings of the run.
        splits: the splits that it uses.
        read_annotations: also read the annotations, and find the features of each video, without reading them. A run
            does this when it opens its splits.
    Raises:
        FileNotFoundError: an annotation file or the feature folder is missing, or the features of a video are.
        ValueError: a file of video ids is invalid, the settings do not name the annotation files, the first feature
            file is of another width than set, or annotations are invalid.
    """
    if config.also_subset:
        read_subset(config.also_subset)
    if not config.predict_only:
        _check_annotations(config, splits)
    elif config.has_annotations:
        _check_annotations(config, splits, NO_ANNOTATIONS_HINT)
    if not pathlib.Path(config.video_embeddings_root).is_dir():
        raise FileNotFoundError(
            f"{config.video_embeddings_root}: frame features: no such folder; run python -m data.download for "
            "VideoXum or extract_features.py, or set video_embeddings_root"
        )
    config = resolve_feature_width(config)
    if read_annotations and (config.has_annotations or not config.predict_only):
        for split in dict.fromkeys(splits):
            _check_videos(config, split)


def _check_videos(config: Config, split: str) -> None:
    """Check the annotations of a split, with the labels that the task needs, and that its videos have features."""
    path = annotation_file(config, split)
    try:
        records = load_annotations(
            path,
            dataset=config.dataset,
            needs=() if config.predict_only else LABELS_OF_TASK[config.task],
            subset=read_subset(config.subset) if config.subset else None,
        )
    except MissingLabels as error:
        raise ValueError(f"{error}; {TASK_HINT}") from None
    if split == "train":
        require_full_step(config.batch_size, 1, len(records))
    video_ids = [record.video_id for record in records]
    open_features(config.video_embeddings_root, video_ids, "features", config.feature_width, "frame features")
    if config.predict_only or split not in config.splits:
        return
    if config.also_subset:
        read_subset(config.also_subset).select(records, path)
    if config.clip_root and pathlib.Path(config.clip_root).is_dir():
        open_features(config.clip_root, video_ids, "vision", None, "VT-CLIP features")


def _check_annotations(config: TrainingConfig, splits: Sequence[str], alternative: str = "") -> None:
    """Check the file of video ids, and that the annotation files exist; `alternative` ends the message."""
    if config.subset:
        read_subset(config.subset)
    for path in [annotation_file(config, split) for split in splits]:
        if not path.is_file():
            download = "run python -m data.download for VideoXum, or " if config.dataset == "videoxum" else ""
            remedy = f"{download}set ann_root or ann_files{alternative}"
            raise FileNotFoundError(f"{path}: annotations: no such file; {remedy}")


def check_initial_weights(config: Config) -> None:
    """Check that a run's initial weights, if they are a local file, exist.

    Raises:
        FileNotFoundError: it is missing.
    """
    names = ("pretrained_model", "pretrained") if config.resume in ("auto", "") else ("resume",)
    if config.resume and any(pathlib.Path(config.output_dir, name).is_file() for name in (NEWEST, PREVIOUS)):
        return  # the run resumes from these
    option = next((name for name in names if getattr(config, name)), None)
    source = getattr(config, option) if option else ""
    if source and not is_url(source) and not pathlib.Path(source).is_file():
        alternative = "start from scratch with --pretrained ''" if option == "pretrained" else ""
        raise FileNotFoundError(f"{source}: {option}: no such file{fetch_hint(source, alternative)}")
