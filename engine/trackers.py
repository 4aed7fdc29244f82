"""Show a run's `log.jsonl` in TensorBoard or Weights & Biases while it is written.

`log.jsonl` is the record; what is here only follows it. A run that goes on shows what is kept of its log again, so the
curves have no gap and nothing twice. A finished run can be shown too: `python -m engine.trackers RUN`.
"""

import importlib.util
import pathlib
import secrets

from report.runs import read_log
from utils.command_line import OneLineParser
from utils.files import make_folder
from utils.log import run_main

FOLDER = "tensorboard"


def check_trackers(config):
    """Look for the packages that a configuration's trackers need before anything slow is done.

    Raises:
        FileNotFoundError: one is not installed.
    """
    for name in ("tensorboard", "wandb"):
        if getattr(config, name) and importlib.util.find_spec(name) is None:
            raise FileNotFoundError(f"{name}: the package is not installed; pip install {name}")


def follow(log, config):
    """Have the trackers that a configuration asks for follow a log, from its first line on.

    Args:
        log: `JsonLines` of this process; one that writes nothing is not followed.
        config: `Config`.
    """
    if not log.file:
        return
    trackers = []
    if config.tensorboard:
        trackers.append(TensorBoard(pathlib.Path(config.output_dir, FOLDER)))
    if config.wandb:
        trackers.append(WeightsAndBiases(config))
    for tracker in trackers:
        replay(log.path, tracker)
        log.followers.append(tracker)


def replay(path, tracker):
    """Show a tracker all lines of a log."""
    for line in read_log(path):
        tracker.add(line)


class _Tracker:
    """Turns lines of a log into scalars at a step; the subclass's `show(step, scalars)` shows them.

    The step is the number of batches before, over all epochs. An epoch's last batch is always in the log, so the
    number of batches in an epoch is known once there is a second one.
    """

    def __init__(self):
        self.batches = 0

    def add(self, line):
        """Show a line, a dictionary; what is null in it, not being finite, is left out."""
        if line["type"] == "step":
            self.batches = max(self.batches, line["step"] + 1)
        step = line["epoch"] * self.batches + line.get("step", self.batches - 1)
        place = f"scores_{line['split']}" if "split" in line else dict(step="train").get(line["type"], line["type"])
        scalars = {f"{place}/{name}": value for name, value in line.items() if isinstance(value, (int, float))}
        self.show(step, {name: v for name, v in scalars.items() if not name.endswith(("/epoch", "/step"))})


class TensorBoard(_Tracker):
    """Event files in a folder; those that are there are of the same log and removed."""

    def __init__(self, folder):
        from torch.utils.tensorboard import SummaryWriter

        super().__init__()
        folder = make_folder(folder, FOLDER)
        for path in folder.glob("events.out.tfevents.*"):
            path.unlink()
        self.writer = SummaryWriter(folder, flush_secs=10)

    def show(self, step, scalars):
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)

    def close(self):
        self.writer.close()


class WeightsAndBiases(_Tracker):
    """A run of the project that `wandb` names; one that goes on is the same there, and lines it has are left out."""

    def __init__(self, config):
        import wandb

        super().__init__()
        folder = pathlib.Path(config.output_dir)
        note = folder / "wandb_run.txt"  # the run's name on the service
        if not note.is_file():
            note.write_text(secrets.token_hex(4), encoding="utf-8")
        self.run = wandb.init(
            project=config.wandb,
            id=note.read_text(encoding="utf-8").strip(),
            name=folder.name,
            dir=str(folder),
            config=config.as_dict(),
            resume="allow",
        )
        self.run.define_metric("*", step_metric="batch")
        self.lines, self.known = 0, self.run.summary.get("line", 0)

    def show(self, step, scalars):
        self.lines += 1
        if self.lines > self.known:
            self.run.log(dict(scalars, batch=step, line=self.lines))

    def close(self):
        self.run.finish()


def main(argv=None):
    parser = OneLineParser(prog="python -m engine.trackers", description="Write a run's log for TensorBoard.")
    parser.add_argument("run", help="folder with log.jsonl")
    args = parser.parse_args(argv)
    path = pathlib.Path(args.run, "log.jsonl")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: log: no such file")
    tracker = TensorBoard(path.with_name(FOLDER))
    replay(path, tracker)
    tracker.close()
    print(f"tensorboard --logdir {path.with_name(FOLDER)}")


if __name__ == "__main__":
    run_main(main)
