"""Checkpoints of a training run: the complete state that resuming needs."""

import dataclasses
import logging
import os
import pathlib
import shlex
import shutil
from typing import Any, Self

import torch

from engine.config import TrainingConfig
from engine.optimizer_state import match_optimizer_state
from engine.provenance import require_same_decoder_base, require_same_encoder
from models.weights import (
    DamagedCheckpoint,
    describe_mismatches,
    extract_state_dict,
    read_checkpoint,
    read_metadata,
)
from utils import distributed
from utils.distributed import DistContext
from utils.download import resolve_file
from utils.environment import environment_info
from utils.files import atomic_write, replace_hardlink
from utils.log import JsonlLogger
from utils.seed import derive_epoch_seed, get_rng_state, seed_everything, set_rng_state

logger = logging.getLogger(__name__)

NEWEST, PREVIOUS, BEST = "checkpoint.pth", "checkpoint_prev.pth", "checkpoint_best.pth"
# Further files of a run that a new run in the folder replaces.
RUN_FILES = ("log.jsonl", "wandb_run.txt", "tensorboard")


@dataclasses.dataclass
class TrainState:
    """Progress of a run, saved in its checkpoints. Only `loss_sums` differ between processes.

    Attributes:
        epoch: index of the current epoch; between epochs, of the next one.
        batches_done: batches of the epoch, of all processes together, that the weights were updated with.
        seconds: time spent on the epoch.
        loss_sums: sums of the losses over this process's batches of the epoch, and the number of batches.
        best_evaluation: best evaluation so far: metric, value, epoch.
        last_scored_epoch: last epoch whose evaluation is in the log; -1 for none.
        log_bytes: length of the log when the checkpoint was saved.
    """

    epoch: int = 0
    batches_done: int = 0
    seconds: float = 0.0
    loss_sums: list[float] = dataclasses.field(default_factory=list)
    best_evaluation: dict[str, Any] | None = None
    last_scored_epoch: int = -1
    log_bytes: int | None = None

    def start_next_epoch(self) -> None:
        """Count the current epoch as finished."""
        self.epoch += 1
        self.batches_done = 0
        self.seconds = 0.0
        self.loss_sums = []

    def to_dict(self) -> dict[str, Any]:
        """Return the entry `progress` of a checkpoint, with the keys of the file."""
        return dict(
            epoch=self.epoch,
            done=self.batches_done,
            seconds=self.seconds,
            best=self.best_evaluation,
            scored=self.last_scored_epoch,
            log_bytes=self.log_bytes,
        )

    @classmethod
    def from_dict(cls, progress: dict[str, Any]) -> Self:
        """Read the entry `progress` of a checkpoint.

        Raises:
            KeyError, TypeError, ValueError: it is not such an entry.
        """
        if "epoch" not in progress:
            raise ValueError("epoch: missing")
        if progress.get("skipped"):
            logger.info("ignored the entry `skipped` of an earlier version")
        state = cls(
            epoch=progress["epoch"],
            batches_done=progress.get("done", 0),
            seconds=progress.get("seconds", 0.0),
            best_evaluation=progress.get("best"),
            last_scored_epoch=progress.get("scored", -1),
            log_bytes=progress.get("log_bytes"),
        )
        counts = [state.epoch, state.batches_done]
        if not all(type(count) is int and count >= 0 for count in counts) or not isinstance(state.seconds, float):
            raise ValueError(f"found {counts}, expected counts")
        return state


