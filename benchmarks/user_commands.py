"""The commands of the README on mini VideoXum, each in a process of its own, as checks of `benchmarks.gpu`."""

import contextlib
import dataclasses
import functools
import json
import math
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from benchmarks.checks import Check, NotApplicable
from benchmarks.records import Row
from summary.files import FILES

REPOSITORY_FOLDER = pathlib.Path(__file__).resolve().parent.parent
SPLIT_COUNTS = {"full": dict(train=33, val=2, test=5), "toy": dict(train=9, val=1, test=2)}
VIDEO_COUNTS = dict(train=4, val=2, test=1)
COMMAND_SECONDS = 150  # limit of a command
TAIL_LINES = 40  # of the output of a failed command, shown on stderr
MODEL_PACKAGES = ("timm", "transformers", "safetensors", "ruamel")
SCORING_PACKAGES = (*MODEL_PACKAGES, "scipy")
VIDEO_PACKAGES = (*MODEL_PACKAGES, "av")


class CommandFailed(Exception):
    """A command has ended with an error, or exceeded its time limit."""


@dataclasses.dataclass(frozen=True)
class CommandChecks:
    """The checks of all commands, on one folder and device.

    Attributes:
        folder: temporary folder for data and outputs.
        device: `cpu` or `cuda`.
        size: `full`, with a batch of 2 for each of 16 processes, or `toy`.
    """

    folder: pathlib.Path
    device: str
    size: str

    @property
    def features_root(self) -> pathlib.Path:
        """Folder with annotations, tokenizer and synthetic frame features, which need no package for videos."""
        return self.folder / "features"

    @property
    def videos_root(self) -> pathlib.Path:
        """Folder with rendered videos and encoders, and the features that the extraction writes."""
        return self.folder / "videos"

    @property
    def checkpoint(self) -> pathlib.Path:
        """Checkpoint of the training check."""
        return self.folder / "train/checkpoint.pth"

    def list_checks(self) -> list[Check]:
        """List the checks of the commands, in an order that satisfies their requirements."""
        train = functools.partial(self.check_training, "train")
        train_compiled = functools.partial(self.check_training, "train-compile", "--compile", "true")
        encoder_packages = (*VIDEO_PACKAGES, "open_clip")
        return [
            Check("data", self.write_features, ("timm", "PIL")),
            Check("train", train, SCORING_PACKAGES, ("data",)),
            Check("train-compile", train_compiled, SCORING_PACKAGES, ("data",)),
            Check("train-all-gpus", self.check_launched_training, SCORING_PACKAGES, ("data",)),
            Check("gradients-all-gpus", self.check_all_gpus, MODEL_PACKAGES),
            Check("gradients-shared-gpu", self.check_shared_gpu, MODEL_PACKAGES),
            Check("evaluate", self.check_evaluation, SCORING_PACKAGES, ("train",)),
            Check("metrics", self.check_metrics, ("scipy", "tabulate"), ("train",)),
            Check("report", self.check_report, ("scipy", "matplotlib", "jinja2"), ("train",)),
            Check("videos", self.write_videos, encoder_packages),
            Check("extract", self.check_extraction, encoder_packages, ("videos",)),
            Check("train-vt-clip", self.check_vt_clip_training, encoder_packages, ("extract",)),
            Check("summarize", self.check_summary, (*VIDEO_PACKAGES, "jinja2"), ("train", "videos")),
            Check("app", self.check_app, (*VIDEO_PACKAGES, "gradio"), ("train", "videos")),
        ]

    # Data.

    def write_features(self) -> list[Row]:
        """Write annotations, tokenizer and synthetic frame features, without VT-CLIP's, which need open_clip."""
        from data.mini import dataset as mini
        from data.mini.encoders import FEATURE_WIDTH
        from data.mini.plans import ACTIONS, COLORS, SHAPES, plan_videos

        start = time.perf_counter()
        for name in ("anno", "tokenizer", "feat/blip"):
            (self.features_root / name).mkdir(parents=True)
        (self.features_root / "tokenizer/vocab.txt").write_text("\n".join(mini.build_vocabulary()) + "\n")
        counts = SPLIT_COUNTS[self.size]
        rng = np.random.default_rng(0)
        names = ("background", "peak", *COLORS, *SHAPES, *ACTIONS)
        directions = dict(zip(names, rng.standard_normal((len(names), FEATURE_WIDTH))))
        for split, plans in plan_videos(0, counts).items():
            for plan in plans:
                features = mini.draw_frame_features(plan, rng, directions)
                np.savez(self.features_root / f"feat/blip/{plan.video_id}.npz", features=features)
            records = [mini.annotate_video(plan, rng) for plan in plans]
            (self.features_root / f"anno/{split}_videoxum.json").write_text(json.dumps(records))
        return [build_row("synthetic features", start, f"{sum(counts.values())} videos")]

    def write_videos(self) -> list[Row]:
        """Render videos, and write the encoders of mini VideoXum."""
        from data.mini.dataset import write_mini

        start = time.perf_counter()
        write_mini(self.videos_root, counts=VIDEO_COUNTS)
        return [build_row("rendered videos, fitted encoders", start, f"{sum(VIDEO_COUNTS.values())} videos")]

    # Commands.

    def model_flags(self) -> list[str]:
        """Flags that every command with a model takes."""
        flags = ["--config", "configs/mini.yaml", "--tokenizer", str(self.features_root / "tokenizer")]
        return [*flags, "--device", self.device, "--precision", "bf16"]

    def data_flags(self) -> list[str]:
        """Flags of the synthetic features; without Java, caption metrics are left out."""
        flags = ["--video_embeddings_root", str(self.features_root / "feat/blip"), "--clip_root", ""]
        flags += ["--ann_root", str(self.features_root / "anno"), "--pretrained_clip", "", "--splits", "test"]
        return [*flags, "--caption_metrics", "auto"]

    def training_flags(self) -> list[str]:
        """Flags of a training of two epochs."""
        flags = ["--max_epoch", "2", "--batch_size", "2", "--ckpt_freq", "0", "--resume", "", "--log_freq", "1"]
        return [*self.model_flags(), *self.data_flags(), *flags]

    def check_training(self, name: str, *flags: str, launcher: Sequence[str] = ()) -> list[Row]:
        """Train two epochs in bf16, and read the run's losses and scores.

        Args:
            name: name of the run's folder.
            flags: further flags.
            launcher: words between `python` and the script.
        """
        start = time.perf_counter()
        run = self.folder / name
        argv = [*launcher, "train_v2vt_sum.py", *self.training_flags(), "--output_dir", str(run), *flags]
        run_python(argv)
        log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        losses = [entry["loss"] for entry in log if entry["type"] == "epoch"]
        if len(losses) != 2 or not all(math.isfinite(loss) for loss in losses) or not losses[1] < losses[0]:
            raise CommandFailed(f"{name}: losses of two epochs: found {losses}, expected a decrease")
        check = f"loss {losses[0]:.2f}, then {losses[1]:.2f}; {read_keyframe_scores(run)}"
        return [build_row(f"train_v2vt_sum.py, bf16{''.join(f' {flag}' for flag in flags)}", start, check)]

    def check_launched_training(self) -> list[Row]:
        """Train on all GPUs with NCCL; on a CPU, on two processes with gloo."""
        num_processes = self.count_processes()
        rows = self.check_training("train-all-gpus", launcher=launcher_words(num_processes))
        backend = "gloo" if self.device == "cpu" else "NCCL"
        return [row.model_copy(update=dict(check=f"{num_processes} processes, {backend}; {row.check}")) for row in rows]

    def count_processes(self) -> int:
        """Return the number of processes of a run that uses every GPU.

        Raises:
            NotApplicable: there is one GPU.
        """
        if self.device == "cpu":
            return 2
        num_gpus = torch.cuda.device_count()
        if num_gpus < 2:
            raise NotApplicable("one GPU: NCCL needs a GPU for each process")
        return min(num_gpus, SPLIT_COUNTS[self.size]["train"] // 2)

    def check_all_gpus(self) -> list[Row]:
        """Compare training steps on all GPUs with one process."""
        return self.compare_processes(self.count_processes(), "gloo" if self.device == "cpu" else "nccl")

    def check_shared_gpu(self) -> list[Row]:
        """Compare training steps of two processes on one GPU with one process."""
        return self.compare_processes(2, "gloo", "--shared_device")

    def compare_processes(self, num_processes: int, backend: str, *flags: str) -> list[Row]:
        """Compare training steps of several processes with one process, see `benchmarks.two_processes`."""
        start = time.perf_counter()
        module = ["-m", "benchmarks.two_processes", "--device", self.device, "--backend", backend]
        output = run_python([*launcher_words(num_processes), *module, *flags])
        results = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
        if results["world_size"] != num_processes:
            raise CommandFailed(f"found {results['world_size']} processes, expected {num_processes}")
        check = f"weights differ from one process's by {results['difference']:.0e} of the largest change"
        devices = "on one device" if flags else "on one device each"
        return [build_row(f"{num_processes} processes, {backend}, {devices}", start, check)]

    def check_evaluation(self) -> list[Row]:
        """Score the checkpoint of the training again."""
        start = time.perf_counter()
        folder = self.folder / "evaluation"
        flags = ["--pretrained_model", str(self.checkpoint), "--output_dir", str(folder)]
        run_python(["eval_v2vt_sum.py", *self.model_flags(), *self.data_flags(), *flags])
        scores, expected_scores = read_keyframe_scores(folder), read_keyframe_scores(self.folder / "train")
        if scores != expected_scores:
            raise CommandFailed(f"evaluation: found {scores}, expected those of the training, {expected_scores}")
        return [build_row("eval_v2vt_sum.py, bf16", start, f"{scores}, as after the training")]

    def check_metrics(self) -> list[Row]:
        """Score the predictions without their captions, which need Java."""
        start = time.perf_counter()
        predictions = self.folder / "predictions_test.jsonl"
        lines = (self.folder / "train/predictions_test.jsonl").read_text().splitlines()
        predictions.write_text("".join(json.dumps(json.loads(line) | dict(caption=None)) + "\n" for line in lines))
        annotations = self.features_root / "anno/test_videoxum.json"
        folder = self.folder / "metrics"
        run_python(["-m", "metrics", str(predictions), str(annotations), "--output_dir", str(folder)])
        scores, expected_scores = read_keyframe_scores(folder), read_keyframe_scores(self.folder / "train")
        if scores != expected_scores:
            raise CommandFailed(f"metrics: found {scores}, expected {expected_scores}")
        return [build_row("python -m metrics, without captions", start, scores)]

    def check_report(self) -> list[Row]:
        """Write the report of the training."""
        start = time.perf_counter()
        run_python(["-m", "report", str(self.folder / "train")])
        page = require_files(self.folder / "train", "report.html")
        return [build_row("python -m report", start, page)]

    def check_extraction(self) -> list[Row]:
        """Extract the features of BLIP's encoder and of VT-CLIP."""
        start = time.perf_counter()
        root = self.videos_root
        annotations = [str(path) for path in sorted((root / "anno").glob("*.json"))]
        flags = ["--videos", str(root / "videos"), "--out", str(root / "feat"), "--annotations", *annotations]
        flags += ["--blip", str(root / "frame_encoder.pth"), "--image_size", "64"]
        flags += ["--vt_clip", str(root / "vt_clip.pth")]
        run_python(["extract_features.py", *flags, "--device", self.device])
        num_frames = 0
        for split in VIDEO_COUNTS:
            for record in json.loads((root / f"anno/{split}_videoxum.json").read_text()):
                for name, field in (("blip", "features"), ("vt_clipscore", "vision")):
                    with np.load(root / f"feat/{name}/{record['video_id']}.npz") as arrays:
                        features = arrays[field]
                    if len(features) != record["sampled_frames"] or not np.isfinite(features).all():
                        raise CommandFailed(f"{record['video_id']}: {field}: found {features.shape}, or not finite")
                num_frames += record["sampled_frames"]
        return [build_row("extract_features.py", start, f"{num_frames} frames by two encoders, finite")]

    def check_vt_clip_training(self) -> list[Row]:
        """Fine-tune the tiny CLIP on the extracted features."""
        start = time.perf_counter()
        root = self.videos_root
        folder = self.folder / "vt_clip"
        flags = ["--ann_root", str(root / "anno"), "--vision_root", str(root / "feat/vt_clipscore"), "--resume", ""]
        flags += ["--clip", str(root / "vt_clip.pth"), "--max_epoch", "1", "--batch_size", "2", "--frames", "2"]
        flags += ["--num_workers", "0", "--device", self.device, "--output_dir", str(folder)]
        run_python(["train_vt_clip.py", "--config", "configs/vt_clip.yaml", *flags])
        return [build_row("train_vt_clip.py", start, require_files(folder, "vt_clip.pth"))]

    def summary_flags(self) -> list[str]:
        """Flags of the trained model with the frame encoder of mini VideoXum."""
        flags = ["--pretrained_model", str(self.checkpoint), "--blip", str(self.videos_root / "frame_encoder.pth")]
        return [*self.model_flags(), *flags]

    def check_summary(self) -> list[Row]:
        """Summarize a video."""
        start = time.perf_counter()
        out = self.folder / "summaries"
        video = next((self.videos_root / "videos").glob("mini_test_*.mp4"))
        run_python(["summarize.py", str(video), *self.summary_flags(), "--out", str(out)])
        files = require_files(out / video.stem, *FILES)
        return [build_row("summarize.py, bf16", start, files)]

    def check_app(self) -> list[Row]:
        """Start the demo page, fetch it, and end it."""
        start = time.perf_counter()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        log = self.folder / "app.txt"
        argv = ["app.py", *self.summary_flags(), "--port", str(port)]
        with log.open("w") as file, start_python(argv, file) as process:
            page = fetch_page(f"http://127.0.0.1:{port}/", process, log)
            seconds = time.perf_counter() - start
            process.send_signal(signal.SIGTERM)
            status = process.wait(timeout=30)
        if status != 0:
            raise CommandFailed(describe_failure(["app.py"], f"exit status {status}", log.read_text()))
        check = f"{len(page)} bytes after {seconds:.1f} s, exit status 0"
        return [build_row("app.py", start, check)]


def launcher_words(num_processes: int) -> list[str]:
    """Words between `python` and a script that start several processes on this machine."""
    return ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_processes}"]


