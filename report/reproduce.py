"""Reproduce the paper's table: `python -m report.reproduce [--out DIR] [--what tt tt_ca] [-- FLAG …]`.

Data and released weights are downloaded to their published paths, unless they exist, and checked; each model is
evaluated on the test split by `eval_v2vt_sum.py`, on all GPUs; and the published scores are written beside the measured
ones. With --train, the weights are trained from BLIP's by `train_v2vt_sum.py`, with the published recipe.

    OUT/reproduction.md, OUT/reproduction.json
    OUT/{tt,tt_ca}/           files of the evaluation, and of the command: step.json
    OUT/{tt,tt_ca}/train/     files of the training (--train)
    OUT/reproduce.log

The same command resumes: finished downloads, finished evaluations of the same inputs, and epochs of a training are
kept. An interrupted evaluation repeats its split.

A score is within tolerance if it differs from the published one by at most 0.1 in the scale of the paper's table,
Kendall and Spearman, which are fractions there, by at most 0.001: see `report.reproduction.MAX_DIFFERENCE`.
"""

import argparse
import dataclasses
import datetime
import logging
import os
import pathlib
import sys
from collections.abc import Collection, Mapping, Sequence

from data.annotations import VideoRecord, hash_video_ids, read_subset
from data.check import ERRORS, FEATURES, PARTS, find_feature_folder
from data.download import download, download_weights
from data.registry import annotation_path, load_annotations
from engine.config import SPLITS, SplitName, load_config
from report.reproduction import InputFile, Reproduction, write_reproduction
from report.reproduction_steps import (
    PROJECT_ROOT,
    Step,
    describe_hardware,
    estimate_evaluation,
    estimate_training,
    format_estimate,
    sum_epoch_seconds,
)
from utils.command_line import OneLineParser
from utils.files import compute_folder_sha256, compute_sha256, make_folder
from utils.log import run_main, setup_logging
from utils.published_weights import PUBLISHED_WEIGHTS

PUBLISHED_BATCH = 64  # videos per optimizer step: 4 processes with 16 each


@dataclasses.dataclass(frozen=True)
class PublishedModel:
    """A row of the paper's table.

    Attributes:
        config: file in `configs/`.
        weights: key of `PUBLISHED_WEIGHTS`.
        evaluation_flags: of the published evaluation.
        training_flags: of the published training, without batch_size; `--model vtsum_blip_tt_ca` is TT's, too.
    """

    config: str
    weights: str
    evaluation_flags: str
    training_flags: str


MODELS = {
    "tt": PublishedModel(
        "vtsum_blip_tt.yaml",
        "vtsum_blip_tt",
        "--model vtsum_blip_tt",
        "--model vtsum_blip_tt_ca --max_epoch 56 --lambda_tsum 1.0 --lambda_vsum 10.0 --ckpt_freq 56",
    ),
    "tt_ca": PublishedModel(
        "vtsum_blip_tt_ca.yaml",
        "vtsum_blip_tt_ca",
        "--model vtsum_blip_tt_ca --kernel_size 5",
        "--model vtsum_blip_tt_ca --max_epoch 56 --lambda_tsum 1.0 --lambda_vsum 15.0 --init_lr 2e-5 --kernel_size 5 "
        "--ckpt_freq 56",
    ),
}
# Flags that this command sets.
RESERVED_FLAGS = (
    *("config", "output_dir", "splits", "subset", "device", "pretrained_model", "resume", "evaluate"),
    *("dataset", "ann_root", "ann_files", "video_embeddings_root", "clip_root"),
)

logger = logging.getLogger(__name__)


def build_evaluation(name: str, args: argparse.Namespace, processes: int = 1) -> Step:
    """Build the evaluation of a model, a key of `MODELS`."""
    model = MODELS[name]
    folder = args.out / name
    checkpoint = pathlib.Path(PUBLISHED_WEIGHTS[model.weights].path)
    if args.train:
        checkpoint = folder / "train/checkpoint.pth"
    flags = [*model.evaluation_flags.split(), "--pretrained_model", str(checkpoint)]
    flags += ["--subset", args.subset] if args.subset else []
    return _build_step("eval_v2vt_sum.py", model, flags, folder, checkpoint, "test", args, processes)


