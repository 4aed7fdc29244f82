"""What runs left in their folders, read back and checked, and the published figures to set beside them."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import pydantic

from data.annotations import VIDEOS
from engine.config import Config
from metrics.registry import METRICS
from utils.files import parse_json, read_text
from utils.validation import first_problem

# Of the test split, as fractions. Source: VideoXum (Lin et al., 2023), table of results.
PUBLISHED = {
    "VTSUM-BLIP (TT)": dict(
        F1=0.224, Kendall=0.176, Spearman=0.233, BLEU_4=0.057, METEOR=0.120, ROUGE_L=0.249, CIDEr=0.224,
        VT_CLIPScore=0.290,
    ),
    "VTSUM-BLIP (TT+CA)": dict(
        F1=0.235, Kendall=0.196, Spearman=0.258, BLEU_4=0.058, METEOR=0.122, ROUGE_L=0.251, CIDEr=0.231,
        VT_CLIPScore=0.295,
    ),
}  # fmt: skip
ABOUT_F1 = "Whether the published F1 is F1 or F1_published here is not known."
# What a checkpoint may be scored with otherwise than it was trained.
SCORED_WITH = ("model", "task", "kernel_size", "prompt", "max_text_length", "min_text_length", "num_beams")
SCORED_WITH += ("precision", "tf32", "video_embeddings_root")
VIDEOS_PER_STEP = "videos per step"  # of the optimizer, over all processes

Scores = dict[Literal[tuple(METRICS)], pydantic.FiniteFloat]
Model = TypeVar("Model", bound=pydantic.BaseModel)


class StrictModel(pydantic.BaseModel):
    """A JSON object whose fields are not converted; further fields are ignored."""

    model_config = pydantic.ConfigDict(strict=True)


class VideoCounts(StrictModel):
    """`num_videos` of a results file: videos in the annotations, videos with a prediction."""

    expected: int
    scored: int


class Results(StrictModel):
    """Content of `results_{split}.json`."""

    metrics: Scores = pydantic.Field(min_length=1)
    baselines: dict[str, Scores]
    num_videos: VideoCounts
    config: dict[str, Any] | None = None
    trained_with: dict[str, Any] | None = None
    processes: int | None = None
    versions: dict[str, str | None] | None = None
    checkpoint_sha256: str | None = None
    vt_clip_sha256: str | None = None


# A line of `scores_{split}.jsonl`; metrics that the run was not scored with are not set.
VideoScores = pydantic.create_model(
    "VideoScores", __base__=StrictModel, video_id=(str, ...), **dict.fromkeys(METRICS, (pydantic.FiniteFloat, None))
)


class LogEntry(StrictModel, extra="allow"):
    """A line of `log.jsonl`."""

    type: str
    epoch: int
    step: int | None = None
    split: str | None = None

    @pydantic.model_validator(mode="after")
    def _check_type(self) -> "LogEntry":
        for log_type, field in (("step", "step"), ("evaluation", "split")):
            if self.type == log_type and getattr(self, field) is None:
                raise ValueError(f"{field} is missing")
        return self


@dataclasses.dataclass(frozen=True)
class Run:
    """A scored split of a run.

    Attributes:
        folder: of the run.
        split: name.
        results: content of `results_{split}.json`.
        settings: name -> value, of what scores depend on but the seed: how it was trained and how it was scored; where
            the two differ, `NAME (training)` too.
        seed: of the training.
        video_ids: in the order of `scores_{split}.jsonl`.
        scores: metric -> (N,) float64, a value per video.
    """

    folder: pathlib.Path
    split: str
    results: Results
    settings: dict[str, Any]
    seed: int
    video_ids: tuple[str, ...]
    scores: dict[str, np.ndarray]

    @property
    def metrics(self) -> dict[str, float]:
        return self.results.metrics

    @property
    def baselines(self) -> dict[str, dict[str, float]]:
        return self.results.baselines


def is_videoxum(run: Run) -> bool:
    """Tell by the number of videos whether a split is VideoXum's."""
    return run.results.num_videos.expected == VIDEOS[run.split]


def published(split: str) -> dict[str, dict[str, float]]:
    """The paper's rows: name -> metrics, as fractions; none but for the test split."""
    return {f"{name}, published": row for name, row in PUBLISHED.items()} if split == "test" else {}


