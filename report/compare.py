"""Compare runs: scores, differing settings, and differences with confidence intervals.

    python -m report.compare outputs/ablations/tt_ca outputs/ablations/kernel_9 --format markdown

Runs that differ only in their seed are one row: mean ± standard deviation. Differences from a reference row are of the
mean score per video. Between rows of a single seed, their 95% intervals are from a paired bootstrap over the videos;
with several seeds they also cover the seed of the training, see `seed_interval`.

Axes: N videos, M metrics, S seeds.
"""

import argparse
import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data.videoxum import NUM_VIDEOS
from engine.config import SPLITS, Config
from metrics.baselines import BASELINES
from metrics.registry import CLIP_METRICS, METRICS, PAPER_METRICS, format_score
from report.runs import (
    ABOUT_F1,
    CLIP_ENCODER,
    OF_TRAINING,
    VIDEOS_PER_STEP,
    VT_CLIP,
    Run,
    align_scores,
    format_setting,
    has_all_published_videos,
    published_rows,
    read_run,
)
from report.tables import FORMATS, render_table
from utils.command_line import OneLineParser
from utils.log import run_main

# With fewer videos, the coverage of the bootstrap's intervals is far below 95%.
MIN_VIDEOS = 20
BOOTSTRAP_BATCH = 50  # resamples in memory: 25 MB for 4,000 videos and 16 metrics
# Settings that only some runs have; their absence is no difference. Likewise those of `Config.required_values`.
OF_SOME_RUNS = ("decoder_base", CLIP_ENCODER, VT_CLIP)
RELATIVE_F1 = "F1/random"  # a column: F1 divided by the F1 of random saliency

# Metric -> difference of the means, lower and upper end of its interval.
Intervals = dict[str, tuple[float, float, float]]


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed."""

    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        first, more = str(self.runs[0].folder), len(self.runs) - 1
        return f"{first} (and {more} more {'seeds' if more > 1 else 'seed'})" if more else first

    def scores_by_seed(self, other: Run) -> dict[str, np.ndarray]:
        """Scores per video in the order of another run's videos, for the metrics of all runs: metric -> (S, N)."""
        scores_of_runs = [align_scores(run, other) for run in self.runs]
        shared = set.intersection(*(set(scores) for scores in scores_of_runs))
        return {name: np.stack([scores[name] for scores in scores_of_runs]) for name in shared}


def used_settings(run: Run) -> dict[str, Any]:
    """Return the settings that have an effect in the scoring or the training of a run."""
    settings = run.settings
    trained = settings | {name.removesuffix(OF_TRAINING): settings[name] for name in settings if OF_TRAINING in name}

    def is_used(name: str) -> bool:
        field = name.removesuffix(OF_TRAINING)
        return any(Config.find_disabling_setting(field, values) is None for values in (settings, trained))

    return {name: value for name, value in settings.items() if is_used(name)}


def group_by_seed(runs: Sequence[Run]) -> list[Group]:
    """Group runs that differ only in their seed, ordered by their first runs; runs of equal seed are not grouped."""
    groups: list[list[Run]] = []
    for run in runs:
        for group in groups:
            if used_settings(group[0]) == used_settings(run) and run.seed not in [other.seed for other in group]:
                group.append(run)
                break
        else:
            groups.append([run])
    return [Group(tuple(group)) for group in groups]


def differing_settings(groups: Sequence[Group]) -> list[str]:
    """Return the names of the settings in which groups differ, in the order of the configuration."""
    settings_of_groups = [used_settings(group.runs[0]) for group in groups if group.runs[0].settings]
    if not settings_of_groups:
        return []
    names = dict.fromkeys(name for settings in settings_of_groups for name in settings)
    different = []
    for name in names:
        values = [settings.get(name) for settings in settings_of_groups]
        if name in Config.required_values or name in OF_SOME_RUNS:
            values = [value for value in values if value is not None]
        if any(value != values[0] for value in values):
            different.append(name)
    # Unknown for checkpoints that were evaluated in another run.
    unknown = any(VIDEOS_PER_STEP not in settings for settings in settings_of_groups)
    return [name for name in different if not (name == VIDEOS_PER_STEP and unknown)]


