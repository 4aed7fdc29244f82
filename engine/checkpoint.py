"""Checkpoints of a training run: all that resuming needs."""

import dataclasses
import logging
import os
import pathlib
import shutil
from typing import Any

import torch

from models.weights import DamagedCheckpoint, config_of, read_checkpoint, state_dict_of
from utils import distributed
from utils.distributed import DistContext
from utils.download import resolve_file
from utils.environment import environment_info
from utils.files import atomic_write, replace_hardlink
from utils.log import JsonlLogger
from utils.seed import epoch_seed, random_state, restore_random_state, seed_everything
from utils.settings import Settings

logger = logging.getLogger(__name__)

NEWEST, PREVIOUS, BEST = "checkpoint.pth", "checkpoint_prev.pth", "checkpoint_best.pth"
# Files of a run beside its checkpoints that a new run in the folder replaces.
RUN_FILES = ("log.jsonl", "wandb_run.txt", "tensorboard")


@dataclasses.dataclass
class TrainState:
    """Progress of a run, saved in its checkpoints.

    `loss_sums` are of this process; all else is the same on each.
    """

    epoch: int = 0  # under way, or next
    batches_done: int = 0  # batches of that epoch, of all processes together, that the weights were updated with
    seconds: float = 0.0  # spent on that epoch
    loss_sums: list[float] = dataclasses.field(default_factory=list)  # over its batches; last, their number
    best: dict[str, Any] | None = None  # best evaluation so far: metric, value, epoch
    scored: int = -1  # last epoch whose evaluation is in the log
    log_bytes: int | None = None  # length of the log when the checkpoint was made

    def start_next_epoch(self) -> None:
        """Count the epoch under way as finished."""
        self.epoch, self.batches_done, self.seconds, self.loss_sums = self.epoch + 1, 0, 0.0, []

    def stored(self) -> dict[str, Any]:
        """Entry `progress` of a checkpoint, in its own names."""
        return dict(
            epoch=self.epoch,
            done=self.batches_done,
            seconds=self.seconds,
            best=self.best,
            scored=self.scored,
            log_bytes=self.log_bytes,
        )

    @classmethod
    def from_stored(cls, progress: dict[str, Any]) -> "TrainState":
        """Read the entry `progress` of a checkpoint.

        Raises:
            KeyError, TypeError, ValueError: it is no such entry.
        """
        progress = dict(progress)
        if progress.pop("skipped", 0):
            logger.info("skipped: steps that an earlier version left out, ignored")
        state = cls(batches_done=progress.pop("done", 0), **progress)
        counts = [state.epoch, state.batches_done]
        if not all(type(count) is int and count >= 0 for count in counts) or not isinstance(state.seconds, float):
            raise ValueError(f"found {counts}, expected counts")
        return state


