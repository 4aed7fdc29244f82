"""Setup of a run: process group, output folder, log, seed, checks, model and initial weights."""

import logging
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from data.annotations import LABELS_OF_TASK, LabelKind, MissingLabels, read_subset
from data.dataset import VideoXum
from data.features import read_width
from data.registry import annotation_path
from engine.checkpoint import NEWEST
from engine.config import Config, TrainingConfig
from engine.provenance import read_encoder, require_same_decoder_base, require_same_encoder
from models.vtsum_blip import FEATURE_WIDTHS, VTSumBLIP, v2vt_sum
from models.weights import CheckpointMetadata, IncompatibleCheckpoint, load_weights
from utils import distributed
from utils.distributed import DistContext
from utils.download import resolve_file
from utils.files import make_folder, remove_leftovers
from utils.log import setup_logging
from utils.seed import seed_everything

logger = logging.getLogger(__name__)

# Settings that are compared with those in a checkpoint before it is evaluated.
ARCHITECTURE_SETTINGS = (
    "model",
    "vit",
    "feature_width",
    "feature_projection",
    "tt_depth",
    "kernel_size",
    "prompt",
    "decoder",
    "decoder_train",
    "decoder_lora_rank",
)

TASK_HINT = "the tasks v2v and v2t need only one kind of labels (--task)"
NO_ANNOTATIONS_HINT = ", or ann_root to '' to predict every video of video_embeddings_root"


def init_run(config: TrainingConfig, notes: Sequence[str], log_file: str) -> DistContext:
    """Join the process group; prepare output folder, log and seed.

    Args:
        config: settings of the run.
        notes: lines about the configuration for the log.
        log_file: name in the output folder.
    Raises:
        ValueError: the folder cannot be used, another run has locked it, or there is no such device.
        PeerFailure: the other processes cannot be reached.
    """
    context = distributed.init_context(config.device, tf32=config.tf32)
    output_dir = make_folder(config.output_dir, "output_dir")
    setup_logging(context.is_main, output_dir / log_file)
    if context.is_main:
        remove_leftovers(output_dir)
    logger.info("%s: loading data and model, number of processes: %d", output_dir, context.world_size)
    for note in notes:
        logger.info("%s", note)
    seed_everything(config.seed + context.rank)
    return context


def annotation_file(config: TrainingConfig, split: str) -> pathlib.Path:
    """Path of a split's annotation file, see `annotation_path`."""
    return annotation_path(config.ann_root, split, config.dataset, config.ann_files)


def with_feature_width(config: Config, width: int, source: str | os.PathLike) -> Config:
    """Set `feature_width`, and `vit` if its default has another width and one of its values has this.

    Args:
        config: settings of the run.
        width: width of the frame features.
        source: their folder or encoder, for messages.
    Raises:
        ValueError: `feature_width` or `vit` is set to another width.
    """
    required = {"feature_width": config.feature_width or width}
    if "vit" in config.model_fields_set:
        required["vit"] = FEATURE_WIDTHS[config.vit]
    for name, expected in required.items():
        if width != expected:
            raise ValueError(
                f"{source}: {name}: found frame features of width {width}, expected {expected}, as {name}: "
                f"{getattr(config, name)} is set; without it, any width is accepted"
            )
    changes: dict[str, Any] = {"feature_width": width}
    for name, named_width in FEATURE_WIDTHS.items():
        if named_width == width != FEATURE_WIDTHS[config.vit]:
            changes["vit"] = name
    return config.replace(**changes)


def resolve_feature_width(config: Config) -> Config:
    """Set `feature_width` and `vit` to those of the first feature file of `video_embeddings_root`.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or another width is set.
    """
    return with_feature_width(config, read_width(config.video_embeddings_root), config.video_embeddings_root)


def open_split(
    config: Config, context: DistContext, split: str, *, needs: Sequence[LabelKind] | None = None, **options: Any
) -> VideoXum:
    """Open a split of the dataset and check its features.

    All processes call it together; each checks a part of the features.

    Args:
        config: settings of the run, with the `feature_width` of `resolve_feature_width`.
        context: rank, world size and device of this process.
        split: name of the split.
        needs: labels that every video must have; None: those that the task needs.
        options: further arguments of `VideoXum`.
    Raises:
        FileNotFoundError, ValueError: annotations or features are missing or invalid.
    """
    return _open_checked(
        lambda: VideoXum(
            annotation_file(config, split),
            config.video_embeddings_root,
            dataset=config.dataset,
            width=config.feature_width,
            prompt=config.prompt,
            needs=LABELS_OF_TASK[config.task] if needs is None else needs,
            subset=read_subset(config.subset) if config.subset else None,
            **options,
        ),
        context,
    )


def open_features_alone(config: Config, context: DistContext) -> VideoXum:
    """Open all videos of `video_embeddings_root`, or those of `subset`, without annotations; see `open_split`."""
    return _open_checked(
        lambda: VideoXum(
            None,
            config.video_embeddings_root,
            width=config.feature_width,
            prompt=config.prompt,
            needs=(),
            subset=read_subset(config.subset) if config.subset else None,
        ),
        context,
    )