class Checkpointer:
    """The checkpoints in a run's folder.

    `checkpoint.pth` is the newest, `checkpoint_prev.pth` its predecessor; both are complete at any time. All processes
    of the run call each method together; only the first one writes.

    Args:
        folder: folder of the run.
        context: rank, world size and device of this process.
        config: settings of the run.
        model, optimizer, scaler: saved and restored; the optimizer is built from `model.named_parameters()`.
        data_fingerprint: hash that identifies the training data.
        encoder: description of the encoder of the frame features, {} if it is not known.
        decoder_base: `CaptionDecoder.describe_base()` of the model.
    Attributes:
        current_path: path of the checkpoint with the current weights, None if there is none.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        context: DistContext,
        config: TrainingConfig,
        *,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None = None,
        data_fingerprint: str = "",
        encoder: dict[str, Any] | None = None,
        decoder_base: dict[str, str] | None = None,
    ) -> None:
        self.folder = pathlib.Path(folder)
        self.context = context
        self.config = config
        self.model = model
        self.optimizer = optimizer
        self.scaler = scaler
        self.data_fingerprint = data_fingerprint
        self.encoder = encoder or {}
        self.decoder_base = decoder_base
        self.current_path: pathlib.Path | None = None
        self._rank_state: dict[str, Any] | None = None  # this process's entry of the restored checkpoint

    def __getitem__(self, name: str) -> pathlib.Path:
        return self.folder / name

    def save(self, state: TrainState, log: JsonlLogger) -> None:
        """Write `checkpoint.pth` atomically; its predecessor becomes `checkpoint_prev.pth`.

        Args:
            state: progress of the run.
            log: log of the run; a resumed run continues it from its current end.
        Raises:
            OSError: it cannot be written; existing checkpoints are unchanged.
        """
        rank_state = dict(totals=state.loss_sums, random=get_rng_state())
        processes = distributed.gather_objects(rank_state, self.context)
        if self.context.is_main:
            state.log_bytes = log.sync()
            checkpoint = dict(
                model=self.model.state_dict(),
                optimizer=self.optimizer.state_dict(),
                config=self.config.as_dict(),
                epoch=state.epoch - 1,  # the last finished epoch, as in released checkpoints
                progress=state.to_dict(),
                processes=processes,
                data=self.data_fingerprint,
                versions=environment_info(),
            )
            if self.encoder:
                checkpoint["encoder"] = self.encoder
            if self.decoder_base:
                checkpoint["decoder_base"] = self.decoder_base
            if self.scaler is not None and self.scaler.is_enabled():
                checkpoint["scaler"] = self.scaler.state_dict()
            with atomic_write(self[NEWEST], "wb") as file:
                _save(checkpoint, file)
                if self[NEWEST].exists():
                    replace_hardlink(self[NEWEST], self[PREVIOUS])
        self.current_path = self[NEWEST]

    def save_snapshot(self, name: str, keep_last: int = 0) -> None:
        """Keep the newest checkpoint under another name, as a hard link.

        Args:
            name: path within the folder.
            keep_last: number of newest snapshots to keep; 0 keeps all.
        """
        if not self.context.is_main:
            return
        path = self[name]
        path.parent.mkdir(exist_ok=True)
        replace_hardlink(self[NEWEST], path)
        if keep_last:
            for old in sorted(path.parent.glob("checkpoint_*.pth"), key=_snapshot_epoch)[:-keep_last]:
                old.unlink()

    def move_to_replaced(self) -> None:
        """Move the files of an earlier run into `replaced/`."""
        if self.context.is_main:
            for name in (NEWEST, PREVIOUS, BEST, *RUN_FILES):
                if self[name].exists():
                    self["replaced"].mkdir(exist_ok=True)
                    target = self["replaced"] / name
                    if target.is_dir():
                        shutil.rmtree(target)
                    self[name].rename(target)
                    logger.warning("%s: of an earlier run: moved to %s", self[name], self["replaced"])

    def resume(self, resume: str, batches_per_epoch: int | None = None) -> TrainState | None:
        """Restore a checkpoint: the newest of this run, if any, else the one at `resume`; "" restores none.

        Args:
            resume: "auto", a path or URL, or "".
            batches_per_epoch: batches of a whole epoch on this process, for the log; None if unknown.
        Returns:
            Progress of the run; None if there is no checkpoint to resume from.
        Raises:
            FileNotFoundError, ValueError: a checkpoint is missing or damaged, or does not fit the run.
        """
        is_restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0  # by the launcher, after a failure
        newest = self.find_newest() if resume or is_restarted else None
        if newest is None and resume in ("auto", ""):
            if not is_restarted:
                self.move_to_replaced()
            return None
        with distributed.local_main_first(self.context):
            path = newest or resolve_file(resume)
        state = self.restore(path, is_same_run=newest is not None)
        self.current_path = path
        if state.epoch >= self.config.max_epoch:
            logger.info("%s: all %d epochs are done", path, self.config.max_epoch)
        else:
            position = self._describe_position(state.batches_done, batches_per_epoch)
            logger.info("%s: resumed at epoch %d, after %s", path, state.epoch + 1, position)
        return state

    def _describe_position(self, batches_done: int, batches_per_epoch: int | None) -> str:
        """Describe a position in an epoch in batches of this process, or, between its steps, of all processes."""
        done, remainder = divmod(batches_done, self.context.world_size)
        if remainder:
            return f"{batches_done} batches of all processes"
        return f"{done} batches of it" if batches_per_epoch is None else f"{done} of {batches_per_epoch} batches"

    def find_newest(self) -> pathlib.Path | None:
        """Find the newest undamaged checkpoint in the folder; None if there is no checkpoint.

        Raises:
            ValueError: all checkpoints are damaged.
        """
        path: pathlib.Path | None = None
        reasons: list[str] = []
        if self.context.is_main:
            for name in (NEWEST, PREVIOUS):
                if self[name].exists() and not path:
                    try:
                        read_checkpoint(self[name])
                        path = self[name]
                    except DamagedCheckpoint as error:
                        reasons.append(str(error))
        path, reasons = distributed.broadcast_object((path, reasons), self.context)
        if reasons and not path:
            raise ValueError(f"{'; '.join(reasons)}; expected an undamaged checkpoint (--resume '' starts fresh)")
        for reason in reasons:
            logger.warning("%s", reason)
        if path == self[PREVIOUS]:
            logger.warning("%s: resuming from the previous checkpoint", path)
        return path

    def restore(self, path: str | os.PathLike, *, is_same_run: bool) -> TrainState:
        """Load a checkpoint into model, optimizer and scaler.

        Args:
            path: file that `save` wrote, or checkpoint of the published code, which has only `model`, `optimizer`,
                `config` and `epoch`.
            is_same_run: whether it belongs to this run: then, different settings or data are an error.
        Raises:
            FileNotFoundError, ValueError: no such file, or it does not fit the run.
        """
        checkpoint = read_checkpoint(path)
        needed = ("model", "optimizer", "epoch")
        missing = [key for key in needed if not isinstance(checkpoint, dict) or key not in checkpoint]
        if missing:
            raise ValueError(
                f"{path}: resume: missing {', '.join(missing)}, expected the checkpoint.pth of a training run"
            )
        metadata = read_metadata(checkpoint)
        require_same_encoder(metadata.encoder, self.encoder, path)
        self._check_settings(path, checkpoint, is_same_run)
        require_same_decoder_base(metadata.decoder_base, self.decoder_base, path)
        try:
            state, processes = self._read_progress(checkpoint)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path}: resume: progress: {error or type(error).__name__}") from None
        if self._rank_state is None and state.batches_done:
            logger.warning(
                "%s: saved by %d %s, now there %s %d: the order of samples changes",
                path,
                processes,
                "process" if processes == 1 else "processes",
                "is" if self.context.world_size == 1 else "are",
                self.context.world_size,
            )
        self._load(path, checkpoint)
        if not is_same_run:  # scores and log of another run are not continued
            state.best_evaluation = state.log_bytes = None
            state.last_scored_epoch = state.epoch - 1
            batch_size = self.config.batch_size
            state.batches_done = (
                state.batches_done * read_metadata(checkpoint).config.get("batch_size", batch_size) // batch_size
            )
        return state

    def _read_progress(self, checkpoint: dict[str, Any]) -> tuple[TrainState, int]:
        """Return the progress in a checkpoint, and the number of processes that saved it."""
        if "progress" not in checkpoint:  # a released one, or of an earlier version: saved at the end of an epoch
            return TrainState(epoch=checkpoint["epoch"] + 1), 0
        state, processes = TrainState.from_dict(checkpoint["progress"]), checkpoint["processes"]
        same_size = len(processes) == self.context.world_size
        self._rank_state = processes[self.context.rank] if same_size else None
        sums = [process["totals"] for process in processes]
        if self._rank_state:
            state.loss_sums = self._rank_state["totals"]
        elif sums:
            state.loss_sums = [sum(column) / len(sums) for column in zip(*sums)]
        return state, len(processes)

    def _load(self, path: str | os.PathLike, checkpoint: dict[str, Any]) -> None:
        """Load model, optimizer and scaler; all but the scaler is checked before anything is changed."""
        state, expected = extract_state_dict(checkpoint, path), self.model.state_dict()
        mismatches = describe_mismatches(state, expected, set(expected))
        if mismatches:
            raise ValueError(f"{path}: resume: does not fit the model ({mismatches})")
        try:
            optimizer_state = match_optimizer_state(checkpoint["optimizer"], list(state), self.optimizer)
        except Exception as error:  # a damaged one raises nearly anything
            reason = " ".join(str(error).split())[:500]
            raise ValueError(
                f"{path}: resume: does not fit the model (optimizer: {reason}); --resume '' starts fresh"
            ) from None
        try:
            self.model.load_state_dict(state)
            self.optimizer.load_state_dict(optimizer_state)
            if self.scaler is not None and self.scaler.is_enabled() and "scaler" in checkpoint:
                self.scaler.load_state_dict(checkpoint["scaler"])
        except Exception as error:
            reason = " ".join(str(error).split())[:500]
            raise ValueError(f"{path}: resume: does not fit the model ({reason})") from None

    def _check_settings(self, path: str | os.PathLike, checkpoint: dict[str, Any], is_same_run: bool) -> None:
        """Compare settings and data with those of the checkpoint's training."""
        trained, current = self.config.canonical(read_metadata(checkpoint).config), self.config.as_dict()
        different = [
            f"{name} (was {repr(trained[name])[:60]}, is {current[name]!r})"
            for name in self.config.resume_critical_fields()
            if name in trained and trained[name] != current[name]
        ]
        if checkpoint.get("data", self.data_fingerprint) != self.data_fingerprint:
            different.append("ann_root, subset (other training videos, captions or labels)")
        if different and is_same_run:
            raise ValueError(
                f"{path}: resume: found a run with other settings: {', '.join(different)}; expected the same; to "
                "continue with the new settings in another folder, add to the command: "
                f"--output_dir {shlex.quote(str(self._unused_folder()))} --resume {shlex.quote(str(path))}"
            )
        for difference in different:
            logger.warning("%s: was trained with other settings: %s", path, difference)

    def _unused_folder(self) -> pathlib.Path:
        """A folder beside this one that does not exist."""
        names = (f"{self.folder.name}_continued{number}" for number in ["", *range(2, 1000)])
        return next(path for path in map(self.folder.with_name, names) if not path.exists())

    def seed(self, state: TrainState) -> None:
        """Restore the RNG state of the checkpoint, or seed the epoch."""
        rank_state, self._rank_state = self._rank_state, None
        seed_everything(derive_epoch_seed(self.config.seed, self.context.rank, state.epoch) + state.batches_done)
        if state.batches_done and rank_state:
            set_rng_state(rank_state["random"])


def _save(checkpoint: dict[str, Any], file: Any) -> None:
    """`torch.save`, but a failed write raises the file's own OSError, which torch wraps."""
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError):
                raise cause from None
            cause = cause.__context__
        raise


def count_parameters(path: str | os.PathLike) -> int:
    """Number of parameters in a checkpoint's model."""
    return sum(value.numel() for value in extract_state_dict(read_checkpoint(path), path).values())


def _snapshot_epoch(path: pathlib.Path) -> int:
    digits = path.stem.removeprefix("checkpoint_")
    return int(digits) if digits.isdecimal() else -1
