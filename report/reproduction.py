"""Published scores beside measured ones: `reproduction.md` and `reproduction.json`."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from metrics.registry import METRICS, PAPER_METRICS, format_score
from report.runs import PUBLISHED, Run, describe_baselines
from report.tables import render_table
from utils.files import atomic_write
from utils.text import format_time

# 0.1 points of scores that are printed times 100; for τ and ρ, which are printed as fractions with three digits, 0.001,
# a unit of their last digit. Unrounded scores are compared with the published ones, which are rounded.
MAX_DIFFERENCE = 0.001
F1_DEFINITIONS = ("F1", "F1_published")
# The paper's columns; the published F1 is compared with both definitions.
COMPARED_METRICS = (*F1_DEFINITIONS, *(name for name in PAPER_METRICS if name not in F1_DEFINITIONS))


@dataclasses.dataclass(frozen=True)
class InputFile:
    """A file or folder that scores depend on.

    Attributes:
        path: its path.
        content: what it is.
        sha256: of the file; of a folder, see `utils.files.compute_folder_sha256`.
    """

    path: str
    content: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """A model whose scores are compared.

    Attributes:
        name: a key of `PUBLISHED`.
        run: its scores of the test split.
        processes: number of processes of the evaluation.
        evaluation_seconds: wall-clock time of the evaluation; None if it was not recorded.
        training_seconds: time of the epochs of the training; None for released weights.
        hardware: of the evaluation, see `report.reproduction_steps.describe_hardware`.
    """

    name: str
    run: Run
    processes: int
    evaluation_seconds: float | None
    training_seconds: float | None
    hardware: Mapping[str, Any]


def is_within_tolerance(measured: float, published: float) -> bool:
    """Whether a score is within `MAX_DIFFERENCE` of the published one; both are fractions."""
    return abs(measured - published) <= MAX_DIFFERENCE + 1e-9


def compare_with_published(metrics: Mapping[str, float], name: str) -> dict[str, dict[str, Any]]:
    """Compare the scores of a model with the published ones.

    Args:
        metrics: measured scores, as fractions.
        name: a key of `PUBLISHED`.
    Returns:
        metric of `COMPARED_METRICS` -> `published`, and `measured`, `difference` and `within_tolerance`, which are None
        for a score that was not measured.
    """
    rows: dict[str, dict[str, Any]] = {}
    for metric in COMPARED_METRICS:
        published = PUBLISHED[name]["F1" if metric in F1_DEFINITIONS else metric]
        measured = metrics.get(metric)
        difference = None if measured is None else measured - published
        is_within = None if measured is None else is_within_tolerance(measured, published)
        rows[metric] = dict(published=published, measured=measured, difference=difference, within_tolerance=is_within)
    return rows


def find_f1_definition(reproductions: Sequence[Reproduction]) -> str | None:
    """Return the one definition of F1 that is within tolerance of the published F1 of all models, None if not one."""
    within = [
        name
        for name in F1_DEFINITIONS
        if all(
            name in reproduction.run.metrics
            and is_within_tolerance(reproduction.run.metrics[name], PUBLISHED[reproduction.name]["F1"])
            for reproduction in reproductions
        )
    ]
    return within[0] if len(within) == 1 else None


def write_reproduction(
    out: pathlib.Path,
    reproductions: Sequence[Reproduction],
    files: Sequence[InputFile],
    *,
    date: str,
    is_trained: bool,
    extra_flags: Sequence[str],
) -> None:
    """Write `reproduction.md` and `reproduction.json`.

    Args:
        out: their folder.
        reproductions: at least one model; all were scored on the same videos.
        files: all inputs.
        date: of the documents.
        is_trained: whether the weights were trained, and not released.
        extra_flags: flags that the user has added to the commands.
    """
    from utils.templates import template_environment

    subset = reproductions[0].run.results.subset
    document: dict[str, Any] = dict(
        date=date,
        weights="trained" if is_trained else "released",
        subset=subset.model_dump() if subset else None,
        extra_flags=list(extra_flags),
        tolerance=MAX_DIFFERENCE,
        f1_definition=None if subset else find_f1_definition(reproductions),
        models={reproduction.name: _describe_model(reproduction) for reproduction in reproductions},
        files=[dataclasses.asdict(file) for file in files],
    )
    if subset:  # no verdict
        for model in document["models"].values():
            for row in model["scores"].values():
                row["within_tolerance"] = None
    template = template_environment(pathlib.Path(__file__).with_name("templates")).get_template("reproduction.md")
    text = template.render(
        document,
        tables={name: _score_table(model, bool(subset)) for name, model in document["models"].items()},
        baseline_tables={name: _baseline_table(model) for name, model in document["models"].items()},
        baseline_descriptions=describe_baselines([reproduction.run for reproduction in reproductions]),
        verdict=_describe_verdict(document["models"]),
        file_table=render_table(
            ["file", "content", "SHA-256"], [[file.path, file.content, file.sha256] for file in files], "markdown", 3
        ),
        format_time=format_time,
    )
    with atomic_write(out / "reproduction.json") as writer:
        json.dump(document, writer, indent=2, ensure_ascii=False)
    with atomic_write(out / "reproduction.md") as writer:
        writer.write(text)


def _describe_model(reproduction: Reproduction) -> dict[str, Any]:
    results = reproduction.run.results
    return dict(
        scores=compare_with_published(reproduction.run.metrics, reproduction.name),
        metrics=reproduction.run.metrics,
        baselines=reproduction.run.baselines,
        num_videos=results.num_videos.model_dump(),
        folder=os.fspath(reproduction.run.folder),
        checkpoint_sha256=results.checkpoint_sha256,
        vt_clip_sha256=results.vt_clip_sha256,
        precision=(results.config or {}).get("precision"),
        processes=reproduction.processes,
        hardware=dict(reproduction.hardware),
        evaluation_seconds=reproduction.evaluation_seconds,
        training_seconds=reproduction.training_seconds,
        versions=results.versions or {},
    )


def _score_table(model: Mapping[str, Any], is_subset: bool) -> str:
    """Table of published and measured scores; without verdicts for a subset."""
    header = ["score", "published", "measured", "difference", *([] if is_subset else ["verdict"])]
    rows = []
    for metric, row in model["scores"].items():
        cells = [metric, format_score(metric, row["published"])]
        if row["measured"] is None:
            cells += ["not measured", "", ""]
        else:
            measured, difference = (_format_finer(metric, row[key]) for key in ("measured", "difference"))
            cells += [measured, difference if row["difference"] < 0 else f"+{difference}"]
            cells.append("within" if row["within_tolerance"] else "not within")
        rows.append(cells[: len(header)])
    return render_table(header, rows, "markdown")


def _format_finer(metric: str, value: float) -> str:
    """Format a score with one digit more than the paper's."""
    return f"{METRICS[metric].scale * value:.{METRICS[metric].digits + 1}f}"


def _baseline_table(model: Mapping[str, Any]) -> str:
    """Table of the model and its baselines."""
    rows = dict(measured=model["metrics"]) | model["baselines"]
    cells = [
        [label, *(format_score(m, row[m]) if m in row else "" for m in COMPARED_METRICS)] for label, row in rows.items()
    ]
    return render_table(["", *COMPARED_METRICS], cells, "markdown")


def _describe_verdict(models: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Count the scores of each model that are within tolerance: name -> text. F1 counts in the better definition."""
    texts = {}
    for name, model in models.items():
        verdicts = {metric: bool(row["within_tolerance"]) for metric, row in model["scores"].items()}
        verdicts["F1"] = any(verdicts.pop(metric) for metric in F1_DEFINITIONS)
        outside = [metric for metric in PAPER_METRICS if not verdicts[metric]]
        texts[name] = f"{len(PAPER_METRICS) - len(outside)} of {len(PAPER_METRICS)} scores are within 0.1 points"
        texts[name] += f"; not within, or not measured: {', '.join(outside)}" if outside else ""
    return texts