def _open_checked(open_dataset: Callable[[], VideoXum], context: DistContext) -> VideoXum:
    """Open a dataset and check its features, each process a part of them; errors are raised on all processes."""
    dataset: VideoXum | None = None
    failure: OSError | ValueError | None = None
    try:
        dataset = open_dataset()
        dataset.check_features(context.rank, context.world_size)
    except MissingLabels as error:
        failure = ValueError(f"{error}; {TASK_HINT}")
    except (OSError, ValueError) as error:
        failure = error
    problem = None if failure is None else str(failure)
    problems = distributed.broadcast_object(distributed.gather_objects(problem, context), context)
    for first_problem in filter(None, problems or []):  # the same on all processes
        raise failure if failure is not None and str(failure) == first_problem else ValueError(first_problem)
    assert dataset is not None
    return dataset


def build_model(config: Config) -> VTSumBLIP:
    """Build the model that a configuration describes, as initialized."""
    return v2vt_sum(
        config.model,
        tt_depth=config.tt_depth,
        kernel_size=config.kernel_size,
        loss_type=config.loss_type,
        feature_width=config.feature_width or FEATURE_WIDTHS[config.vit],
        feature_projection=config.feature_projection,
        prompt=config.prompt,
        max_text_length=config.max_text_length,
        med_config=config.med_config,
        tokenizer=config.tokenizer,
        task=config.task,
        smoothing_scope=config.smoothing_scope,
        vit_grad_ckpt=config.vit_grad_ckpt,
        vit_ckpt_layer=config.vit_ckpt_layer,
        decoder=config.decoder,
        decoder_path=config.decoder_path,
        decoder_train=config.decoder_train,
        decoder_lora_rank=config.decoder_lora_rank,
    )


def load_initial_weights(config: Config, context: DistContext, model: VTSumBLIP) -> None:
    """Load the weights that a run starts from: pretrained_model, else pretrained, else none."""
    source = config.pretrained_model or config.pretrained
    if not source:
        logger.info("weights: from scratch")
        return
    with distributed.local_main_first(context):
        path = resolve_file(source)
    metadata = _load_weights(config, model, path)
    require_same_encoder(metadata.encoder, read_encoder(config.video_embeddings_root), source)
    _check_decoder_base(model, metadata, source)
    logger.info("weights: from %s", source)


def find_weights_to_evaluate(config: Config) -> str:
    """Path or URL of the weights for `--evaluate`: pretrained_model, else resume, else the run's newest checkpoint.

    Raises:
        ValueError: there is none of them.
    """
    newest = pathlib.Path(config.output_dir, NEWEST)
    resume = "" if config.resume == "auto" else config.resume
    source = config.pretrained_model or resume or (str(newest) if newest.is_file() else "")
    if not source:
        hint = ""
        if config.pretrained:
            hint = f"; pretrained only initializes training: --pretrained_model {config.pretrained} evaluates it"
        raise ValueError(
            f"evaluate: found no weights: set pretrained_model, or resume, or train until {newest} exists (the first "
            f"of the three is evaluated){hint}"
        )
    return source


def load_trained(config: Config, model: VTSumBLIP, source: str | pathlib.Path) -> CheckpointMetadata:
    """Load the weights of a trained model; log the settings that differ from those it was trained with.

    Args:
        config: configuration that the model was built from.
        model: parameters are copied in place.
        source: path of the checkpoint.
    Returns:
        The metadata in the checkpoint.
    Raises:
        FileNotFoundError, ValueError: see `load_weights`; if it does not fit, the message lists the settings that
            differ.
    """
    metadata = _load_weights(config, model, source)
    _check_decoder_base(model, metadata, source)
    for difference in _differences(config, metadata.config, ARCHITECTURE_SETTINGS):
        logger.warning("%s", difference)
    return metadata


def _load_weights(config: Config, model: VTSumBLIP, source: str | pathlib.Path) -> CheckpointMetadata:
    """Load weights, see `load_weights`; if they do not fit, the message names the settings that differ first."""
    try:
        return load_weights(model, source, position_init=config.position_init)
    except IncompatibleCheckpoint as error:
        causes = _differences(config, error.trained_with, (*ARCHITECTURE_SETTINGS, "task", "med_config", "tokenizer"))
        message = "; ".join([f"{source}: checkpoint does not fit the model", *causes, error.mismatches])
        raise ValueError(message) from None


def _check_decoder_base(model: VTSumBLIP, metadata: CheckpointMetadata, source: str | os.PathLike) -> None:
    """Compare the frozen weights of the caption decoder, if any, with those of a checkpoint's training."""
    if model.text_decoder is not None:
        require_same_decoder_base(metadata.decoder_base, model.text_decoder.describe_base(), source)


def _differences(config: Config, trained: dict[str, Any], names: Sequence[str]) -> list[str]:
    trained = config.canonical(trained)
    return [
        f"{name}: the checkpoint was trained with {trained[name]!r}, this run has {getattr(config, name)!r}"
        for name in names
        if name in trained and trained[name] != getattr(config, name)
    ]