class Checkpointer:
    """The checkpoints in a run's folder.

    `checkpoint.pth` is the newest, `checkpoint_prev.pth` the one before; both are complete at any moment. All
    processes of the run call each method together; only the first one writes.

    Args:
        folder: of the run.
        context: of the run's processes.
        config: settings of the run.
        model, optimizer, scaler: saved and restored.
        data: text that tells the training data from others.
    Attributes:
        current: path of the checkpoint that has the current weights, None if there is none.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        context: DistContext,
        config: Settings,
        *,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None = None,
        data: str = "",
    ) -> None:
        self.folder = pathlib.Path(folder)
        self.context = context
        self.config = config
        self.model = model
        self.optimizer = optimizer
        self.scaler = scaler
        self.data = data
        self.current: pathlib.Path | None = None
        self._rank_state: dict[str, Any] | None = None  # entry of this process in the restored checkpoint

    def __getitem__(self, name: str) -> pathlib.Path:
        return self.folder / name

    def save(self, state: TrainState, log: JsonlLogger) -> None:
        """Write `checkpoint.pth` atomically; the one before becomes `checkpoint_prev.pth`.

        Args:
            state: progress of the run.
            log: of the run; resuming continues behind its current end.
        Raises:
            OSError: it cannot be written; those on the disk are untouched.
        """
        rank_state = dict(totals=state.loss_sums, random=random_state())
        processes = distributed.gather_objects(rank_state, self.context)
        if self.context.is_main:
            state.log_bytes = log.position()
            checkpoint = dict(
                model=self.model.state_dict(),
                optimizer=self.optimizer.state_dict(),
                config=self.config.as_dict(),
                epoch=state.epoch - 1,  # the last one finished, as in released checkpoints
                progress=state.stored(),
                processes=processes,
                data=self.data,
                versions=environment_info(),
            )
            if self.scaler is not None and self.scaler.is_enabled():
                checkpoint["scaler"] = self.scaler.state_dict()
            with atomic_write(self[NEWEST], "wb") as file:
                _save(checkpoint, file)
                if self[NEWEST].exists():
                    replace_hardlink(self[NEWEST], self[PREVIOUS])
        self.current = self[NEWEST]

    def save_snapshot(self, name: str, last: int = 0) -> None:
        """Give the newest checkpoint another name too.

        Args:
            name: path within the folder.
            last: of the snapshots beside it, keep this many of the highest numbers; 0 keeps all.
        """
        if not self.context.is_main:
            return
        path = self[name]
        path.parent.mkdir(exist_ok=True)
        replace_hardlink(self[NEWEST], path)
        if last:
            for old in sorted(path.parent.glob("checkpoint_*.pth"), key=_number)[:-last]:
                old.unlink()

    def set_aside(self) -> None:
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

    def resume(self, resume: str) -> TrainState | None:
        """Restore a checkpoint, if there is one, in this order:

        1. the run's own newest checkpoint, unless `resume` is "",
        2. the one that `resume` names.

        Args:
            resume: "auto", a path or URL, or "".
        Returns:
            progress of the run; None if there is no checkpoint to resume from.
        Raises:
            FileNotFoundError, ValueError: a checkpoint is missing or damaged, or does not fit the run.
        """
        is_restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0  # by the launcher, after a failure
        own = self.newest() if resume or is_restarted else None
        if own is None and resume in ("auto", ""):
            if not is_restarted:
                self.set_aside()
            return None
        with distributed.local_main_first(self.context):
            path = own or resolve_file(resume)
        state = self.restore(path, own is not None)
        self.current = path
        logger.info("%s: resumed at epoch %d, after %d batches of it", path, state.epoch, state.batches_done)
        return state

    def newest(self) -> pathlib.Path | None:
        """Path of the newest undamaged checkpoint in the folder, None if there is none.

        Raises:
            ValueError: there are checkpoints, and all are damaged.
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
            logger.warning("%s: resuming from the checkpoint before the newest", path)
        return path

    def restore(self, path: str | os.PathLike, is_own: bool) -> TrainState:
        """Load a checkpoint into model, optimizer and scaler.

        Args:
            path: written by `save`.
            is_own: of this run itself: it is refused if it has other settings or other data.
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
        self._compare(path, checkpoint, is_own)
        try:
            state, processes = self._read_progress(checkpoint)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path}: resume: progress: {error or type(error).__name__}") from None
        if self._rank_state is None and state.batches_done:
            logger.warning(
                "%s: was made by %d processes, now there are %d: the order of samples changes",
                path,
                processes,
                self.context.world_size,
            )
        self._load(path, checkpoint)
        if not is_own:  # the scores and the log of another run stay with it
            state.best = state.log_bytes = None
            state.scored = state.epoch - 1
            batch_size = self.config.batch_size
            state.batches_done = state.batches_done * config_of(checkpoint).get("batch_size", batch_size) // batch_size
        return state

    def _read_progress(self, checkpoint: dict[str, Any]) -> tuple[TrainState, int]:
        """Progress in a checkpoint, and the number of processes that made it."""
        if "progress" not in checkpoint:  # released, or of an earlier version: at the end of an epoch
            return TrainState(epoch=checkpoint["epoch"] + 1), 0
        state, processes = TrainState.from_stored(checkpoint["progress"]), checkpoint["processes"]
        same_size = len(processes) == self.context.world_size
        self._rank_state = processes[self.context.rank] if same_size else None
        sums = [process["totals"] for process in processes]
        if self._rank_state:
            state.loss_sums = self._rank_state["totals"]
        elif sums:
            state.loss_sums = [sum(column) / len(sums) for column in zip(*sums)]
        return state, len(processes)

    def _load(self, path: str | os.PathLike, checkpoint: dict[str, Any]) -> None:
        kept = [
            {name: group[name] for name in ("weight_decay", "fused", "foreach")}
            for group in self.optimizer.param_groups
        ]
        try:
            self.model.load_state_dict(checkpoint["model"])
            for group, settings in zip(checkpoint["optimizer"]["param_groups"], kept):
                group.update(settings)  # of this run, not of the one that made the checkpoint
            moments = checkpoint["optimizer"]["state"]
            checkpoint["optimizer"]["state"] = {
                i: {name: value.clone() for name, value in values.items()} for i, values in moments.items()
            }
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            if self.scaler is not None and self.scaler.is_enabled() and "scaler" in checkpoint:
                self.scaler.load_state_dict(checkpoint["scaler"])
        except Exception as error:  # torch checks little of an optimizer's state before it uses it
            reason = " ".join(str(error).split())[:500]
            raise ValueError(f"{path}: resume: does not fit the model ({reason})") from None

    def _compare(self, path: str | os.PathLike, checkpoint: dict[str, Any], is_own: bool) -> None:
        """Compare settings and data with those that a checkpoint was trained with."""
        trained, current = config_of(checkpoint), self.config.as_dict()
        different = [
            f"{name} (was {repr(trained[name])[:60]}, is {current[name]!r})"
            for name in self.config.resume_critical_fields()
            if name in trained and trained[name] != current[name]
        ]
        if checkpoint.get("data", self.data) != self.data:
            different.append("ann_root (other training videos, captions or labels)")
        if different and is_own:
            raise ValueError(
                f"{path}: resume: found a run with other settings: {', '.join(different)}; expected the same: use "
                f"another output_dir, where --resume {path} continues with these"
            )
        for difference in different:
            logger.warning("%s: was trained with other settings: %s", path, difference)

    def seed(self, state: TrainState) -> None:
        """Restore the RNG state of the checkpoint, or seed the epoch."""
        rank_state, self._rank_state = self._rank_state, None
        seed_everything(epoch_seed(self.config.seed, self.context.rank, state.epoch) + state.batches_done)
        if state.batches_done and rank_state:
            restore_random_state(rank_state["random"])


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
    return sum(value.numel() for value in state_dict_of(read_checkpoint(path), path).values())


def _number(path: pathlib.Path) -> int:
    digits = path.stem.removeprefix("checkpoint_")
    return int(digits) if digits.isdecimal() else -1