def build_row(measurement: str, start: float, check: str) -> Row:
    """Build the row of a command that started at `start`, of `time.perf_counter`."""
    return Row(measurement=measurement, project_value=time.perf_counter() - start, unit="s", check=check)


def read_keyframe_scores(folder: pathlib.Path) -> str:
    """Read the key-frame scores of a run on the test split, as text.

    Raises:
        CommandFailed: there is no such file, or a score is not finite.
    """
    path = folder / "results_test.json"
    if not path.is_file():
        raise CommandFailed(f"{path}: results: no such file")
    scores = json.loads(path.read_text())["metrics"]
    not_finite = [name for name, score in scores.items() if score is None or not math.isfinite(score)]
    if not_finite or "F1" not in scores:
        raise CommandFailed(f"{path}: found {scores}, expected finite scores")
    return ", ".join(f"{name} {scores[name]:.4f}" for name in ("F1", "Kendall", "Spearman"))


def require_files(folder: pathlib.Path, *names: str) -> str:
    """Describe files of a folder by name and size.

    Raises:
        CommandFailed: a file is missing or empty.
    """
    missing = [name for name in names if not (folder / name).is_file() or not (folder / name).stat().st_size]
    if missing:
        raise CommandFailed(f"{folder / missing[0]}: no such file, or an empty one")
    return ", ".join(f"{name} ({(folder / name).stat().st_size / 1e3:,.0f} kB)" for name in names)


