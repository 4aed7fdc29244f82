"""The training loop, for any model: gradient accumulation, logging, checkpoints, signals and resuming."""

import contextlib
import dataclasses
import itertools
import logging
import math
import pathlib
import time
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn, Protocol

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm
from torch.utils.data import DataLoader
from tqdm import tqdm

from engine.checkpoint import Checkpointer, TrainState
from engine.config import TrainingConfig
from engine.monitor import NonFiniteMonitor
from utils import distributed, interrupt
from utils.distributed import DistContext
from utils.log import JsonlLogger, progress_bar

logger = logging.getLogger(__name__)


def cosine_lr(epoch: int, max_epoch: int, init_lr: float, min_lr: float) -> float:
    """Learning rate of `epoch` (0 is the first): half a cosine from `init_lr` to `min_lr`, reached at `max_epoch`."""
    return min_lr + (init_lr - min_lr) / 2 * (1 + math.cos(math.pi * epoch / max_epoch))


@dataclasses.dataclass(frozen=True)
class AccumulationWindow:
    """The batches of one optimizer step.

    Attributes:
        batches: read lazily from the loader.
        size: number of batches.
        end: index, in this process's epoch, of the first batch after the window.
        is_last: whether the window ends the epoch.
    """

    batches: Iterator[Any]
    size: int
    end: int
    is_last: bool


class EpochSampler(Protocol):
    """A batch sampler whose order depends on the epoch."""

    def set_epoch(self, epoch: int, batches_done: int) -> None:
        """Set the epoch, and how many of its batches, of all processes together, to skip."""


@dataclasses.dataclass(frozen=True)
class TrainingSetup:
    """Model, data, optimizer and processes of a `Trainer`.

    Attributes:
        context: rank, world size and device of this process.
        output_dir: folder of the run's files.
        model: model, on the device.
        loader: loader of this process's training batches.
        sampler: batch sampler of the loader.
        optimizer: optimizer of the model's trained parameters.
        scaler: gradient scaler, disabled except for fp16.
        data_fingerprint: hash that identifies the training data.
        encoder: description of the encoder of the frame features, {} if it is not known.
        decoder_base: `CaptionDecoder.describe_base()` of the model.
        accumulate: batches per process and optimizer step.
        ckpt_steps: optimizer steps between checkpoints within an epoch; 0: none.
    """

    context: DistContext
    output_dir: pathlib.Path
    model: nn.Module
    loader: DataLoader
    sampler: EpochSampler
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    data_fingerprint: str
    encoder: dict[str, Any] = dataclasses.field(default_factory=dict)
    decoder_base: dict[str, str] | None = None
    accumulate: int = 1
    ckpt_steps: int = 0


