"""Losses of the validation split, computed after each epoch of a training without any effect on it."""

import logging
from collections.abc import Callable

import torch
from torch import nn

from data.collate import Batch
from data.dataset import VideoXum
from data.loaders import ValidationBatchSampler, make_loader
from engine.config import Config
from engine.setup import open_split
from models.caption_decoder import CaptionDecoder
from utils import distributed, interrupt
from utils.distributed import DistContext
from utils.log import progress_bar

logger = logging.getLogger(__name__)

SPLIT = "val"


def open_validation_split(config: Config, context: DistContext, decoder: CaptionDecoder | None) -> VideoXum | None:
    """Open and check the validation split, cut and tokenized as the training split.

    Args:
        config: settings of the run, with the `feature_width` of `resolve_feature_width`.
        context: rank, world size and device of this process.
        decoder: caption decoder of the model; None for the task v2v.
    Returns:
        The split; None with `val_loss: false` or, with one line in the log, if the split or its labels cannot be used.
    Raises:
        FileNotFoundError, ValueError: they cannot be used, and `config.splits` has the split.
    """
    if not config.val_loss:
        return None
    try:
        dataset = open_split(
            config,
            context,
            SPLIT,
            max_frames=config.max_video_length,
            max_words=config.max_text_length,
            tokenize=None if decoder is None else decoder.encode_caption,
        )
        if decoder is not None:
            decoder.require_capacity(min(max(dataset.num_frames), config.max_video_length), config.max_text_length)
    except (FileNotFoundError, ValueError) as error:
        if SPLIT in config.splits:
            raise
        logger.warning("val_loss: no validation losses: %s", error)
        return None
    return dataset


class ValidationLosses:
    """Mean losses over the validation split.

    The model is in evaluation mode and without gradients, and nothing draws from the global random generators: the
    training continues as if there were no validation.

    Args:
        config: settings of the run.
        context: rank, world size and device of this process.
        dataset: the split, from `open_validation_split`.
        pad_id: id that pads captions.
    """

    def __init__(self, config: Config, context: DistContext, dataset: VideoXum, pad_id: int = 0) -> None:
        self.context = context
        self.dataset = dataset
        self.num_workers = config.num_workers
        self.pad_id = pad_id
        self.sampler = ValidationBatchSampler(
            [min(num_frames, config.max_video_length) for num_frames in dataset.num_frames],
            config.batch_size,
            rank=context.rank,
            world_size=context.world_size,
            seed=config.seed,
            bucketing=config.length_bucketing,
        )

    @torch.no_grad()
    def compute(
        self, model: nn.Module, compute_losses: Callable[[nn.Module, Batch], list[torch.Tensor]], num_losses: int
    ) -> list[float] | None:
        """Compute the means over the videos of all processes, which call this together.

        Args:
            model: not wrapped for DDP, the same weights on every process; it is left in training mode.
            compute_losses: model and batch on the device -> losses of the batch, () each.
            num_losses: number of these losses.
        Returns:
            A mean per loss; None if a signal asks the run to stop.
        """
        loader = make_loader(
            self.dataset,
            self.sampler,
            num_workers=self.num_workers,
            pin_memory=self.context.device.type == "cuda",
            pad_id=self.pad_id,
        )
        # Sums of the losses over the videos, and the number of videos: (losses + 1,).
        sums = torch.zeros(num_losses + 1, dtype=torch.float64, device=self.context.device)
        model.eval()
        with progress_bar(loader, self.context.is_main, desc="validate", unit="batch", leave=False) as bar:
            for batch in bar:
                losses = compute_losses(model, batch.to(self.context.device))
                per_video = torch.stack([*(loss.double() for loss in losses), sums.new_ones(())])
                sums += per_video * len(batch.video_ids)
                if interrupt.stop_requested():
                    break
        model.train()
        if distributed.any_rank(interrupt.stop_requested() is not None, self.context):
            return None
        *totals, count = distributed.all_reduce_sum(sums, self.context).tolist()
        return [total / count for total in totals]