def score_table(groups: Sequence[Group], metrics: Sequence[str]) -> tuple[list[str], list[list[str]], int]:
    """Build the table of published rows, baselines and groups: header, rows, number of leading columns."""
    names = differing_settings(groups)
    baselines, run = select_baselines(groups), groups[0].runs[0]
    random_f1 = baselines.get("random", {}).get("F1")
    columns = list(metrics)
    if random_f1 and "F1" in metrics:
        columns.insert(metrics.index("F1") + 1, RELATIVE_F1)
    published_random_f1 = random_f1 if has_all_published_videos(run) else None  # of the paper's videos
    # Label, settings, scores of each run, and F1 of random saliency.
    rows: list[tuple[str, list[str], list[dict[str, float]], float | None]] = []
    no_settings = [""] * len(names)
    for label, scores in published_rows(run.split).items():
        rows.append((label, no_settings, [scores], published_random_f1))
    for label, scores in baselines.items():
        rows.append((label, no_settings, [scores], random_f1))
    for group in groups:
        settings = used_settings(group.runs[0])
        values = [format_setting(settings[name]) if name in settings else "" for name in names]
        rows.append((group.name, values, [run.metrics for run in group.runs], random_f1))
        for label in (name for name, baseline in BASELINES.items() if baseline.depends_on_run):
            if all(label in run.baselines for run in group.runs):
                scores_of_runs = [run.baselines[label] for run in group.runs]
                rows.append((f"{group.name}, {label} captions", no_settings, scores_of_runs, random_f1))
    table = [
        [label, *values, *(format_cell(name, scores_of_runs, f1) for name in columns)]
        for label, values, scores_of_runs, f1 in rows
    ]
    return ["", *names, *columns], table, 1 + len(names)


def format_cell(column: str, rows: Sequence[Mapping[str, float]], random_f1: float | None) -> str:
    """Format a column's mean ± standard deviation over the scores of several runs; "" where a run lacks it.

    Args:
        column: a metric or `RELATIVE_F1`.
        rows: metric -> score, of each run.
        random_f1: F1 of random saliency on the same videos, or None.
    """
    if column == RELATIVE_F1:
        values = [row["F1"] / random_f1 for row in rows if "F1" in row] if random_f1 else []
        format_value = "{:.2f}".format
    else:
        values = [row[column] for row in rows if column in row]
        format_value = functools.partial(format_score, column)
    if len(values) < len(rows):
        return ""
    mean = format_value(float(np.mean(values)))
    return f"{mean} ± {format_value(float(np.std(values, ddof=1)))}" if len(values) > 1 else mean


def select_baselines(groups: Sequence[Group]) -> dict[str, dict[str, float]]:
    """Return the baseline rows that are the same for all runs, each score of the first run that has it."""
    baselines: dict[str, dict[str, float]] = {}
    for run in (run for group in groups for run in group.runs):
        for label, row in run.baselines.items():
            if label not in BASELINES or not BASELINES[label].depends_on_run:
                baselines[label] = row | baselines.get(label, {})
    return baselines


