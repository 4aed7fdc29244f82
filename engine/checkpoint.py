"""The checkpoints of a training run: all that it needs to go on."""

import dataclasses
import logging
import os
import pathlib
import sys

import torch

from models.weights import DamagedCheckpoint, config_of, read_checkpoint, state_dict_of
from utils import distributed
from utils.download import resolve_file
from utils.files import atomic_write, replace_hardlink
from utils.seed import epoch_seed, random_state, restore_random_state, seed_everything
from utils.versions import versions

logger = logging.getLogger(__name__)

NEWEST, PREVIOUS, BEST = "checkpoint.pth", "checkpoint_prev.pth", "checkpoint_best.pth"


@dataclasses.dataclass
class Progress:
    """How far a run is.

    `totals`, sums over the batches of the epoch under way, are of this process; all else is the same on each.
    """

    epoch: int = 0  # under way, or next
    done: int = 0  # batches of that epoch, of all processes together, that the weights have learned from
    totals: list[float] = dataclasses.field(default_factory=list)
    seconds: float = 0.0  # spent on that epoch
    skipped: int = 0  # steps that were left out because something was not finite
    best: dict | None = None  # of the evaluations so far: metric, value, epoch
    scored: int = -1  # last epoch whose evaluation is in the log
    log_bytes: int | None = None  # length of the log when the checkpoint was made

    def next_epoch(self):
        """Count the epoch under way as finished."""
        self.epoch, self.done, self.totals, self.seconds = self.epoch + 1, 0, [], 0.0


