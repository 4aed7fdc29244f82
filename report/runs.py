"""Read and check the files of runs; the published scores for comparison."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import numpy as np
import pydantic

from data.registry import DATASETS
from data.videoxum import NUM_VIDEOS
from engine.config import Config
from engine.provenance import encoder_label
from metrics.baselines import BASELINES
from metrics.registry import METRICS
from utils.encoder_names import FEATURE_WIDTHS
from utils.files import parse_json, read_text
from utils.validation import abbreviate, describe_first_error

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
ABOUT_F1 = "It is not known whether the published F1 corresponds to F1 or F1_published."
# Settings of scoring that may differ from those of the training.
SCORING_SETTINGS = (
    "model",
    "task",
    "kernel_size",
    "prompt",
    "max_text_length",
    "min_text_length",
    "num_beams",
    "precision",
    "tf32",
    "video_embeddings_root",
)
# Names of further settings.
OF_TRAINING = " (training)"  # after the name of a setting
VIDEOS_PER_STEP = "videos per step"  # of the optimizer, over all processes
CLIP_ENCODER, VT_CLIP = "F_CLIP encoder", "VT-CLIP"


def _require_metric(name: str) -> str:
    if name not in METRICS:
        raise ValueError(f"found {abbreviate(name)}, expected one of {', '.join(METRICS)}")
    return name


StoredScores = dict[Annotated[str, pydantic.AfterValidator(_require_metric)], pydantic.FiniteFloat]
Model = TypeVar("Model", bound=pydantic.BaseModel)


class StrictModel(pydantic.BaseModel):
    """A JSON object whose fields are not converted; further fields are ignored."""

    model_config = pydantic.ConfigDict(strict=True)


class VideoCounts(StrictModel):
    """`num_videos` of a results file: videos in the annotations, videos with a prediction."""

    expected: int
    scored: int


class ScoredSubset(StrictModel):
    """`subset` of a results file: the file of the ids of the videos that were kept."""

    file: str
    sha256: str
    num_videos: int


class Results(StrictModel):
    """Content of `results_{split}.json`."""

    metrics: StoredScores = pydantic.Field(min_length=1)
    baselines: dict[str, StoredScores]
    num_videos: VideoCounts
    subset: ScoredSubset | None = None
    keyframes_from: str | None = None
    dataset: str | None = None
    encoder: dict[str, Any] | None = None
    clip_encoder: dict[str, Any] | None = None
    decoder_base: dict[str, str] | None = None
    config: dict[str, Any] | None = None
    trained_with: dict[str, Any] | None = None
    processes: int | None = None
    versions: dict[str, str | None] | None = None
    checkpoint_sha256: str | None = None
    vt_clip_sha256: str | None = None


class ScoredVideo(StrictModel):
    """A line of `scores_{split}.jsonl`, without the scores."""

    video_id: str


_METRIC_FIELDS: dict[str, Any] = dict.fromkeys(METRICS, (pydantic.FiniteFloat, None))
# A line of `scores_{split}.jsonl`; only the metrics in the line are set.
VideoScores = pydantic.create_model("VideoScores", __base__=ScoredVideo, **_METRIC_FIELDS)


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
        folder: folder of the run.
        split: name of the split.
        dataset: dataset that was scored, a key of `DATASETS`.
        results: content of `results_{split}.json`.
        settings: settings that affect scores, without the seed: name -> value; if that of the training differs, it is
            `NAME (training)`. {} for results of `python -m metrics`.
        seed: random seed of the training; None if it is unknown.
        video_ids: in the order of `scores_{split}.jsonl`.
        scores: metric -> (N,) float64, a value per video.
    """

    folder: pathlib.Path
    split: str
    dataset: str
    results: Results
    settings: dict[str, Any]
    seed: int | None
    video_ids: tuple[str, ...]
    scores: dict[str, np.ndarray]

    @property
    def metrics(self) -> dict[str, float]:
        return self.results.metrics

    @property
    def baselines(self) -> dict[str, dict[str, float]]:
        return self.results.baselines


def has_all_published_videos(run: Run) -> bool:
    """Whether a run was scored on all videos of one of VideoXum's splits, as the published rows are."""
    results = run.results
    is_complete = results.subset is None and results.num_videos.expected == NUM_VIDEOS[run.split]
    return run.dataset == "videoxum" and is_complete


def published_rows(split: str) -> dict[str, dict[str, float]]:
    """Return the paper's rows, name -> metrics as fractions; {} for other splits than test."""
    return {f"{name}, published": row for name, row in PUBLISHED.items()} if split == "test" else {}