def build_training(name: str, args: argparse.Namespace, processes: int = 1, is_on_gpu: bool = False) -> Step:
    """Build the training of a model, on GPUs in bf16; the last epoch is scored on the validation split."""
    model = MODELS[name]
    folder = args.out / name / "train"
    videos = PUBLISHED_BATCH // processes  # per process and optimizer step
    accumulate = max(1, videos // 16)
    flags = [*model.training_flags.split(), "--batch_size", str(videos // accumulate), "--accumulate", str(accumulate)]
    flags += ["--precision", "bf16"] if is_on_gpu else []
    return _build_step("train_v2vt_sum.py", model, flags, folder, folder / "checkpoint.pth", "val", args, processes)


def list_weights(name: str, args: argparse.Namespace) -> tuple[str, ...]:
    """List the paths of all weights that must exist before a model is trained or evaluated."""
    config = build_evaluation(name, args).config
    initial = build_training(name, args).config.pretrained if args.train else config.pretrained_model
    return initial, config.pretrained_clip


def _build_step(
    script: str,
    model: PublishedModel,
    flags: Sequence[str],
    folder: pathlib.Path,
    checkpoint: pathlib.Path,
    split: SplitName,
    args: argparse.Namespace,
    processes: int,
) -> Step:
    root = pathlib.Path(args.root)
    features, clip_features = (find_feature_folder(root, name) for name, _ in FEATURES.values())
    arguments = [
        *("--config", os.path.relpath(PROJECT_ROOT / "configs" / model.config), "--output_dir", str(folder), *flags),
        *("--splits", split, "--device", args.device, "--ann_root", str(root / "anno")),
        *("--video_embeddings_root", str(features), "--clip_root", str(clip_features), *args.extra_flags),
    ]
    config = load_config(arguments).settings
    return Step(script, tuple(arguments), config, checkpoint, split, processes)


def get_inputs(root: pathlib.Path, weights: Collection[str]) -> None:
    """Download what is missing, and check the data.

    Args:
        root: folder of the dataset.
        weights: paths of weights; those of `PUBLISHED_WEIGHTS` are downloaded.
    Raises:
        FileNotFoundError: a file cannot be downloaded.
        ValueError: a file is damaged or not the published one; the message names it.
    """
    report = download(root, PARTS)
    report.show()
    errors = [issue.text for issue in report.issues if issue.kind in ERRORS]
    if errors:
        more = f" (and {len(errors) - 1} more, see above)" if len(errors) > 1 else ""
        raise ValueError(f"{errors[0]}{more}")
    for name, published in PUBLISHED_WEIGHTS.items():
        if pathlib.PurePath(published.path) in map(pathlib.PurePath, weights):
            download_weights(name)


def hash_data(root: pathlib.Path) -> dict[str, InputFile]:
    """Return the SHA-256 of the annotations and features: name -> file or folder."""
    files: dict[str, InputFile] = {}
    for split in SPLITS:
        path = annotation_path(root / "anno", split)
        files[split] = InputFile(str(path), f"annotations, {split}", compute_sha256(path))
    for part, content in (("blip_feat", "frame features"), ("vt_clip_feat", "VT-CLIP features")):
        folder = find_feature_folder(root, FEATURES[part][0])
        logger.info("%s: computing the SHA-256", folder)
        files[part] = InputFile(str(folder), content, compute_folder_sha256(folder))
    return files


class Reproducer:
    """Trains and evaluates models, and keeps the list of all input files.

    Args:
        args: the command's arguments.
        data: result of `hash_data`.
        gpus: number of GPUs that `args.device` stands for; 0 is a CPU.
    """

    def __init__(self, args: argparse.Namespace, data: Mapping[str, InputFile], gpus: int) -> None:
        self.args = args
        self.data = data
        self.files = {file.path: file for file in data.values()}
        self.gpus = gpus
        self.processes = max(1, gpus)
        self.subset = read_subset(args.subset) if args.subset else None

    def train(self, name: str) -> float:
        """Train a model; returns the seconds of its epochs."""
        processes = max(n for n in range(1, self.processes + 1) if PUBLISHED_BATCH % n == 0)
        step = build_training(name, self.args, processes, self.gpus > 0)
        hashes = self._hash_inputs([step.config.pretrained, step.config.pretrained_clip], ("train", "val"))
        inputs = step.describe_inputs(hashes)
        if step.read_results(inputs) is None:
            seconds = estimate_training(step, self._load("train"), self._load("val"))
            logger.info(
                "%s: %d epochs on %s, without evaluation: %s; if interrupted, the same command resumes it",
                *(step.folder, step.config.max_epoch, self._name_devices(processes), format_estimate(seconds)),
            )
        step.run(inputs, describe_hardware())
        return sum_epoch_seconds(step.folder)

    def evaluate(self, name: str, training_seconds: float | None) -> Reproduction:
        """Evaluate a model on the test split."""
        step = build_evaluation(name, self.args, self.processes)
        records = self._load("test")
        if self.subset is not None:
            records = self.subset.select(records, self.data["test"].path)
        hashes = self._hash_inputs([str(step.checkpoint), step.config.pretrained_clip], ("test",))
        hashes["videos"] = hash_video_ids(records)
        inputs = step.describe_inputs(hashes)
        if step.read_results(inputs) is None:
            devices = self._name_devices(self.processes)
            logger.info(
                "%s: evaluating %d videos on %s; an interrupted evaluation starts again",
                step.folder,
                len(records),
                devices,
            )
            if self.gpus == 0:
                seconds = estimate_evaluation(step, records)
                logger.info("%s: %s, estimated from a part of the videos", step.folder, format_estimate(seconds))
        run = step.run(inputs, describe_hardware())
        record = step.read_record()
        assert record is not None, "read_results has read it"
        return Reproduction(
            name=PUBLISHED_WEIGHTS[MODELS[name].weights].content,
            run=run,
            processes=record.processes,
            evaluation_seconds=record.seconds,
            training_seconds=training_seconds,
            hardware=record.hardware,
        )

    def _load(self, split: SplitName) -> list[VideoRecord]:
        return load_annotations(self.data[split].path)

    def _name_devices(self, processes: int) -> str:
        return f"{processes} GPU{'s' if processes > 1 else ''}" if self.gpus else "the CPU"

    def _hash_inputs(self, weights: Sequence[str], splits: Sequence[SplitName]) -> dict[str, str | None]:
        """Return the SHA-256 of the inputs of a step; adds its weights to `files`."""
        contents = {published.path: published.content for published in PUBLISHED_WEIGHTS.values()}
        hashes: dict[str, str | None] = {name: self.data[name].sha256 for name in (*splits, *FEATURES)}
        for index, path in enumerate(weights):
            if pathlib.Path(path).is_file() and path not in self.files:
                content = contents.get(os.path.normpath(path), "weights")
                self.files[path] = InputFile(path, content, compute_sha256(path))
            hashes[f"weights {index}"] = self.files[path].sha256 if path in self.files else None
        return hashes


def _parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = OneLineParser(
        prog="python -m report.reproduce",
        description=__doc__.splitlines()[0].split(":")[0] + ".",
        epilog="Flags after -- are passed on to eval_v2vt_sum.py and train_v2vt_sum.py, for example "
        "`-- --precision bf16 --eval_batch_size 128`.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--out", type=pathlib.Path, help="folder to write (default: reproduction; reproduction_trained with --train)")
    add("--what", dest="models", nargs="+", choices=tuple(MODELS), default=tuple(MODELS), help="models (default: all)")
    add("--subset", default="", metavar="FILE", help="file of ids of test videos to evaluate; then there is no verdict")
    add("--train", action="store_true", help="train the weights from BLIP's, in place of the released ones")
    add("--root", type=pathlib.Path, default="dataset/ActivityNet", help="folder of the dataset (%(default)s)")
    add("--device", default="auto", help="auto (all GPUs, or the CPU without one), cpu, cuda, or cuda:N (%(default)s)")
    words = list(argv)
    split_at = words.index("--") if "--" in words else len(words)
    args = parser.parse_args(words[:split_at])
    args.extra_flags = words[split_at + 1 :]
    for word in args.extra_flags:
        flag = word.split("=")[0]
        if flag.removeprefix("--") in RESERVED_FLAGS and flag.startswith("--"):
            raise ValueError(f"{flag}: found after --, expected other flags: python -m report.reproduce sets it")
    args.models = list(dict.fromkeys(args.models))
    args.out = args.out or pathlib.Path("reproduction_trained" if args.train else "reproduction")
    return args


def count_gpus(device: str) -> int:
    """Return how many GPUs a device name stands for, see `Config.device`; `auto` is all of them."""
    import torch

    if device == "auto":
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    return 0 if device == "cpu" else 1


def main(argv: Sequence[str] | None = None) -> None:
    args = _parse_arguments(sys.argv[1:] if argv is None else argv)
    weights = {path for name in args.models for path in list_weights(name, args)}  # also checks the flags
    if args.subset:
        read_subset(args.subset)
    make_folder(args.out, "--out")
    setup_logging(True, args.out / "reproduce.log")
    get_inputs(args.root, weights)
    reproducer = Reproducer(args, hash_data(args.root), count_gpus(args.device))
    reproductions: list[Reproduction] = []
    for name in args.models:
        training_seconds = reproducer.train(name) if args.train else None
        reproductions.append(reproducer.evaluate(name, training_seconds))
        write_reproduction(
            args.out,
            reproductions,
            list(reproducer.files.values()),
            date=datetime.date.today().isoformat(),
            is_trained=args.train,
            extra_flags=args.extra_flags,
        )
    print(f"{args.out / 'reproduction.md'}: {len(reproductions)} models")


if __name__ == "__main__":
    run_main(main)