class Checkpoints:
    """The checkpoints in a run's folder.

    `checkpoint.pth` is the newest, `checkpoint_prev.pth` the one before; both are whole at any moment. All processes
    of the run call each method together; only the first one writes.

    Args:
        folder: the run's.
        world: `distributed.World`.
        config: `Settings` of the run.
        model, optimizer, scaler: what is saved and restored; no scaler for None.
        data: text that tells the training data from others.
    """

    def __init__(self, folder, world, config, *, model, optimizer, scaler=None, data=""):
        self.folder, self.world, self.config, self.data = pathlib.Path(folder), world, config, data
        self.model, self.optimizer, self.scaler = model, optimizer, scaler
        self.current = None  # path of the checkpoint that has the weights of now
        self.process = None  # what the one that was restored holds of this process

    def __getitem__(self, name):
        return self.folder / name

    def save(self, progress, log):
        """Make a checkpoint of now: written beside, renamed, the one before kept as `checkpoint_prev.pth`.

        Args:
            progress: `Progress`.
            log: `JsonLines`, the run's log up to here.
        Raises:
            OSError: it cannot be written; those that are there are untouched.
        """
        own = dict(totals=progress.totals, random=random_state())
        processes = distributed.gather_objects(own, self.world)
        if self.world.is_main:
            progress.log_bytes = log.position()
            shared = dataclasses.asdict(progress)
            del shared["totals"]
            state = dict(
                model=self.model.state_dict(),
                optimizer=self.optimizer.state_dict(),
                config=self.config.as_dict(),
                epoch=progress.epoch - 1,  # the last one finished, as in released checkpoints
                progress=shared,
                processes=processes,
                data=self.data,
                versions=versions(),
            )
            if self.scaler is not None and self.scaler.is_enabled():
                state["scaler"] = self.scaler.state_dict()
            with atomic_write(self[NEWEST], "wb") as file:
                _Writer(file).save(state)
                if self[NEWEST].exists():
                    replace_hardlink(self[NEWEST], self[PREVIOUS])
        self.current = self[NEWEST]

    def keep(self, name, last=0):
        """Give the newest checkpoint another name too.

        Args:
            name: path within the folder.
            last: of the checkpoints beside it, keep so many of the highest numbers; 0 keeps all.
        """
        if not self.world.is_main:
            return
        path = self[name]
        path.parent.mkdir(exist_ok=True)
        replace_hardlink(self[NEWEST], path)
        if last:
            for old in sorted(path.parent.glob("checkpoint_*.pth"), key=_number)[:-last]:
                old.unlink()

    def clear(self):
        """Put the checkpoints of an earlier run aside, into `replaced/`."""
        if self.world.is_main:
            for name in (NEWEST, PREVIOUS, BEST, "log.jsonl", "wandb_run.txt"):
                if self[name].exists():
                    self["replaced"].mkdir(exist_ok=True)
                    self[name].rename(self["replaced"] / name)
                    logger.warning("%s: of an earlier run: moved to %s", self[name], self["replaced"])

    def resume(self, resume):
        """Go on from a checkpoint, if there is one; the order is

        1. the run's own newest checkpoint, unless `resume` is "",
        2. the one that `resume` names.

        Args:
            resume: "auto", a path or URL, or "".
        Returns:
            `Progress`; None where there is no checkpoint to go on from.
        Raises:
            FileNotFoundError, ValueError: a checkpoint is missing or damaged, or does not fit the run.
        """
        restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0  # the launcher's, after a failure
        own = self.newest() if resume or restarted else None
        if own is None and resume in ("auto", ""):
            if not restarted:
                self.clear()
            return None
        with distributed.local_main_first(self.world):
            path = own or resolve_file(resume)
        progress = self.restore(path, own is not None)
        self.current = path
        logger.info("%s: going on: epoch %d, after %d batches of it", path, progress.epoch, progress.done)
        return progress

    def newest(self):
        """Path of the newest whole checkpoint in the folder, None where there is none.

        Raises:
            ValueError: there are checkpoints, and all are damaged.
        """
        found, reasons = None, []
        if self.world.is_main:
            for name in (NEWEST, PREVIOUS):
                if self[name].exists() and not found:
                    try:
                        read_checkpoint(self[name])
                        found = self[name]
                    except DamagedCheckpoint as error:
                        reasons.append(str(error))
        found, reasons = distributed.from_main((found, reasons), self.world)
        if reasons and not found:
            raise ValueError(f"{'; '.join(reasons)}; expected a whole checkpoint (--resume '' starts anew)")
        for reason in reasons:
            logger.warning("%s", reason)
        if found == self[PREVIOUS]:
            logger.warning("%s: going on from the checkpoint before the newest", found)
        return found

    def restore(self, path, own):
        """Load a checkpoint into model, optimiser and scaler.

        Args:
            path: what `save` wrote.
            own: it is this run's own: with other settings, or other data, it does not go on.
        Returns:
            `Progress`.
        Raises:
            FileNotFoundError, ValueError: no such file, or it does not fit the run.
        """
        state = read_checkpoint(path)
        missing = [key for key in ("model", "optimizer", "epoch") if not isinstance(state, dict) or key not in state]
        if missing:
            raise ValueError(
                f"{path}: resume: missing {', '.join(missing)}, expected the checkpoint.pth of a training run"
            )
        self._compare(path, state, own)
        try:
            progress, process = _progress(state, self.world)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path}: resume: progress: {error or type(error).__name__}") from None
        if process is None and progress.done:
            logger.warning(
                "%s: was made by %d processes, now there are %d: the order of samples changes",
                path,
                len(state["processes"]),
                self.world.size,
            )
        self._load(path, state)
        self.process = process
        if not own:  # the scores and the log of another run stay with it
            progress.best = progress.log_bytes = None
            progress.scored = progress.epoch - 1
            now = self.config.batch_size
            progress.done = progress.done * config_of(state).get("batch_size", now) // now
        return progress

    def _load(self, path, state):
        own = [
            {name: group[name] for name in ("weight_decay", "fused", "foreach")}
            for group in self.optimizer.param_groups
        ]
        try:
            self.model.load_state_dict(state["model"])
            for group, settings in zip(state["optimizer"]["param_groups"], own):
                group.update(settings)  # what this run was told, not what the other was
            moments = state["optimizer"]["state"]
            state["optimizer"]["state"] = {i: {k: v.clone() for k, v in m.items()} for i, m in moments.items()}
            self.optimizer.load_state_dict(state["optimizer"])
            if self.scaler is not None and self.scaler.is_enabled() and "scaler" in state:  # else another precision's
                self.scaler.load_state_dict(state["scaler"])
        except Exception as error:  # torch checks little of an optimiser's state before it uses it
            reason = " ".join(str(error).split())[:500]
            raise ValueError(f"{path}: resume: does not fit the model ({reason})") from None

    def _compare(self, path, state, own):
        """Compare settings and data with those that a checkpoint was trained with."""
        then, now = config_of(state), self.config.as_dict()
        names = [name for name in self.config.decisive() if name in then and then[name] != now[name]]
        different = [f"{name} (was {repr(then[name])[:60]}, is {now[name]!r})" for name in names]
        if state.get("data", self.data) != self.data:
            different.append("ann_root (other training videos, captions or labels)")
        if different and own:
            raise ValueError(
                f"{path}: resume: found a run with other settings: {', '.join(different)}; expected the same: use "
                f"another output_dir, where --resume {path} goes on with these"
            )
        for difference in different:
            logger.warning("%s: was trained with other settings: %s", path, difference)

    def seed(self, progress):
        """Let the generators go on from where the checkpoint was made, or start the epoch's."""
        process, self.process = self.process, None
        seed_everything(epoch_seed(self.config.seed, self.world.rank, progress.epoch) + progress.done)
        if progress.done and process:
            restore_random_state(process["random"])


class _Writer:
    """Lets `torch.save` write to a file, but fail as the file does: it would report a full disk in its own terms."""

    def __init__(self, file):
        self.file, self.error = file, None

    def save(self, state):
        try:
            torch.save(state, self)
        except RuntimeError:
            raise self.error or sys.exception() from None

    def write(self, data):
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self):
        self.file.flush()


def count_parameters(path):
    """Number of parameters in a checkpoint's model."""
    return sum(value.numel() for value in state_dict_of(read_checkpoint(path), path).values())


def _number(path):
    digits = path.stem.removeprefix("checkpoint_")
    return int(digits) if digits.isdecimal() else -1


def _progress(state, world):
    """`Progress` of a checkpoint, and what it holds of this process, None where their number was another."""
    if "progress" not in state:  # released, or of an earlier version: at the end of an epoch
        state["progress"], state["processes"] = dict(epoch=state["epoch"] + 1), []
    progress, processes = Progress(**state["progress"]), state["processes"]
    counts = [getattr(progress, name) for name in ("epoch", "done", "skipped")]
    if not all(type(count) is int and count >= 0 for count in counts) or not isinstance(progress.seconds, float):
        raise ValueError(f"found {counts}, expected counts")
    process = processes[world.rank] if len(processes) == world.size else None
    totals = [p["totals"] for p in processes]
    if process:
        progress.totals = process["totals"]
    elif totals:
        progress.totals = [sum(column) / len(totals) for column in zip(*totals)]
    return progress, process
