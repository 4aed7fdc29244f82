"""Trackers: copy a run's log to TensorBoard and Weights & Biases; `log.jsonl` remains the record."""

import contextlib
import importlib.util
import logging
import pathlib
import secrets
from collections.abc import Iterator
from typing import Any

from engine.config import Config
from utils import distributed
from utils.files import make_folder
from utils.log import JsonlLogger

logger = logging.getLogger(__name__)

FOLDER = "tensorboard"
RUN_ID = "wandb_run.txt"  # file with the id of the run on Weights & Biases


def check_trackers(config: Config) -> None:
    """Check that the packages of the requested trackers are installed, and that there is a login.

    On a terminal, Weights & Biases asks for its API key.

    Raises:
        FileNotFoundError: a package is not installed.
        ValueError: there is no API key of Weights & Biases, or it is invalid.
    """
    packages = dict(tensorboard=config.tensorboard or bool(config.wandb), wandb=bool(config.wandb))
    for name, is_needed in packages.items():
        if is_needed and importlib.util.find_spec(name) is None:
            raise FileNotFoundError(f"{name}: the package is not installed; pip install {name}")
    if config.wandb and distributed.is_first_rank():
        import wandb

        with _one_line_wandb_errors():
            wandb.login(verify=False)  # neither needed nor checked with WANDB_MODE=offline


@contextlib.contextmanager
def _one_line_wandb_errors() -> Iterator[None]:
    """Convert an error of Weights & Biases to a ValueError of one line."""
    import wandb

    try:
        yield
    except wandb.Error as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"wandb: found no access to Weights & Biases ({reason}); run `wandb login`, or set WANDB_MODE=offline"
        ) from None


def attach_trackers(log: JsonlLogger, config: Config, batches_per_epoch: int, world_size: int) -> None:
    """Attach the requested trackers to a log.

    Args:
        log: log of this process; a disabled log gets none.
        config: settings of the run.
        batches_per_epoch: number of batches of all processes together.
        world_size: number of processes.
    """
    if log.file and (config.tensorboard or config.wandb):
        log.trackers.append(SummaryTracker(config, batches_per_epoch, world_size))


class SummaryTracker:
    """Writes lines of a log as TensorBoard scalars; with `config.wandb`, Weights & Biases copies them.

    The step of a line is the number of batches so far, of all processes and epochs. A resumed run repeats the log lines
    since its checkpoint; those that the event files already have are skipped: no step appears twice.
    """

    def __init__(self, config: Config, batches_per_epoch: int, world_size: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.batches_per_epoch = batches_per_epoch
        self.world_size = world_size
        folder = make_folder(pathlib.Path(config.output_dir, FOLDER), FOLDER)
        self.last_steps = _last_steps(folder)
        self.wandb_run = _start_wandb(config) if config.wandb else None  # before the writer, which it patches
        self.writer = SummaryWriter(str(folder))

    def add(self, line: dict[str, Any]) -> None:
        """Write a line's finite numbers."""
        if line["type"] == "step":
            group, step = "train", line["epoch"] * self.batches_per_epoch + (line["step"] + 1) * self.world_size
        else:
            group = f"scores_{line['split']}" if "split" in line else line["type"]
            step = (line["epoch"] + 1) * self.batches_per_epoch
        for name, value in line.items():
            tag = f"{group}/{name}"
            is_shown = name not in ("epoch", "step") and isinstance(value, (int, float))
            if is_shown and step > self.last_steps.get(tag, -1):
                self.writer.add_scalar(tag, value, step)
        self.writer.flush()

    def close(self) -> None:
        """Close the event file, and the run on Weights & Biases."""
        self.writer.close()
        if self.wandb_run is not None:
            self.wandb_run.finish()


def _last_steps(folder: pathlib.Path) -> dict[str, int]:
    """Map the tags in a folder's event files to their last steps."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance=dict(scalars=0)).Reload()
    return {tag: events.Scalars(tag)[-1].step for tag in events.Tags()["scalars"]}


def _start_wandb(config: Config) -> Any:
    import wandb

    folder = pathlib.Path(config.output_dir)
    note = folder / RUN_ID
    if not note.is_file():
        note.write_text(secrets.token_hex(4), encoding="utf-8")
    with _one_line_wandb_errors():
        return wandb.init(
            project=config.wandb,
            id=note.read_text(encoding="utf-8").strip(),
            name=folder.name,
            dir=str(folder),
            config=config.as_dict(),
            resume="allow",
            sync_tensorboard=True,
        )
