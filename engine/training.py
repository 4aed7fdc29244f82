"""Train VTSUM-BLIP: setup of data, model, optimizer and evaluation, and the trainer."""

import logging
import math
import pathlib
from collections.abc import Sequence

import torch
from torch import nn

from data.collate import Batch
from data.dataset import VideoXum
from data.loaders import TrainBatchSampler, make_loader
from engine.checkpoint import BEST, NEWEST
from engine.checks import check_training
from engine.config import Config
from engine.evaluator import Evaluator
from engine.provenance import read_encoder
from engine.setup import (
    build_model,
    init_run,
    load_initial_weights,
    open_split,
    resolve_feature_width,
)
from engine.trackers import attach_trackers
from engine.trainer import Trainer, TrainingSetup
from engine.validation import ValidationLosses, open_validation_split
from models.caption_decoder import CaptionDecoder
from models.vtsum_blip import VTSumBLIP
from utils import distributed
from utils.device import autocast, gradient_scaler
from utils.distributed import DistContext
from utils.settings import write_settings

logger = logging.getLogger(__name__)


class VTSumTrainer(Trainer):
    """Trains VTSUM-BLIP, with evaluations and snapshots between epochs.

    Args:
        config: settings of the run.
        setup: see `Trainer`.
        evaluator: evaluator of the configuration's splits.
        validation: losses of the validation split; None for none.
    """

    config: Config
    model: VTSumBLIP
    sampler: TrainBatchSampler

    def __init__(
        self,
        config: Config,
        setup: TrainingSetup,
        evaluator: Evaluator,
        validation: ValidationLosses | None = None,
    ) -> None:
        super().__init__(config, setup)
        self.evaluator = evaluator
        self.validation = validation
        has_captions, has_saliency = self.config.task != "v2v", self.config.task != "v2t"
        self.loss_names = ("loss", *["loss_tsum"] * has_captions, *["loss_vsum"] * has_saliency)

    def compute_losses(self, batch: Batch) -> list[torch.Tensor]:
        """Compute λ_vsum · loss_vsum + λ_tsum · loss_tsum, and loss_tsum and loss_vsum as far as the task has them."""
        return self._compute_losses(self.ddp_model, batch)

    def _compute_losses(self, model: nn.Module, batch: Batch) -> list[torch.Tensor]:
        config = self.config
        with autocast(config.precision, self.context.device):
            loss_tsum, loss_vsum = model(batch.video_embeddings, batch.video_mask, batch.vsum_labels, batch.tsum_labels)
        weighted = ((config.lambda_vsum, loss_vsum), (config.lambda_tsum, loss_tsum))
        loss = sum(weight * part for weight, part in weighted if part is not None)
        assert isinstance(loss, torch.Tensor)
        return [part for part in (loss, loss_tsum, loss_vsum) if part is not None]

    def compute_val_losses(self) -> dict[str, float]:
        """Compute the mean of each loss over the validation split; {} without one."""
        if self.validation is None:
            return {}
        means = self.validation.compute(self.model, self._compute_losses, len(self.loss_names))
        if means is None:
            self.save()  # the resumed run begins with this validation
            self.exit_on_signal()
        return {f"val_{name}": mean for name, mean in zip(self.loss_names, means)}

    def attach_trackers(self) -> None:
        attach_trackers(self.log, self.config, self.sampler.batches_per_epoch, self.context.world_size)

    def before_first_epoch(self) -> None:
        self.save_snapshot()  # the run may have been killed before the snapshot
        if self.state.epoch < self.config.max_epoch:
            self.evaluate_if_due()  # likewise before or during the evaluation

    def after_epoch(self) -> None:
        self.save()
        self.save_snapshot()
        if self.state.epoch < self.config.max_epoch:
            self.evaluate_if_due()

    def after_last_epoch(self) -> None:
        self.evaluate()

    def save_snapshot(self) -> None:
        """Every `ckpt_freq` epochs, keep the newest checkpoint as a snapshot of the epoch."""
        config, state = self.config, self.state
        is_of_this_run = self.checkpointer.current_path == self.checkpointer[NEWEST]
        is_between_epochs = state.epoch > 0 and state.batches_done == 0
        is_due = is_between_epochs and config.ckpt_freq > 0 and state.epoch % config.ckpt_freq == 0
        if is_of_this_run and is_due:
            self.checkpointer.save_snapshot(f"checkpoints/checkpoint_{state.epoch - 1:03d}.pth", config.keep_last)

    def evaluate_if_due(self) -> None:
        """Every `eval_freq` epochs, evaluate the epoch that has just finished, unless the log has its scores."""
        config, state = self.config, self.state
        is_between_epochs = state.epoch > 0 and state.batches_done == 0
        is_due = is_between_epochs and config.eval_freq > 0 and state.epoch % config.eval_freq == 0
        if is_due and state.last_scored_epoch < state.epoch - 1:
            self.evaluate()
            self.save()

    def evaluate(self) -> None:
        """Evaluate the last epoch; with `eval_freq`, keep the best checkpoint on the validation split."""
        config, state, epoch = self.config, self.state, self.state.epoch - 1
        for split, results in self.evaluator.evaluate(self.model, checkpoint=self.checkpointer.current_path).items():
            self.log.write(type="evaluation", epoch=epoch, split=split, **results["metrics"])
            value = results["metrics"].get(config.best_metric, -math.inf)
            best = state.best_evaluation or {}
            best_value = best["value"] if best.get("metric") == config.best_metric else -math.inf
            if config.eval_freq and split == "val" and value > best_value:
                state.best_evaluation = dict(metric=config.best_metric, value=value, epoch=epoch)
                self.checkpointer.save_snapshot(BEST)
                logger.info("%s: best so far: %s %.4f of epoch %d", BEST, config.best_metric, value, epoch + 1)
        state.last_scored_epoch = epoch
        state.best_evaluation = distributed.broadcast_object(state.best_evaluation, self.context)


