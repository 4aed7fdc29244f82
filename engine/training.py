"""Train VTSUM-BLIP: data, model, optimizer and evaluation joined in a trainer."""

import functools
import logging
import math
import pathlib
from collections.abc import Sequence

import torch

from data.dataset import VideoXum
from data.loaders import TrainBatches, make_loader
from engine.checkpoint import BEST, NEWEST
from engine.config import Config
from engine.evaluator import Evaluator
from engine.setup import annotation_file, build_model, init_run, load_initial_weights
from engine.trackers import attach_trackers
from engine.trainer import Trainer
from models.vtsum_blip import WIDTHS, VTSumBLIP
from utils import distributed
from utils.device import autocast, gradient_scaler
from utils.distributed import DistContext
from utils.settings import write_settings

logger = logging.getLogger(__name__)


class VTSumTrainer(Trainer):
    """Trains VTSUM-BLIP, with evaluations and snapshots between epochs; see `Trainer`.

    Args:
        evaluator: scores the configuration's splits.
    """

    config: Config
    model: VTSumBLIP

    def __init__(self, *args, evaluator: Evaluator, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.evaluator = evaluator
        has_captions, has_saliency = self.config.task != "v2v", self.config.task != "v2t"
        self.loss_names = ("loss", *["loss_tsum"] * has_captions, *["loss_vsum"] * has_saliency)

    def compute_losses(self, batch) -> list[torch.Tensor]:
        """λ_vsum · loss_vsum + λ_tsum · loss_tsum, and these two, as far as the task has them."""
        config = self.config
        with autocast(config.precision, self.context.device):
            loss_tsum, loss_vsum = self.ddp_model(
                batch.video_embeddings, batch.video_mask, batch.vsum_labels, batch.tsum_labels
            )
        weighted = ((config.lambda_vsum, loss_vsum), (config.lambda_tsum, loss_tsum))
        loss = sum(weight * part for weight, part in weighted if part is not None)
        return [part for part in (loss, loss_tsum, loss_vsum) if part is not None]

    def attach_trackers(self) -> None:
        sampler = self.loader.batch_sampler
        attach_trackers(self.log, self.config, sampler.batches_per_epoch, self.context.world_size)

    def before_first_epoch(self) -> None:
        self.save_snapshot()  # the run may have been killed before it
        if self.state.epoch >= self.config.max_epoch:
            logger.info("%s: all %d epochs are done", self.checkpointer.current, self.config.max_epoch)
        else:
            self.evaluate_if_due()  # or before, or during, the evaluation

    def after_epoch(self) -> None:
        self.save()
        self.save_snapshot()
        if self.state.epoch < self.config.max_epoch:
            self.evaluate_if_due()

    def after_last_epoch(self) -> None:
        self.evaluate()

    def save_snapshot(self) -> None:
        """Every `ckpt_freq` epochs, keep the checkpoint of the epoch, which is the newest."""
        config, state = self.config, self.state
        is_own = self.checkpointer.current == self.checkpointer[NEWEST]
        is_due = config.ckpt_freq and state.epoch and not state.batches_done and state.epoch % config.ckpt_freq == 0
        if is_own and is_due:
            self.checkpointer.save_snapshot(f"checkpoints/checkpoint_{state.epoch - 1:03d}.pth", config.keep_last)

    def evaluate_if_due(self) -> None:
        """Every `eval_freq` epochs, evaluate the epoch that has just ended, unless the log has its scores."""
        config, state = self.config, self.state
        is_due = config.eval_freq and state.epoch % config.eval_freq == 0 and state.batches_done == 0
        if is_due and state.epoch and state.scored < state.epoch - 1:
            self.evaluate()
            self.save()

    def evaluate(self) -> None:
        """Score the epoch that has just ended; with `eval_freq`, keep the best checkpoint on the validation split."""
        config, state, epoch = self.config, self.state, self.state.epoch - 1
        for split, results in self.evaluator.evaluate(self.model, checkpoint=self.checkpointer.current).items():
            self.log.write(type="evaluation", epoch=epoch, split=split, **results["metrics"])
            value = results["metrics"].get(config.best_metric, -math.inf)
            best = state.best or {}
            least = best["value"] if best.get("metric") == config.best_metric else -math.inf
            if config.eval_freq and split == "val" and value > least:
                state.best = dict(metric=config.best_metric, value=value, epoch=epoch)
                self.checkpointer.save_snapshot(BEST)
                logger.info("%s: best so far: %s %.4f of epoch %d", BEST, config.best_metric, value, epoch)
        state.scored = epoch
        state.best = distributed.broadcast_object(state.best, self.context)


def build_loader(config: Config, context: DistContext, model: VTSumBLIP) -> torch.utils.data.DataLoader:
    """Loader of this process's shuffled training batches."""
    tokenize, pad_id = None, 0
    if model.tokenizer is not None:
        tokenize = functools.partial(model.tokenizer.encode, max_tokens=config.max_text_length)
        pad_id = model.tokenizer.pad_id
    dataset = VideoXum(
        annotation_file(config, "train"),
        config.video_embeddings_root,
        width=WIDTHS[config.vit],
        prompt=config.prompt,
        max_frames=config.max_video_length,
        max_words=config.max_text_length,
        tokenize=tokenize,
    )
    sampler = TrainBatches(
        [min(record.num_frames, config.max_video_length) for record in dataset.records],
        config.batch_size,
        rank=context.rank,
        world_size=context.world_size,
        seed=config.seed,
        bucketing=config.length_bucketing,
    )
    logger.info(
        "padding: %.1f %% of the first epoch's frame slots; %.1f %% with length_bucketing",
        *(100 * sampler.padded_share(bucketing) for bucketing in (False, True)),
    )
    return make_loader(
        dataset,
        sampler,
        num_workers=config.num_workers,
        pad_id=pad_id,
        pin_memory=context.device.type == "cuda",
    )


def build_trainer(config: Config, notes: Sequence[str] = ()) -> VTSumTrainer:
    """Set up a training run, resumed or from its initial weights: `fit` runs it.

    Args:
        config: of the run.
        notes: lines about the configuration for the log.
    Raises:
        FileNotFoundError, ValueError: data or weights are missing or bad, or a checkpoint does not fit the run.
    """
    context = init_run(config, notes, splits=("train", *config.splits), log_file="train.log")
    output_dir = pathlib.Path(config.output_dir)
    model = build_model(config)
    loader = build_loader(config, context, model)
    evaluator = Evaluator(config, context)
    model.to(context.device)
    trainer = VTSumTrainer(
        config,
        context,
        output_dir,
        model=model,
        loader=loader,
        optimizer=torch.optim.AdamW(
            model.parameters(), lr=config.init_lr, weight_decay=config.weight_decay, fused=True
        ),
        scaler=gradient_scaler(config.precision, context.device),
        data=loader.dataset.fingerprint(),
        evaluator=evaluator,
    )
    state = trainer.checkpointer.resume(config.resume)
    if state is None:
        load_initial_weights(config, context, model)
    else:
        trainer.state = state
    if context.is_main:
        write_settings(config, output_dir / "config.yaml")
    if config.compile:
        model.compile_layers()
    logger.info(
        "%s, task %s: %.1f M parameters; %d videos, %d batches per epoch on %d processes (%s)",
        config.model,
        config.task,
        sum(p.numel() for p in model.parameters()) / 1e6,
        len(loader.dataset),
        len(loader),
        context.world_size,
        context.device.type,
    )
    return trainer