def read_run(folder: str | pathlib.Path, split: str = "test") -> Run:
    """Read what a run or an evaluation left in its folder.

    Raises:
        FileNotFoundError, ValueError: a file is missing or is not what `engine.scoring` writes; one line.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: run: no such folder")
    path = folder / f"results_{split}.json"
    if not path.is_file():
        scored = ", ".join(sorted(p.stem.removeprefix("results_") for p in folder.glob("results_*.json"))) or "none"
        raise FileNotFoundError(f"{path}: results: no such file; splits scored there: {scored}")
    results = _parse(Results, read_text(path, "results"), f"{path}: results")
    video_ids, scores = _read_scores(folder / f"scores_{split}.jsonl")
    missing = sorted(results.metrics.keys() - scores.keys())
    if missing:
        raise ValueError(f"{folder / f'scores_{split}.jsonl'}: {missing[0]}: missing, expected as it is in {path.name}")
    settings, seed = _settings(results)
    return Run(folder, split, results, settings, seed, video_ids, scores)


def _parse(model: type[Model], text: str, source: str) -> Model:
    """Validate a JSON object; errors are one line that starts with `source`."""
    try:
        return model.model_validate(parse_json(text))
    except pydantic.ValidationError as error:
        raise ValueError(f"{source}: {first_problem(error)}") from None
    except ValueError as error:
        raise ValueError(f"{source}: not valid JSON ({error})") from None


def _settings(results: Results) -> tuple[dict[str, Any], int]:
    """Settings and seed of a run; what older files do not say was as it is by default."""
    scored, trained = (
        Config().as_dict() | {name: value for name, value in (config or {}).items() if name in Config.model_fields}
        for config in (results.config, results.trained_with or results.config)
    )
    settings = {name: trained[name] for name in Config().resume_critical_fields() if name != "seed"}
    for name in SCORED_WITH:
        settings[name] = scored[name]
        if trained[name] != scored[name] and name in Config().resume_critical_fields():
            settings[f"{name} (training)"] = trained[name]
    if results.processes and results.trained_with is None:  # else it is not known how many trained it
        settings[VIDEOS_PER_STEP] = trained["batch_size"] * trained["accumulate"] * results.processes
    if results.vt_clip_sha256:
        settings["VT-CLIP"] = results.vt_clip_sha256[:12]
    return settings, trained["seed"]


def _read_scores(path: pathlib.Path) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Scores of every video: ids, and a row of N values for each metric."""
    lines = read_text(path, "scores").splitlines()
    rows = [_parse(VideoScores, line, f"{path}: line {n}") for n, line in enumerate(lines, 1)]
    video_ids = tuple(row.video_id for row in rows)
    if not rows or len(set(video_ids)) < len(rows):
        raise ValueError(f"{path}: scores: expected at least one video, and each once")
    for row in rows:
        if row.model_fields_set != rows[0].model_fields_set:
            raise ValueError(f"{path}: video {row.video_id}: found other scores than in the first line")
    names = [name for name in METRICS if name in rows[0].model_fields_set]
    return video_ids, {name: np.array([getattr(row, name) for row in rows]) for name in names}


def align_scores(run: Run, video_ids: Sequence[str]) -> dict[str, np.ndarray]:
    """A run's scores with the videos in another run's order: metric -> (N,).

    Raises:
        ValueError: it has other videos.
    """
    index_of = {video_id: i for i, video_id in enumerate(run.video_ids)}
    if index_of.keys() != set(video_ids):
        other = min(index_of.keys() ^ set(video_ids))
        raise ValueError(f"{run.folder}: scores: other videos than the other runs', video {other} for one")
    order = [index_of[video_id] for video_id in video_ids]
    return {name: values[order] for name, values in run.scores.items()}


def read_log(path: pathlib.Path) -> list[dict[str, Any]]:
    """Read a `log.jsonl`: list of dictionaries, empty where there is none.

    The last line may be torn, as it is when a run is killed, and is left out then.

    Raises:
        ValueError: another line is not what training writes.
    """
    if not path.is_file():
        return []
    lines, entries = read_text(path, "log").splitlines(), []
    for n, line in enumerate(lines, 1):
        try:
            entries.append(_parse(LogEntry, line, f"{path}: line {n}").model_dump(exclude_unset=True))
        except ValueError:
            if n < len(lines):
                raise
    return entries


def format_setting(value: Any) -> str:
    """A setting as it would stand in a YAML file."""
    return value if isinstance(value, str) and value else json.dumps(value)
