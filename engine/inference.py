"""Prediction of the videos of a dataset, with or without annotations.

Axes: B videos of a batch, T frames at 1 fps.
"""

import logging
import math
import pathlib

import torch

from data.collate import Batch
from data.dataset import VideoXum
from data.loaders import EvalBatchSampler, make_loader
from engine.alignment import TextEncoder, add_clip_scores
from engine.config import Config
from engine.predictions import Prediction, write_prediction_lines
from engine.setup import open_features_alone, open_split
from models.vtsum_blip import NUM_POSITIONS, VTSumBLIP
from utils import distributed, interrupt
from utils.device import autocast
from utils.distributed import DistContext
from utils.log import progress_bar

logger = logging.getLogger(__name__)

ALL_VIDEOS = "all"  # in place of a split's name, for the videos of a folder of features without annotations


@torch.no_grad()
def predict_dataset(
    model: VTSumBLIP,
    dataset: VideoXum,
    name: str,
    config: Config,
    context: DistContext,
    text_encoder: TextEncoder | None = None,
) -> list[Prediction] | None:
    """Predict all videos of a dataset; all processes call it together.

    Args:
        model: not wrapped for DDP, the same weights on every process.
        dataset: videos to predict.
        name: name of the split, for the progress bar.
        config: settings of the run.
        context: rank, world size and device of this process.
        text_encoder: of VT-CLIPScore; None leaves out the scores that need it.
    Returns:
        predictions in the order of `dataset.records`; None on all processes but the first.
    Raises:
        Interrupted: a signal asked the run to stop.
        FloatingPointError: a prediction is not finite.
    """
    sampler = EvalBatchSampler(
        dataset.num_frames,
        config.eval_batch_size or config.batch_size,
        rank=context.rank,
        world_size=context.world_size,
        singleton_threshold=NUM_POSITIONS,
    )
    loader = make_loader(dataset, sampler, num_workers=config.num_workers, pin_memory=context.device.type == "cuda")
    predictions: dict[int, Prediction] = {}  # index of the video -> prediction
    with progress_bar(loader, context.is_main, desc=f"predict {name}", unit="batch") as bar:
        for batch in bar:
            on_device = batch.to(context.device)
            predictions |= zip(batch.indices, _predict_batch(model, on_device, dataset, config, context, text_encoder))
            if interrupt.stop_requested():
                break
    gathered = distributed.gather_objects(predictions, context)
    raise_if_any_rank_stops(context)
    if gathered is None:
        return None
    by_index = {index: prediction for part in gathered for index, prediction in part.items()}
    assert sorted(by_index) == list(range(len(dataset))), "missing or unexpected videos"
    return [by_index[index] for index in range(len(dataset))]


def _predict_batch(
    model: VTSumBLIP,
    batch: Batch,
    dataset: VideoXum,
    config: Config,
    context: DistContext,
    text_encoder: TextEncoder | None,
) -> list[Prediction]:
    with autocast(config.precision, context.device):
        captions, saliency = model.generate(
            batch.video_embeddings,
            batch.video_mask,
            num_beams=config.num_beams,
            max_length=config.max_text_length,
            min_length=config.min_text_length,
        )
    rows = _unpad_saliency(saliency, batch)
    predictions: list[Prediction] = []
    for i, video_id in enumerate(batch.video_ids):
        is_cut = batch.lengths[i] != batch.num_labels[i]
        prediction = Prediction(
            video_id=video_id,
            caption=None if captions is None else captions[i],
            saliency=None if rows is None else rows[i],
            cut_from=batch.num_labels[i] if is_cut else None,
        )
        predictions.append(prediction)
    if batch.clip_vision is not None and rows is not None:
        padded = batch.clip_vision.numpy()  # (B, T, C)
        vision = [frames[:length] for frames, length in zip(padded, batch.lengths)]
        records = [dataset.records[index] for index in batch.indices]
        predictions = add_clip_scores(predictions, records, vision, text_encoder)
    return predictions


def _unpad_saliency(saliency: torch.Tensor | None, batch: Batch) -> list[list[float]] | None:
    """(B·T,) logits -> those of each video's frames."""
    if saliency is None:
        return None
    padded = saliency.view(len(batch.lengths), -1).tolist()  # (B, T)
    rows = [row[:length] for row, length in zip(padded, batch.lengths)]
    for video_id, row in zip(batch.video_ids, rows):
        if not all(map(math.isfinite, row)):
            raise FloatingPointError(f"video {video_id}: saliency: NaN or infinity in the model's output")
    return rows


def raise_if_any_rank_stops(context: DistContext) -> None:
    """Raise `Interrupted` on all processes if a signal asked one of them to stop."""
    if distributed.any_rank(interrupt.stop_requested() is not None, context):
        raise interrupt.Interrupted(interrupt.stop_requested() or "a signal to another process")


def predict_unlabeled(model: VTSumBLIP, config: Config, context: DistContext) -> None:
    """Write `predictions_{split}.jsonl` of the configuration's splits, whose annotations need no labels.

    Without annotation files, the videos are those of `video_embeddings_root`, and the file is `predictions_all.jsonl`.

    Args:
        model: on the device.
        config: settings of the run, with the `feature_width` of `resolve_feature_width`.
        context: rank, world size and device of this process.
    Raises:
        FileNotFoundError, ValueError: annotations or features are missing or invalid, or the longest video does not fit
            the caption decoder.
    """
    if config.has_annotations:
        datasets: dict[str, VideoXum] = {split: open_split(config, context, split, needs=()) for split in config.splits}
    else:
        datasets = {ALL_VIDEOS: open_features_alone(config, context)}
    if model.text_decoder is not None:
        longest = max(max(dataset.num_frames) for dataset in datasets.values())
        model.text_decoder.require_capacity(longest, config.max_text_length)
    for name, dataset in datasets.items():
        predictions = predict_dataset(model, dataset, name, config, context)
        if predictions is not None:
            path = pathlib.Path(config.output_dir, f"predictions_{name}.jsonl")
            write_prediction_lines(path, predictions)
            logger.info("%s: %d videos", path, len(predictions))