class Trainer:
    """Trains a model until `config.max_epoch`.

    A subclass implements `compute_losses`, and may override the other methods of the first group. All processes of a
    run call each method together. In the log and in messages, `step` is the index of a batch in this process's epoch.
    Epochs are counted from 0 in `log.jsonl` and checkpoints, and from 1 in messages.

    Args:
        config: settings of the run: `Config` or `VTClipConfig`.
        setup: what to train.
    Attributes:
        loss_names: names of the losses that `compute_losses` returns.
        state: progress of the run, saved in its checkpoints.
        log: `log.jsonl`, opened by `fit`.
    """

    loss_names: tuple[str, ...]
    log: JsonlLogger

    def __init__(self, config: TrainingConfig, setup: TrainingSetup) -> None:
        self.config = config
        self.context = setup.context
        self.output_dir = setup.output_dir
        self.model = setup.model
        self.ddp_model = setup.model
        self.loader = setup.loader
        self.sampler = setup.sampler
        self.optimizer = setup.optimizer
        self.scaler = setup.scaler
        self.accumulate = setup.accumulate
        self.ckpt_steps = setup.ckpt_steps
        self.monitor = NonFiniteMonitor(setup.context)
        self.checkpointer = Checkpointer(
            setup.output_dir,
            setup.context,
            config,
            model=setup.model,
            optimizer=setup.optimizer,
            scaler=setup.scaler,
            data_fingerprint=setup.data_fingerprint,
            encoder=setup.encoder,
            decoder_base=setup.decoder_base,
        )
        self.state = TrainState()
        self._epoch_start = 0.0
        self._stop = False

    # To implement or override in subclasses.

    def compute_losses(self, batch: Any) -> list[torch.Tensor]:
        """Compute the losses of a batch in the order of `loss_names`, () each; the first one is minimized."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Hook after each optimizer step."""

    def compute_val_losses(self) -> dict[str, float]:
        """Hook after the last step of each epoch: further entries of the epoch's line in the log, by name.

        It must not change the training. If it runs again after a resume, it must return the same values.
        """
        return {}

    def before_first_epoch(self) -> None:
        """Hook after resuming: complete what was interrupted between two epochs."""

    def after_epoch(self) -> None:
        """Hook after each epoch, when `state.epoch` is the next epoch; saves a checkpoint."""
        self.save()

    def after_last_epoch(self) -> None:
        """Hook after the last epoch."""

    # The loop.

    def fit(self) -> None:
        """Train the remaining epochs.

        Raises:
            FloatingPointError: a loss or a gradient is not finite; the message names epoch, step and videos.
            Interrupted: a signal asked the run to stop; a checkpoint is saved.
        """
        self.ddp_model = distributed.wrap_ddp(self.model, self.context)
        self.log = JsonlLogger(self.output_dir / "log.jsonl", self.context.is_main, keep_bytes=self.state.log_bytes)
        self.attach_trackers()
        self.before_first_epoch()
        while self.state.epoch < self.config.max_epoch:
            self.train_one_epoch()
            self.state.start_next_epoch()
            self.after_epoch()
        self.after_last_epoch()
        self.log.close()

    def attach_trackers(self) -> None:
        """Hook to attach trackers to the log."""

    def train_one_epoch(self) -> None:
        """Train the remaining batches of the current epoch."""
        self.start_epoch()
        with progress_bar(self.loader, self.context.is_main, desc=f"epoch {self.state.epoch + 1}", unit="batch") as bar:
            for window in self.accumulation_windows(bar):
                losses, video_ids = self.forward_backward(window)
                self.optimizer_step(window, losses, video_ids)
                self._stop = distributed.any_rank(interrupt.stop_requested() is not None, self.context)
                if self.should_log(window) or self.should_save(window):
                    self.monitor.flush()  # a host sync
                if self.should_log(window):
                    self.log_step(window, losses[-1], bar)
                if self.should_save(window):
                    self.save()
                if self._stop:
                    self.exit_on_signal()
        self.log_epoch()

    def exit_on_signal(self) -> NoReturn:
        """Raise `Interrupted` on all processes together: an early exit would break the peers' collectives."""
        distributed.barrier()
        raise interrupt.Interrupted(interrupt.stop_requested() or "a signal to another process")

    def start_epoch(self) -> None:
        """Set learning rate, order of the batches, seed and loss sums of the current epoch."""
        config, state = self.config, self.state
        lr = cosine_lr(state.epoch, config.max_epoch, config.init_lr, config.min_lr)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.sampler.set_epoch(state.epoch, state.batches_done)
        self.checkpointer.seed(state)
        self.monitor.reset(state.loss_sums)
        self._epoch_start = time.monotonic() - state.seconds
        self.ddp_model.train()

    def accumulation_windows(self, batches: Iterable[Any]) -> Iterator[AccumulationWindow]:
        """Split the remaining batches of the epoch into the windows of its optimizer steps."""
        first, count = self.state.batches_done // self.context.world_size, len(self.loader)
        iterator = iter(batches)
        for start in range(0, count, self.accumulate):
            size = min(self.accumulate, count - start)
            end = start + size
            yield AccumulationWindow(itertools.islice(iterator, size), size, first + end, is_last=end == count)
        next(iterator, None)  # exhaust the loader, so that it ends its epoch

    def forward_backward(self, window: AccumulationWindow) -> tuple[torch.Tensor, list[list[str]]]:
        """Compute the losses of a window's batches and accumulate their gradients.

        Returns:
            (batches, losses) float64, and the video ids of each batch.
        """
        rows, video_ids = [], []
        for i, batch in enumerate(window.batches, 1):
            is_last = i == window.size
            batch = batch.to(self.context.device)
            # Gradients are all-reduced in the backward pass of the window's last batch.
            with contextlib.nullcontext() if is_last else self._no_sync():
                # The forward pass has a collective, too, in the second step: DistributedDataParallel's new buckets.
                with distributed.peer_failures(raised_by=DistributedDataParallel.__module__):
                    losses = self.compute_losses(batch)
                with distributed.peer_failures():
                    self.scaler.scale(losses[0] / window.size).backward()
            rows.append(torch.stack([loss.detach().double() for loss in losses]))
            video_ids.append(batch.video_ids)
        return torch.stack(rows), video_ids

    def _no_sync(self) -> contextlib.AbstractContextManager[None]:
        """Context in which gradients are only accumulated on this process."""
        model = self.ddp_model
        return model.no_sync() if isinstance(model, DistributedDataParallel) else contextlib.nullcontext()

    def optimizer_step(self, window: AccumulationWindow, losses: torch.Tensor, video_ids: list[list[str]]) -> None:
        """Update the weights and record the step."""
        grad_norm = None
        if not self.scaler.is_enabled():  # otherwise gradients are scaled, and the scaler skips non-finite ones
            gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
            grad_norm = get_total_norm(gradients)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.after_step()
        self.state.batches_done = window.end * self.context.world_size
        self.monitor.record(self.state.epoch, window.end - 1, video_ids, losses, grad_norm)

    def should_log(self, window: AccumulationWindow) -> bool:
        """Whether `log_freq` batches are complete, or the epoch is."""
        before = window.end - window.size
        return window.is_last or window.end // self.config.log_freq > before // self.config.log_freq

    def should_save(self, window: AccumulationWindow) -> bool:
        """Whether `ckpt_steps` optimizer steps are complete, or a signal asks the run to stop."""
        steps = -(-window.end // self.accumulate)
        return self._stop or bool(self.ckpt_steps and steps % self.ckpt_steps == 0)

    def log_step(self, window: AccumulationWindow, losses: torch.Tensor, bar: tqdm) -> None:
        """Log the losses of a window's last batch, averaged over the processes."""
        means = dict(zip(self.loss_names, distributed.all_reduce_mean(losses, self.context).tolist()))
        norm = self.monitor.grad_norm
        gradient = {} if norm is None else dict(grad_norm=norm.item())
        lr = self.optimizer.param_groups[0]["lr"]
        self.log.write(type="step", epoch=self.state.epoch, step=window.end - 1, lr=lr, **means, **gradient)
        bar.set_postfix({name: f"{value:.3f}" for name, value in means.items()})

    def log_epoch(self) -> None:
        """Log the mean of each loss over the epoch's batches and processes, and the validation losses."""
        means = {}
        if self.monitor.loss_sums is not None:
            *sums, count = distributed.all_reduce_mean(self.monitor.loss_sums, self.context).tolist()
            means = {name: total / count for name, total in zip(self.loss_names, sums)}
        scale = dict(scale=self.scaler.get_scale()) if self.scaler.is_enabled() else {}
        seconds = round(time.monotonic() - self._epoch_start, 3)
        val_losses = self.compute_val_losses()
        self.log.write(type="epoch", epoch=self.state.epoch, seconds=seconds, **means, **scale, **val_losses)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in (means | val_losses).items())
        logger.info("epoch %d: %s", self.state.epoch + 1, shown)

    def save(self) -> None:
        """Save a checkpoint of the current state."""
        if self.state.batches_done:
            self.state.loss_sums = [] if self.monitor.loss_sums is None else self.monitor.loss_sums.tolist()
            self.state.seconds = time.monotonic() - self._epoch_start
        self.checkpointer.save(self.state, self.log)
