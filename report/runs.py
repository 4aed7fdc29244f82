"""What finished runs left on the disk, and the published figures to set beside them."""

import dataclasses
import json
import math
import pathlib

import numpy as np

from data.annotations import VIDEOS, is_number
from engine.config import Config
from metrics.registry import METRICS
from utils.files import parse_json, read_json, read_text

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
# What a checkpoint may be scored with otherwise than it was trained.
SCORED_WITH = ("model", "task", "kernel_size", "prompt", "max_text_length", "min_text_length", "num_beams")
SCORED_WITH += ("precision", "tf32", "video_embeddings_root")
STEP = "videos per step"  # over all processes


# Said beside these rows.
ABOUT_F1 = "Whether the published F1 is F1 or F1_published here is not known."


def is_videoxum(run):
    """Tell by the number of videos whether a split is VideoXum's."""
    return run.results["num_videos"]["expected"] == VIDEOS[run.split]


def published(split):
    """The paper's rows: dictionary from name to metrics, as fractions; none but for the test split."""
    return {f"{name}, published": row for name, row in PUBLISHED.items()} if split == "test" else {}


@dataclasses.dataclass(frozen=True)
class Run:
    """A scored split of a run.

    Attributes:
        folder: `pathlib.Path`.
        split: name.
        results: what `results_{split}.json` holds.
        settings: name -> value, of what scores depend on but the seed: how it was trained and how it was scored; where
            these say otherwise, `NAME (training)` too.
        seed: of the training.
        video_ids: tuple, in the order of `scores_{split}.jsonl`.
        scores: metric -> (N,) float64, a value per video.
    """

    folder: pathlib.Path
    split: str
    results: dict
    settings: dict
    seed: int
    video_ids: tuple
    scores: dict

    @property
    def metrics(self):
        return self.results["metrics"]

    @property
    def baselines(self):
        return self.results["baselines"]


def read_run(folder, split="test"):
    """Read what a run or an evaluation left in its folder.

    Raises:
        FileNotFoundError, ValueError: a file is missing or is not what `engine.scoring` writes; one line.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: run: no such folder")
    path = folder / f"results_{split}.json"
    if not path.is_file():
        found = ", ".join(sorted(p.stem.removeprefix("results_") for p in folder.glob("results_*.json"))) or "none"
        raise FileNotFoundError(f"{path}: results: no such file; splits scored there: {found}")
    results = _results(read_json(path, "results"), path)
    video_ids, scores = _scores(folder / f"scores_{split}.jsonl")
    without = sorted(results["metrics"].keys() - scores.keys())
    if without:
        raise ValueError(f"{folder / f'scores_{split}.jsonl'}: {without[0]}: missing, expected as it is in {path.name}")
    return Run(folder, split, results, *_settings(results), video_ids, scores)


def _settings(results):
    """Settings and seed of a run; what older files do not say was as it is by default."""
    scored = Config().as_dict() | results["config"]
    trained = Config().as_dict() | (results["trained_with"] or results["config"])
    settings = {name: trained[name] for name in Config().resume_critical_fields() if name != "seed"}
    for name in SCORED_WITH:
        settings[name] = scored[name]
        if trained[name] != scored[name] and name in Config().resume_critical_fields():
            settings[f"{name} (training)"] = trained[name]
    if results.get("processes") and results["trained_with"] is None:  # else it is not known how many trained it
        settings[STEP] = trained["batch_size"] * trained["accumulate"] * results["processes"]
    if results.get("vt_clip_sha256"):
        settings["VT-CLIP"] = str(results["vt_clip_sha256"])[:12]
    return settings, trained["seed"]


def _results(results, path):
    def table(value, metrics):
        return isinstance(value, dict) and set(value) <= set(metrics) and all(map(is_number, value.values()))

    if not isinstance(results, dict) or not table(results.get("metrics"), METRICS) or not results["metrics"]:
        raise ValueError(f"{path}: metrics: expected an object of scores, finite numbers")
    counts = results.get("num_videos")
    if not isinstance(counts, dict) or not all(type(counts.get(name)) is int for name in ("expected", "scored")):
        raise ValueError(f"{path}: num_videos: expected numbers, expected and scored")
    baselines = results.get("baselines")
    if not isinstance(baselines, dict) or not all(table(row, METRICS) for row in baselines.values()):
        raise ValueError(f"{path}: baselines: expected an object of rows of scores")
    for name in ("config", "trained_with"):
        values = results.setdefault(name, None)
        if not isinstance(values, dict | None):
            raise ValueError(f"{path}: {name}: found {type(values).__name__}, expected an object")
        if values is not None:
            results[name] = {key: value for key, value in values.items() if key in Config.model_fields}
    results["config"] = results["config"] or {}
    return results


def _scores(path):
    """Scores of every video: ids, and a row of N values for each metric."""
    rows = []
    for n, line in enumerate(read_text(path, "scores").splitlines(), 1):
        try:
            row = parse_json(line)
            video_id, values = row["video_id"], {name: float(row[name]) for name in METRICS if name in row}
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}: line {n}: expected a video_id and its scores ({error})") from None
        if not isinstance(video_id, str) or not all(map(math.isfinite, values.values())):
            raise ValueError(f"{path}: line {n}: expected a name and finite numbers")
        if rows and values.keys() != rows[0][1].keys():
            raise ValueError(f"{path}: line {n}: video {video_id}: found other scores than in the first line")
        rows.append((video_id, values))
    if not rows or len({video_id for video_id, _ in rows}) < len(rows):
        raise ValueError(f"{path}: scores: expected at least one video, and each once")
    scores = {name: np.array([values[name] for _, values in rows]) for name in rows[0][1]}
    return tuple(video_id for video_id, _ in rows), scores


def aligned(run, video_ids):
    """A run's scores with the videos in another run's order: metric -> (N,).

    Raises:
        ValueError: it has other videos.
    """
    places = {video_id: i for i, video_id in enumerate(run.video_ids)}
    if places.keys() != set(video_ids):
        other = min(places.keys() ^ set(video_ids))
        raise ValueError(f"{run.folder}: scores: other videos than the other runs', video {other} for one")
    order = [places[video_id] for video_id in video_ids]
    return {name: values[order] for name, values in run.scores.items()}


def read_log(path):
    """Read a `log.jsonl`: list of dictionaries, empty where there is none.

    The last line may be torn, as it is when a run is killed, and is left out then.

    Raises:
        ValueError: another line is not what training writes.
    """
    if not path.is_file():
        return []
    texts, lines = read_text(path, "log").splitlines(), []
    for n, text in enumerate(texts, 1):
        try:
            line = parse_json(text)
            fits = type(line["epoch"]) is int and isinstance(line["type"], str)
            fits = fits and (line["type"] != "step" or type(line["step"]) is int)
            fits = fits and (line["type"] != "evaluation" or isinstance(line["split"], str))
        except (ValueError, TypeError, KeyError):
            fits = False
        if fits:
            lines.append(line)
        elif n < len(texts):
            raise ValueError(f"{path}: line {n}: expected an object as training writes it")
    return lines


def dumps(value):
    """A setting as it would stand in a YAML file."""
    return value if isinstance(value, str) and value else json.dumps(value)
