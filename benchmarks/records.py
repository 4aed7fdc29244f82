"""Results of benchmarks, and their JSON files."""

import pathlib
from typing import Literal

import pydantic

from utils.files import atomic_write, read_text


class Record(pydantic.BaseModel):
    """A JSON object."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Row(Record):
    """One measurement, a row of the table; values that do not apply are None.

    Attributes:
        measurement: the measured operation and its sizes.
        project_value: the project's result, in `unit`.
        unit: `s`, `per s`, …
        peer_value: the peer's result, in `unit`.
        peer_name: the peer.
        ratio: speed of the project over speed of the peer; above 1, the project is faster.
        limit_fraction: minimum time of the unavoidable operations over the project's time.
        limit_description: these operations.
        check: comparison of the results with the peer's.
    """

    measurement: str
    project_value: float
    unit: str
    peer_value: float | None = None
    peer_name: str | None = None
    ratio: float | None = None
    limit_fraction: float | None = None
    limit_description: str | None = None
    check: str | None = None


class MachineDescription(Record):
    """The machine and its software."""

    processor: str
    threads: int
    torch: str
    isa: str
    gpu: str | None = None


class MeasuredLimits(Record):
    """Measured limits of the machine."""

    product_gflops: float
    bandwidth_gbs: float


class MachineResults(Record):
    """All results on one machine.

    Attributes:
        machine: its description.
        limits: its measured limits.
        date: date of the last measurement, YYYY-MM-DD.
        rows: group of measurements -> its rows.
    """

    machine: MachineDescription
    limits: MeasuredLimits
    date: str
    rows: dict[str, list[Row]]


def read_machine_results(path: pathlib.Path) -> MachineResults:
    """Read the results of one machine from its JSON file."""
    return MachineResults.model_validate_json(read_text(path, "results"))


def write_machine_results(path: pathlib.Path, results: MachineResults) -> None:
    """Write the results of one machine to its JSON file."""
    with atomic_write(path) as file:
        file.write(results.model_dump_json(indent=1, exclude_none=True))


CheckStatus = Literal["passed", "failed", "not run", "not applicable"]


class CheckResult(Record):
    """Outcome of one check of `benchmarks.gpu`.

    Attributes:
        name: name of the check.
        status: `not run` if a package is missing or a check that it requires did not pass; `not applicable` if the
            machine lacks the hardware. `failed` and `not run` are problems.
        seconds: duration.
        message: the error, or why the check was not run; None if it passed.
        rows: its measurements.
    """

    name: str
    status: CheckStatus
    seconds: float
    message: str | None = None
    rows: list[Row]

    @property
    def is_problem(self) -> bool:
        return self.status in ("failed", "not run")


class GpuResults(Record):
    """All checks of `benchmarks.gpu` on one machine.

    Attributes:
        machine: its description.
        num_gpus: number of GPUs that PyTorch can use.
        versions: package -> version, and `code`, the git revision; see `utils.environment.environment_info`.
        size: size of the workload, `full` or `toy`.
        date: YYYY-MM-DD.
        seconds: duration of all checks.
        checks: in the order in which they ran.
    """

    machine: MachineDescription
    num_gpus: int
    versions: dict[str, str | None]
    size: str
    date: str
    seconds: float
    checks: list[CheckResult]


def read_gpu_results(path: pathlib.Path) -> GpuResults:
    """Read the results of `benchmarks.gpu` from their JSON file."""
    return GpuResults.model_validate_json(read_text(path, "results"))


def write_gpu_results(path: pathlib.Path, results: GpuResults) -> None:
    """Write the results of `benchmarks.gpu` to their JSON file."""
    with atomic_write(path) as file:
        file.write(results.model_dump_json(indent=1, exclude_none=True))