def read_run(folder: str | pathlib.Path, split: str = "test") -> Run:
    """Read the scores of a run or an evaluation from its folder.

    Raises:
        FileNotFoundError, ValueError: a file is missing, or not in the format of `engine.scoring`.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: run: no such folder")
    path = folder / f"results_{split}.json"
    if not path.is_file():
        scored = ", ".join(sorted(p.stem.removeprefix("results_") for p in folder.glob("results_*.json"))) or "none"
        raise FileNotFoundError(f"{path}: results: no such file; scored splits: {scored}")
    results = _parse(Results, read_text(path, "results"), f"{path}: results")
    video_ids, scores = _read_scores(folder / f"scores_{split}.jsonl")
    missing = sorted(results.metrics.keys() - scores.keys())
    if missing:
        raise ValueError(f"{folder / f'scores_{split}.jsonl'}: {missing[0]}: missing, but in {path.name}")
    # Results of earlier versions do not name the dataset.
    dataset = results.dataset or (results.config or {}).get("dataset", "videoxum")
    if dataset not in tuple(DATASETS):
        raise ValueError(f"{path}: dataset: found {abbreviate(dataset)}, expected one of {', '.join(DATASETS)}")
    settings, seed = _merge_settings(results)
    return Run(folder, split, dataset, results, settings, seed, video_ids, scores)


def _parse(model: type[Model], text: str, source: str) -> Model:
    """Validate a JSON object; errors are one line that starts with `source`."""
    try:
        return model.model_validate(parse_json(text))
    except pydantic.ValidationError as error:
        raise ValueError(f"{source}: {describe_first_error(error)}") from None
    except ValueError as error:
        raise ValueError(f"{source}: not valid JSON ({error})") from None


def _merge_settings(results: Results) -> tuple[dict[str, Any], int | None]:
    """Return settings and seed of a run; settings that older files lack have their defaults.

    Results of `python -m metrics` have no configuration: their settings are unknown.
    """
    if results.config is None:
        return {}, None
    scored, trained = (
        Config().as_dict() | {k: v for k, v in Config.canonical(config or {}).items() if k in Config.model_fields}
        for config in (results.config, results.trained_with or results.config)
    )
    for config in (scored, trained):  # earlier versions had `vit` alone
        config["feature_width"] = config["feature_width"] or FEATURE_WIDTHS[config["vit"]]
    settings = {name: trained[name] for name in Config().resume_critical_fields() if name != "seed"}
    for name in SCORING_SETTINGS:
        settings[name] = scored[name]
        if trained[name] != scored[name] and name in Config().resume_critical_fields():
            settings[name + OF_TRAINING] = trained[name]
    if results.processes and results.trained_with is None:  # else the number of training processes is unknown
        settings[VIDEOS_PER_STEP] = trained["batch_size"] * trained["accumulate"] * results.processes
    if results.encoder:
        settings["encoder"] = encoder_label(results.encoder)
    if results.decoder_base and "sha256" in results.decoder_base:
        settings["decoder_base"] = results.decoder_base["sha256"][:12]
    if (frames_sha256 := (results.clip_encoder or {}).get("frames_weights_sha256")) is not None:
        settings[CLIP_ENCODER] = frames_sha256[:12]
    if results.vt_clip_sha256:
        settings[VT_CLIP] = results.vt_clip_sha256[:12]
    return settings, trained["seed"]


def _read_scores(path: pathlib.Path) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Read the scores of every video: ids, and N values for each metric."""
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


def align_scores(run: Run, other: Run) -> dict[str, np.ndarray]:
    """Return a run's scores in the order of another run's videos: metric -> (N,).

    Raises:
        ValueError: the videos differ.
    """
    index_of = {video_id: i for i, video_id in enumerate(run.video_ids)}
    if different := index_of.keys() ^ set(other.video_ids):
        videos, expected = _describe_subset(run), _describe_subset(other)
        if videos != expected:
            raise ValueError(
                f"{run.folder}: subset: found {videos}, expected {expected}, as in {other.folder}; "
                "score both on the same videos"
            )
        raise ValueError(f"{run.folder}: scores: found other videos than in the other runs, such as {min(different)}")
    order = [index_of[video_id] for video_id in other.video_ids]
    return {name: values[order] for name, values in run.scores.items()}


def _describe_subset(run: Run) -> str:
    subset = run.results.subset
    return f"{subset.num_videos} videos of {subset.file} (SHA-256 {subset.sha256[:12]}…)" if subset else "all videos"


def describe_baselines(runs: Sequence[Run]) -> dict[str, str]:
    """Return what the baseline rows of runs are: name -> description."""
    names = {name for run in runs for name in run.baselines}
    return {name: baseline.description for name, baseline in BASELINES.items() if name in names}


def read_log(path: pathlib.Path) -> list[dict[str, Any]]:
    """Read the lines of a `log.jsonl`; [] if there is none.

    An incomplete last line, of a killed run, is ignored.

    Raises:
        ValueError: another line is not in the format of training.
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
    """Format a setting as in a YAML file."""
    return value if isinstance(value, str) and value else json.dumps(value)
