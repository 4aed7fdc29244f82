"""Named checks that run one after another: none is skipped silently, and a failure does not stop the later ones."""

import contextlib
import dataclasses
import faulthandler
import gc
import importlib.util
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Mapping, Sequence

import torch

from benchmarks.records import CheckResult, CheckStatus, Row
from utils.log import one_line

MESSAGE_LENGTH = 400  # of an error in the results; stderr has the whole traceback


class NotRun(Exception):
    """A check cannot run here, because of a missing package or the outcome of another check."""


class NotApplicable(Exception):
    """A check needs hardware that this machine does not have."""


@dataclasses.dataclass(frozen=True)
class Check:
    """A check of `benchmarks.gpu`.

    Attributes:
        name: unique name.
        run: performs the check; returns its rows, or raises an error.
        packages: import names of the packages that it needs.
        requires: names of earlier checks that must have passed.
        time_limit: in seconds. A check that exceeds it, such as a kernel that hangs, ends the whole process.
    """

    name: str
    run: Callable[[], list[Row]]
    packages: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    time_limit: float = 300


def select_checks(checks: Sequence[Check], names: Sequence[str]) -> list[Check]:
    """Select checks by name, and those that they require, in order.

    Raises:
        ValueError: there is no check of such a name.
    """
    by_name = {check.name: check for check in checks}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise ValueError(f"--only: found {unknown[0]!r}, expected some of {', '.join(by_name)}")
    selected = set(names)
    for check in reversed(checks):
        if check.name in selected:
            selected.update(check.requires)
    return [check for check in checks if check.name in selected]


def run_checks(checks: Sequence[Check], save: Callable[[Sequence[CheckResult]], None]) -> list[CheckResult]:
    """Run all checks.

    Args:
        checks: to run, in this order.
        save: called before each check, with a result that says that it did not end, and after the last one: whatever
            ends the process, the results so far are saved.
    """
    results: dict[str, CheckResult] = {}
    for check in checks:
        message = f"did not end: the process exceeded {check.time_limit:.0f} s or was killed"
        pending = CheckResult(name=check.name, status="failed", seconds=0, message=message, rows=[])
        save([*results.values(), pending])
        print(f"{check.name} ...", flush=True)
        results[check.name] = result = run_check(check, results)
        reason = f": {result.message}" if result.message else ""
        print(f"  {result.status}, {result.seconds:.1f} s{reason}", flush=True)
        gc.collect()  # what the traceback of an error referred to
        with contextlib.suppress(RuntimeError):  # after a fatal error of CUDA, which the next check reports, too
            torch.cuda.empty_cache()
    save(list(results.values()))
    return list(results.values())


def run_check(check: Check, earlier: Mapping[str, CheckResult]) -> CheckResult:
    """Run one check; any error becomes its result, and its traceback is printed to stderr.

    Args:
        check: to run.
        earlier: results of the checks before, by name.
    """
    rows: list[Row] = []
    status: CheckStatus = "passed"
    message = None
    start = time.perf_counter()
    faulthandler.dump_traceback_later(check.time_limit, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        _require_prerequisites(check, earlier)
        rows = check.run()
        if not rows:
            raise AssertionError("no measurement")
    except NotApplicable as reason:
        status = "not applicable"
        message = one_line(reason)
    except NotRun as reason:
        status = "not run"
        message = one_line(reason)
    except Exception as error:
        status = "failed"
        message = textwrap.shorten(f"{type(error).__name__}: {one_line(error)}", MESSAGE_LENGTH)
        traceback.print_exc()
    finally:
        faulthandler.cancel_dump_traceback_later()
    return CheckResult(
        name=check.name, status=status, seconds=round(time.perf_counter() - start, 2), message=message, rows=rows
    )


def _require_prerequisites(check: Check, earlier: Mapping[str, CheckResult]) -> None:
    """Raise `NotRun` unless packages are installed and required checks have passed."""
    missing = [package for package in check.packages if importlib.util.find_spec(package) is None]
    if missing:
        raise NotRun(f"package {', '.join(missing)} is missing")
    unmet = [name for name in check.requires if earlier[name].status != "passed"]
    if unmet:
        raise NotRun(f"requires the check {unmet[0]!r}, which has not passed")