@contextlib.contextmanager
def start_python(argv: Sequence[str], output: int | object) -> Iterator[subprocess.Popen]:
    """Start `python ARGV` in the repository, and kill its process group at the end of the block.

    Args:
        argv: arguments of Python.
        output: file for stdout and stderr.
    """
    launched = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    env = {name: value for name, value in os.environ.items() if name not in launched}
    env["HF_HUB_OFFLINE"] = "1"
    process = subprocess.Popen(
        [sys.executable, *argv],
        cwd=REPOSITORY_FOLDER,
        env=env,
        stdout=output,  # type: ignore[arg-type]  # a file
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run_python(argv: Sequence[str], seconds: float = COMMAND_SECONDS) -> str:
    """Run `python ARGV` in the repository; returns its output.

    Raises:
        CommandFailed: its exit status is not 0, or it exceeded the limit; the message has its last error.
    """
    with start_python(argv, subprocess.PIPE) as process:
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            raise CommandFailed(describe_failure(argv, f"exceeded {seconds:.0f} s", output)) from None
    if process.returncode != 0:
        raise CommandFailed(describe_failure(argv, f"exit status {process.returncode}", output))
    return output


def describe_failure(argv: Sequence[str], reason: str, output: str) -> str:
    """Describe a failed command in one line, and print the end of its output to stderr."""
    lines = output.splitlines()
    print(f"python {' '.join(argv)}: {reason}", *lines[-TAIL_LINES:], sep="\n", file=sys.stderr, flush=True)
    pattern = re.compile(r"(?:^|\]: ?)(error: .+|[\w.]*(?:Error|Failure|Exception): .+)$")
    errors = [match[1] for line in lines if (match := pattern.search(line.strip()))]
    last = errors[0] if errors else next((line for line in reversed(lines) if line.strip()), "no output")
    name = next((word for word in argv if word.endswith(".py") or word.startswith("benchmarks.")), " ".join(argv[:2]))
    return f"{name}: {reason}: {last}"


def fetch_page(url: str, process: subprocess.Popen, log: pathlib.Path) -> bytes:
    """Fetch a page as soon as its server answers.

    Raises:
        CommandFailed: the server has ended, or did not answer in time.
    """
    deadline = time.monotonic() + COMMAND_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise CommandFailed(describe_failure(["app.py"], f"exit status {process.returncode}", log.read_text()))
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return response.read()
        except OSError:
            time.sleep(0.2)
    raise CommandFailed(describe_failure(["app.py"], f"no answer in {COMMAND_SECONDS} s", log.read_text()))
