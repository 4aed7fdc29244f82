"""Compare runs: scores, differing settings, and differences with confidence intervals.

    python -m report.compare outputs/ablations/tt_ca outputs/ablations/kernel_9 --format markdown

Runs that differ only in their seed are one row: mean ± standard deviation. Differences from a reference row are of the
mean score per video; their 95% intervals are from a paired bootstrap over the videos.

Axes: N videos, M metrics.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from data.annotations import NUM_VIDEOS
from engine.config import SPLITS
from metrics.registry import METRICS, PAPER_METRICS, format_score
from report.runs import (
    ABOUT_F1,
    VIDEOS_PER_STEP,
    Run,
    align_scores,
    format_setting,
    has_videoxum_size,
    published_rows,
    read_run,
)
from report.tables import FORMATS, render_table
from utils.command_line import OneLineParser
from utils.log import run_main

# With fewer videos, the coverage of the bootstrap's intervals is far below 95%.
MIN_VIDEOS = 20
BOOTSTRAP_BATCH = 50  # resamples in memory: 25 MB for 4,000 videos and 16 metrics

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

    def format_metric(self, metric: str) -> str:
        """Mean ± standard deviation over the runs; "" where a run lacks the metric."""
        values = [run.metrics[metric] for run in self.runs if metric in run.metrics]
        if len(values) < len(self.runs):
            return ""
        mean = format_score(metric, float(np.mean(values)))
        return f"{mean} ± {format_score(metric, float(np.std(values, ddof=1)))}" if len(values) > 1 else mean

    def mean_scores(self, video_ids: Sequence[str]) -> dict[str, np.ndarray]:
        """Scores per video, the mean over the runs: metric -> (N,)."""
        scores_of_runs = [align_scores(run, video_ids) for run in self.runs]
        shared = set.intersection(*(set(scores) for scores in scores_of_runs))
        return {name: np.mean([scores[name] for scores in scores_of_runs], axis=0) for name in shared}


def group_by_seed(runs: Sequence[Run]) -> list[Group]:
    """Group runs that differ only in their seed, ordered by their first runs; runs of equal seed are not grouped."""
    groups: list[list[Run]] = []
    for run in runs:
        for group in groups:
            if group[0].settings == run.settings and run.seed not in [other.seed for other in group]:
                group.append(run)
                break
        else:
            groups.append([run])
    return [Group(tuple(group)) for group in groups]


def differing_settings(groups: Sequence[Group]) -> list[str]:
    """Return the names of the settings in which groups differ, in the order of the configuration."""
    settings_of_groups = [group.runs[0].settings for group in groups]
    names = dict.fromkeys(name for settings in settings_of_groups for name in settings)
    first = settings_of_groups[0]
    different = [name for name in names if any(s.get(name) != first.get(name) for s in settings_of_groups)]
    # Unknown for checkpoints that were evaluated in another run.
    unknown = any(VIDEOS_PER_STEP not in settings for settings in settings_of_groups)
    return [name for name in different if not (name == VIDEOS_PER_STEP and unknown)]


def score_table(groups: Sequence[Group], metrics: Sequence[str]) -> tuple[list[str], list[list[str]], int]:
    """Build the table of published, random and human rows and each group: header, rows, number of leading columns."""
    names = differing_settings(groups)
    reference_rows = published_rows(groups[0].runs[0].split) | select_baselines(groups)
    table = [
        [label, *[""] * len(names), *[format_score(m, row[m]) if m in row else "" for m in metrics]]
        for label, row in reference_rows.items()
    ]
    for group in groups:
        settings = group.runs[0].settings
        values = [format_setting(settings[name]) if name in settings else "" for name in names]
        table.append([group.name, *values, *map(group.format_metric, metrics)])
    return ["", *names, *metrics], table, 1 + len(names)


def select_baselines(groups: Sequence[Group]) -> dict[str, dict[str, float]]:
    """Return the random and human rows of the first run that has them; runs of task v2t have none."""
    return next((run.baselines for group in groups for run in group.runs if run.baselines), {})


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


def compare_groups(
    groups: Sequence[Group], reference: Group, metrics: Sequence[str], resamples: int, seed: int
) -> list[tuple[Group, Intervals]]:
    """Compute each other group's mean difference per video from the reference, with its interval."""
    video_ids = reference.runs[0].video_ids
    reference_scores = reference.mean_scores(video_ids)
    compared = []
    for group in groups:
        scores = group.mean_scores(video_ids)
        shared = [name for name in metrics if name in scores and name in reference_scores]
        if group is reference or not shared:
            continue
        pairs = np.stack([scores[name] - reference_scores[name] for name in shared], axis=1)  # (N, M)
        lows, highs = bootstrap_interval(pairs, resamples, seed)
        compared.append((group, dict(zip(shared, zip(pairs.mean(axis=0), lows, highs)))))
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
    groups: Sequence[Group], reference: Group, has_differences: bool, metrics: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Describe the tables: lines above the second table, and lines below both."""
    run, above, below = groups[0].runs[0], [], []
    if published_rows(run.split):
        below.append(ABOUT_F1)
        if not has_videoxum_size(run):
            below.append(
                f"Published rows are of VideoXum's {NUM_VIDEOS[run.split]:,} test videos, not of these videos."
            )
    for group in groups:
        if len(group.runs) > 1:
            below.append(f"{group.name}: {', '.join(str(run.folder) for run in group.runs)}")
    if has_differences:
        num_videos = len(run.video_ids)
        above.append(f"Mean difference per video from {reference.name}, over {num_videos} videos, with 95% interval.")
        if num_videos < MIN_VIDEOS:
            above.append(
                f"With fewer than {MIN_VIDEOS} videos, intervals are too narrow and significance is not marked."
            )
        else:
            above.append(
                "* significant: 0 is outside the interval, which covers the sampling of videos, not the seed or"
            )
            above.append("  multiple comparisons: about one in twenty is significant by chance.")
        if any(METRICS[name].is_corpus for name in metrics):
            above.append("BLEU and METEOR: differences of scores per video; the scores above are of the whole split.")
    return above, below


def check_same_videos(groups: Sequence[Group]) -> None:
    """Raise a ValueError if groups were not scored on the same videos with the same annotations."""
    first, expected = groups[0].runs[0], select_baselines(groups)
    for run in (run for group in groups for run in group.runs):
        align_scores(run, first.video_ids)
        for label, row in run.baselines.items():
            for name, value in row.items():
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
    header, rows, left = score_table(groups, metrics)
    compared = compare_groups(groups, reference, metrics, args.resamples, args.seed)
    if args.table_format == "csv":
        print(render_table(*append_differences(header, rows, compared, metrics), "csv"), end="")
        return
    above, below = describe_table(groups, reference, bool(compared), metrics)
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
