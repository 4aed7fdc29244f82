"""Checks of the model in this process: golden values, host syncs, speed, memory and projections.

Packages that may be missing are imported by the checks that need them.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import torch

from benchmarks.checks import Check
from benchmarks.machine import find_peak_rate
from benchmarks.records import Row
from benchmarks.user_commands import MODEL_PACKAGES
from utils.device import PRECISIONS
from utils.precision import PrecisionName

PUBLISHED_EPOCHS = 56
NUM_TEST_VIDEOS = 4000
COMPILED_SECONDS = 420  # limit of a check that compiles


@dataclasses.dataclass(frozen=True)
class Workload:
    """Sizes of the measurements.

    Attributes:
        med_config: JSON file with the decoder's sizes.
        training_batches: numbers of videos of the training step.
        frames: number of frames of each video; None: drawn from the lengths of real videos.
        T: frames of each video to decode.
        L: tokens of each caption to decode.
        decoding_batches: numbers of videos to decode.
        step_rounds: number of alternating measurements of a training step.
        search_rounds: number of those of a search.
    """

    med_config: str
    training_batches: tuple[int, int]
    frames: int | None
    T: int
    L: int
    decoding_batches: tuple[int, int]
    step_rounds: int
    search_rounds: int


def build_workload(size: str) -> Workload:
    """Build the workload of a size: `full`, as published, or `toy`, seconds on a CPU."""
    from benchmarks.golden import GOLDEN_MED_CONFIG
    from benchmarks.workload import FULL_SIZE_CONFIG

    if size == "toy":
        return Workload(GOLDEN_MED_CONFIG, (2, 3), 9, 9, 12, (2, 3), 1, 1)
    return Workload(FULL_SIZE_CONFIG, (16, 64), None, 120, 48, (16, 128), 10, 3)


@dataclasses.dataclass(frozen=True)
class ModelChecks:
    """The checks of the model on one device.

    Attributes:
        device: device of the model.
        workload: sizes.
        trainer_flags: returns the flags of a training run on the data of the check `data`.
        rows: rows of the checks that have passed, by check; the projections are computed from them.
    """

    device: torch.device
    workload: Workload
    trainer_flags: Callable[[], list[str]]
    rows: dict[str, list[Row]] = dataclasses.field(default_factory=dict)

    def list_checks(self) -> list[Check]:
        """List the checks, those that take long last."""
        small, large = self.workload.training_batches
        few, many = self.workload.decoding_batches
        steps: dict[str, tuple[PrecisionName, int, bool]] = {
            "step-fp32": ("fp32", small, False),
            "step-bf16": ("bf16", small, False),
            "step-bf16-large": ("bf16", large, False),
            "step-bf16-compile": ("bf16", small, True),
            "step-bf16-large-compile": ("bf16", large, True),
        }
        searches: dict[str, tuple[PrecisionName, int]] = {
            "decode-fp32": ("fp32", few),
            "decode-bf16": ("bf16", few),
            "decode-bf16-large": ("bf16", many),
        }
        plain: dict[str, Callable[[], list[Row]]] = {
            "golden-fp32": self.check_golden,
            "golden-bf16": self.check_golden_bf16,
            "syncs-step": self.check_step_syncs,
            "syncs-generate": self.check_generation_syncs,
        }
        for name, (search_precision, B) in searches.items():
            plain[name] = functools.partial(self.measure_decoding, name, search_precision, B)
        for name, (precision, batch_size, compiled) in steps.items():
            plain[name] = functools.partial(self.measure_step, name, precision, batch_size, compiled)
        checks = [
            Check(name, run, MODEL_PACKAGES, time_limit=COMPILED_SECONDS if "compile" in name else 300)
            for name, run in plain.items()
        ]
        return [
            Check("syncs-trainer", self.check_trainer_syncs, MODEL_PACKAGES, ("data",)),
            *checks,
            Check("projections", self.project, requires=("step-bf16", "decode-bf16-large")),
        ]

    # Correctness.

    def check_golden(self) -> list[Row]:
        """Compare with the golden values in float32."""
        from benchmarks.golden import benchmark_golden

        return benchmark_golden(self.device)

    def check_golden_bf16(self) -> list[Row]:
        """Compare the golden model in bf16 with float32."""
        from benchmarks.golden import benchmark_golden_precision

        return benchmark_golden_precision(self.device, "bf16")

    def check_step_syncs(self) -> list[Row]:
        """Perform a training step without host syncs."""
        from benchmarks.host_syncs import check_training_step

        frames, tokens = self.draw_training_lengths(self.workload.training_batches[0])
        med_config = self.workload.med_config
        return check_training_step(self.device, frames, tokens, precision="bf16", med_config=med_config)

    def check_trainer_syncs(self) -> list[Row]:
        """Perform steps of the trainer without host syncs."""
        from benchmarks.host_syncs import check_trainer

        return check_trainer(self.device, self.trainer_flags())

    def check_generation_syncs(self) -> list[Row]:
        """Count the host syncs of `generate`."""
        from benchmarks.host_syncs import check_generation

        workload = self.workload
        return check_generation(
            self.device,
            B=workload.decoding_batches[0],
            T=workload.T,
            L=workload.L,
            precision="bf16",
            med_config=workload.med_config,
        )

    # Speed and memory.

    def draw_training_lengths(self, batch_size: int) -> tuple[list[int], list[int]]:
        """Draw numbers of frames and of tokens of a training batch."""
        from benchmarks.training import NUM_TRAINING_VIDEOS
        from benchmarks.workload import draw_lengths

        if self.workload.frames is not None:
            return [self.workload.frames + i for i in range(batch_size)], [12 + i for i in range(batch_size)]
        frames, tokens = draw_lengths(NUM_TRAINING_VIDEOS, seed=1)
        return frames[:batch_size].tolist(), tokens[:batch_size].tolist()

    def measure_step(self, name: str, precision: PrecisionName, batch_size: int, compiled: bool) -> list[Row]:
        """Compare the training step with the peer's: time, model FLOP utilization and peak memory.

        Args:
            name: of the check.
            precision: autocast precision.
            batch_size: B.
            compiled: compile the project's layers.
        """
        from benchmarks.training import measure_training_step

        if compiled:
            torch.compiler.reset()  # code compiled for an earlier batch counts towards the limit of recompilations
        frames, tokens = self.draw_training_lengths(batch_size)
        step = measure_training_step(
            self.device,
            frames,
            tokens,
            smoothing_scope="published",
            rounds=self.workload.step_rounds,
            precision=precision,
            med_config=self.workload.med_config,
            compiled=compiled,
        )
        peak = find_peak_rate(self.device, PRECISIONS[precision] or torch.float32)
        assert step.row.peer_value is not None
        utilization = Row(
            measurement=f"model FLOP utilization, {step.row.measurement}",
            project_value=100 * step.operations / step.row.project_value / peak.rate,
            peer_value=100 * step.operations / step.row.peer_value / peak.rate,
            peer_name=step.row.peer_name,
            unit="%",
            check=f"{step.operations / 1e12:.3g} Tflop of {peak.rate / 1e12:.3g} Tflop/s ({peak.source})",
        )
        rows = [step.row, utilization]
        if step.project_bytes is not None and step.peer_bytes is not None:
            rows.append(
                Row(
                    measurement=f"peak memory, {step.row.measurement}",
                    project_value=step.project_bytes / 1e9,
                    peer_value=step.peer_bytes / 1e9,
                    peer_name=step.row.peer_name,
                    unit="GB",
                    check="allocated by PyTorch",
                )
            )
        self.rows[name] = rows
        return rows

    def measure_decoding(self, name: str, precision: PrecisionName, B: int) -> list[Row]:
        """Compare beam search with the peer's: time and peak memory.

        Args:
            name: of the check.
            precision: autocast precision.
            B: videos.
        """
        from benchmarks.decoding import benchmark_decoding

        rows = benchmark_decoding(
            self.device,
            B=B,
            T=self.workload.T,
            L=self.workload.L,
            rounds=self.workload.search_rounds,
            precision=precision,
            med_config=self.workload.med_config,
        )
        self.rows[name] = rows
        return rows

    def project(self) -> list[Row]:
        """Project the time of the published training and of decoding the test split from the measured rows."""
        from benchmarks.training import NUM_TRAINING_VIDEOS

        small, large = self.workload.training_batches
        batch_sizes = {"step-bf16": small, "step-bf16-compile": small}
        batch_sizes |= {"step-bf16-large": large, "step-bf16-large-compile": large}
        rows = [
            project_training(self.rows[name][0], batch_size, NUM_TRAINING_VIDEOS)
            for name, batch_size in batch_sizes.items()
            if name in self.rows
        ]
        return [*rows, project_decoding(self.rows["decode-bf16-large"][0], self.workload.decoding_batches[1])]


def project_training(step: Row, batch_size: int, num_videos: int) -> Row:
    """Project the hours of the published epochs from the row of a training step, on one GPU.

    Args:
        step: times in seconds.
        batch_size: videos per step.
        num_videos: videos per epoch.
    """
    num_steps = PUBLISHED_EPOCHS * (num_videos // batch_size)
    return Row(
        measurement=f"{PUBLISHED_EPOCHS} epochs of {num_videos} videos, projected from: {step.measurement}",
        project_value=num_steps * step.project_value / 3600,
        peer_value=None if step.peer_value is None else num_steps * step.peer_value / 3600,
        peer_name=step.peer_name,
        unit="h",
        check=f"{num_steps:,} steps on one GPU; without loading, evaluation and checkpoints",
    )


def project_decoding(search: Row, batch_size: int) -> Row:
    """Project the minutes of decoding the test split from the row of a beam search.

    Args:
        search: times in seconds.
        batch_size: videos per search.
    """
    num_batches = math.ceil(NUM_TEST_VIDEOS / batch_size)
    return Row(
        measurement=f"{NUM_TEST_VIDEOS} test videos decoded, projected from: {search.measurement}",
        project_value=num_batches * search.project_value / 60,
        peer_value=None if search.peer_value is None else num_batches * search.peer_value / 60,
        peer_name=search.peer_name,
        unit="min",
        check=f"{num_batches} batches of equal length",
    )