def build_dataset(config: Config, context: DistContext, decoder: CaptionDecoder | None) -> VideoXum:
    """Open and check the training split; with a caption decoder, its captions are token ids."""
    return open_split(
        config,
        context,
        "train",
        max_frames=config.max_video_length,
        max_words=config.max_text_length,
        tokenize=None if decoder is None else decoder.encode_caption,
    )


def build_sampler(config: Config, context: DistContext, dataset: VideoXum) -> TrainBatchSampler:
    """Build the sampler of this process's shuffled training batches."""
    sampler = TrainBatchSampler(
        [min(num_frames, config.max_video_length) for num_frames in dataset.num_frames],
        config.batch_size,
        rank=context.rank,
        world_size=context.world_size,
        seed=config.seed,
        bucketing=config.length_bucketing,
    )
    logger.info(
        "padding: %.1f %% of the first epoch's frame slots; %.1f %% with length_bucketing",
        *(100 * sampler.padding_fraction(bucketing) for bucketing in (False, True)),
    )
    return sampler


def build_vtsum_trainer(config: Config, notes: Sequence[str] = ()) -> VTSumTrainer:
    """Set up a training run, resumed or from its initial weights; `fit` runs it.

    Args:
        config: settings of the run.
        notes: lines about the configuration for the log.
    Raises:
        FileNotFoundError, ValueError: data or weights are missing or invalid, or a checkpoint does not fit the run.
    """
    check_training(config)
    context = init_run(config, notes, "train.log")
    config = resolve_feature_width(config)
    output_dir = pathlib.Path(config.output_dir)
    model = build_model(config)
    decoder = model.text_decoder
    dataset = build_dataset(config, context, decoder)
    sampler = build_sampler(config, context, dataset)
    evaluator = Evaluator(config, context)
    if decoder is not None:
        evaluator.require_capacity(decoder)
        decoder.require_capacity(min(max(dataset.num_frames), config.max_video_length), config.max_text_length)
    pad_id = 0 if decoder is None else decoder.pad_id
    val_dataset = open_validation_split(config, context, decoder)
    model.to(context.device)
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    setup = TrainingSetup(
        context=context,
        output_dir=output_dir,
        model=model,
        loader=make_loader(
            dataset,
            sampler,
            num_workers=config.num_workers,
            pin_memory=context.device.type == "cuda",
            pad_id=pad_id,
        ),
        sampler=sampler,
        optimizer=torch.optim.AdamW(trained, lr=config.init_lr, weight_decay=config.weight_decay, fused=True),
        scaler=gradient_scaler(config.precision, context.device),
        data_fingerprint=dataset.fingerprint(),
        encoder=read_encoder(config.video_embeddings_root),
        decoder_base=None if decoder is None else decoder.describe_base(),
        accumulate=config.accumulate,
        ckpt_steps=config.ckpt_steps,
    )
    validation = None if val_dataset is None else ValidationLosses(config, context, val_dataset, pad_id)
    trainer = VTSumTrainer(config, setup, evaluator, validation)
    state = trainer.checkpointer.resume(config.resume, len(sampler))
    if state is None:
        load_initial_weights(config, context, model)
    else:
        trainer.state = state
    if context.is_main:
        write_settings(config, output_dir / "config.yaml")
    if config.compile:
        model.compile_layers()
    num_parameters = sum(p.numel() for p in model.parameters())
    num_trained = sum(p.numel() for _, p in trained)
    logger.info(
        "%s, task %s: %.1f M parameters%s; %d videos, %d batches per epoch on %d processes (%s)",
        config.model,
        config.task,
        num_parameters / 1e6,
        "" if num_trained == num_parameters else f", {num_trained / 1e6:.1f} M of them trained",
        len(dataset),
        len(sampler),
        context.world_size,
        context.device.type,
    )
    return trainer