def bootstrap_interval(differences: np.ndarray, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute the 95% percentile interval of the mean of paired differences over resampled videos.

    Args:
        differences: (N, M), one model's score minus the other's on the same video; all columns share the resamples.
        resamples: number of resamples.
        seed: random seed of the resampling.
    Returns:
        (M,) lower and (M,) upper ends.
    """
    import scipy.stats

    if len(differences) == 1:  # SciPy requires two
        return differences[0], differences[0]
    interval = scipy.stats.bootstrap(
        (differences,), np.mean, n_resamples=resamples, batch=BOOTSTRAP_BATCH, method="percentile", rng=seed
    ).confidence_interval
    return interval.low, interval.high


def seed_interval(scores: np.ndarray, reference_scores: np.ndarray) -> tuple[float, float]:
    """Compute the 95% interval of a difference of mean scores over the sampling of videos and of seeds.

    It is difference ± sqrt(t_videos² · var_videos + t_seeds² · var_seeds):

    - var_videos = s_d² / N, s_d² the variance over the videos of the paired differences of the means over the seeds;
    - var_seeds = s_p² (1 / S_A + 1 / S_B), s_p² the variance of the mean score between seeds, pooled over both rows: a
      row of a single seed is assumed to vary as the other;
    - t_videos and t_seeds are Student's 97.5% quantiles with N - 1 and S_A + S_B - 2 degrees of freedom. One quantile
      with Welch–Satterthwaite's degrees of freedom gives narrower intervals, which cover too little with few seeds.

    Args:
        scores: (S_A, N), one row per seed.
        reference_scores: (S_B, N), of the same videos; S_A + S_B ≥ 3.
    Returns:
        Lower and upper end.
    """
    from scipy import stats

    (S_A, N), S_B = scores.shape, len(reference_scores)
    pairs = scores.mean(axis=0) - reference_scores.mean(axis=0)  # (N,)
    squares = sum(((means - means.mean()) ** 2).sum() for means in (scores.mean(axis=1), reference_scores.mean(axis=1)))
    var_videos = pairs.var(ddof=1) / N if N > 1 else 0.0
    var_seeds = squares / (S_A + S_B - 2) * (1 / S_A + 1 / S_B)
    t_videos, t_seeds = stats.t.ppf(0.975, [max(N - 1, 1), S_A + S_B - 2])
    half_width = np.sqrt(t_videos**2 * var_videos + t_seeds**2 * var_seeds)
    return pairs.mean() - half_width, pairs.mean() + half_width


def has_several_seeds(group: Group, reference: Group) -> bool:
    """Whether the interval of a difference between rows covers the seed of the training."""
    return len(group.runs) > 1 or len(reference.runs) > 1


def compare_groups(
    groups: Sequence[Group], reference: Group, metrics: Sequence[str], resamples: int, seed: int
) -> list[tuple[Group, Intervals]]:
    """Compute each other group's mean difference per video from the reference, with its interval."""
    reference_scores = reference.scores_by_seed(reference.runs[0])
    compared = []
    for group in groups:
        scores = group.scores_by_seed(reference.runs[0])
        shared = [name for name in metrics if name in scores and name in reference_scores]
        if group is reference or not shared:
            continue
        pairs = np.stack(
            [scores[name].mean(axis=0) - reference_scores[name].mean(axis=0) for name in shared], axis=1
        )  # (N, M)
        if has_several_seeds(group, reference):
            ends = [seed_interval(scores[name], reference_scores[name]) for name in shared]
        else:
            ends = list(zip(*bootstrap_interval(pairs, resamples, seed)))
        intervals = {name: (mean, *end) for name, mean, end in zip(shared, pairs.mean(axis=0), ends)}
        compared.append((group, intervals))
    return compared


def difference_table(
    compared: list[tuple[Group, Intervals]], metrics: Sequence[str], num_videos: int
) -> tuple[list[str], list[list[str]]]:
    """Build the table of `compare_groups`: header and rows; a star marks intervals that exclude 0."""

    def cell(metric: str, intervals: Intervals) -> str:
        if metric not in intervals:
            return ""
        _, low, high = intervals[metric]
        star = "*" if num_videos >= MIN_VIDEOS and (low > 0 or high < 0) else ""
        mean_text, low_text, high_text = (format_score(metric, value, "+") for value in intervals[metric])
        return f"{mean_text} [{low_text}, {high_text}]{star}"

    return ["", *metrics], [[group.name, *(cell(m, intervals) for m in metrics)] for group, intervals in compared]


def append_differences(
    header: list[str], rows: list[list[str]], compared: list[tuple[Group, Intervals]], metrics: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Append difference, low and high of each metric to the table of scores, as columns for a spreadsheet."""
    intervals_of = {group.name: intervals for group, intervals in compared}
    header = [*header, *[f"{metric} {end}" for metric in metrics for end in ("difference", "low", "high")]]
    wide_rows = []
    for row in rows:
        intervals = intervals_of.get(row[0], {})
        wide_rows.append(list(row))
        for metric in metrics:
            values = [format_score(metric, value, "+") for value in intervals.get(metric, ())]
            wide_rows[-1] += values or [""] * 3
    return header, wide_rows


def describe_table(
    groups: Sequence[Group], reference: Group, compared: Sequence[tuple[Group, Intervals]], metrics: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Describe the tables: lines above the second table, and lines below both."""
    run, above, below = groups[0].runs[0], [], []
    if compared:
        num_videos = len(run.video_ids)
        above.append(f"Mean difference per video from {reference.name}, over {num_videos} videos, with 95% interval.")
        if any(METRICS[name].is_corpus for name in metrics):
            above.append("BLEU and METEOR: differences of scores per video; the scores above are of the whole split.")
        if num_videos < MIN_VIDEOS:
            below.append(
                f"With fewer than {MIN_VIDEOS} videos, intervals are too narrow and significance is not marked."
            )
        else:
            below.append(
                "* significant: 0 is outside the interval. About one in twenty comparisons is significant by chance."
            )
        covers_seeds = {has_several_seeds(group, reference) for group, _ in compared}
        if False in covers_seeds:
            below.append(
                "Between rows of a single seed, intervals and stars are of the videos alone (bootstrap): another"
            )
            below.append("  seed of the training may change the sign.")
        if True in covers_seeds:
            below.append(
                "If one of the rows has several seeds, intervals and stars cover the sampling of videos and of"
            )
            below.append("  seeds (Student's t; variance between seeds pooled over both rows).")
    if published_rows(run.split):
        below.append(ABOUT_F1)
        if not has_all_published_videos(run):
            below.append(
                f"Published rows are of VideoXum's {NUM_VIDEOS[run.split]:,} test videos, not of these videos."
            )
    for group in groups:
        if len(group.runs) > 1:
            below.append(f"{group.name}: {', '.join(str(run.folder) for run in group.runs)}")
    return above, below


def clip_space(run: Run) -> str | None:
    """Hash of the encoder in whose space frames and texts were compared; None if it is not known."""
    return (run.results.clip_encoder or {}).get("frames_weights_sha256")


def check_same_videos(groups: Sequence[Group]) -> None:
    """Raise a ValueError if groups were not scored on the same videos with the same annotations."""
    first, expected = groups[0].runs[0], select_baselines(groups)
    for run in (run for group in groups for run in group.runs):
        align_scores(run, first)
        for label, row in run.baselines.items():
            for name, value in row.items():
                if name in CLIP_METRICS and clip_space(run) != clip_space(first):
                    continue
                if not np.isclose(value, expected.get(label, {}).get(name, value), rtol=1e-9):
                    raise ValueError(
                        f"{run.folder}: baselines: found other values than in the first run: other annotations"
                    )


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(prog="python -m report.compare", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="folders with results_{split}.json and scores_{split}.jsonl")
    add("--split", choices=SPLITS, default="test", help="split (default: test)")
    add("--format", choices=FORMATS, default="table", dest="table_format", help="default: table")
    add(
        "--metrics",
        nargs="+",
        choices=tuple(METRICS),
        default=PAPER_METRICS,
        metavar="NAME",
        help="default: the paper's",
    )
    add("--against", metavar="RUN", help="run of the reference row (default: the first)")
    add("--resamples", type=int, default=10_000, help="of the bootstrap (default: 10000)")
    add("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    args = parser.parse_args(argv)
    for name, minimum in (("resamples", 1), ("seed", 0)):
        if getattr(args, name) < minimum:
            raise ValueError(f"{name}: found {getattr(args, name)}, expected at least {minimum}")
    return args


def main(argv: list[str] | None = None) -> None:
    args = _parse_arguments(argv)
    folders = {pathlib.Path(folder).resolve(): folder for folder in reversed(args.runs)}  # each once
    groups = group_by_seed([read_run(folder, args.split) for folder in reversed(folders.values())])
    check_same_videos(groups)
    against = pathlib.Path(args.against or args.runs[0]).resolve()
    reference = next((g for g in groups if against in [run.folder.resolve() for run in g.runs]), None)
    if reference is None:
        raise ValueError(f"against: found {args.against}, expected one of the runs to compare")
    measured = {name for group in groups for run in group.runs for name in run.metrics}
    metrics = [name for name in dict.fromkeys(args.metrics) if name in measured]
    omitted: list[str] = []
    with_clip = [run for group in groups for run in group.runs if not run.metrics.keys().isdisjoint(CLIP_METRICS)]
    if len({clip_space(run) for run in with_clip}) > 1:
        omitted = [name for name in metrics if name in CLIP_METRICS]
        metrics = [name for name in metrics if name not in omitted]
    header, rows, left = score_table(groups, metrics)
    compared = compare_groups(groups, reference, metrics, args.resamples, args.seed)
    if args.table_format == "csv":
        print(render_table(*append_differences(header, rows, compared, metrics), "csv"), end="")
        return
    above, below = describe_table(groups, reference, compared, metrics)
    if omitted:
        below.append(f"{', '.join(omitted)}: omitted, the runs were scored with features of different encoders.")
    comment = "% " if args.table_format == "latex" else ""
    print(render_table(header, rows, args.table_format, left))
    for line in above:
        print(comment + line)
    if compared:
        table = difference_table(compared, metrics, len(reference.runs[0].video_ids))
        print("\n" + render_table(*table, args.table_format))
    for line in below:
        print(comment + line)


if __name__ == "__main__":
    run_main(main)
