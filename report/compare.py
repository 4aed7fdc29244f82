"""Compare runs: a row for each, what differs in their settings, and which differences are beyond noise.

    python -m report.compare outputs/ablations/tt_ca outputs/ablations/kernel_9 --format markdown

Runs that differ only in their seed are one row: mean ± standard deviation. Differences are from one chosen row's mean
score per video; their 95 % intervals come from a paired bootstrap over the videos.
"""

import dataclasses
import pathlib

import numpy as np

from data.annotations import VIDEOS
from engine.config import SPLITS
from metrics.registry import METRICS, PAPER_METRICS, format_score
from report.bootstrap import paired_bootstrap
from report.runs import (
    ABOUT_F1,
    STEP,
    Run,
    aligned,
    dumps,
    is_videoxum,
    published,
    read_run,
)
from utils.command_line import OneLineParser
from utils.log import run_main
from utils.tables import FORMATS, layout

# With fewer videos the bootstrap's intervals hold the truth far less often than they say.
LEAST_VIDEOS = 20


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed."""

    runs: tuple[Run, ...]

    @property
    def name(self):
        first, more = str(self.runs[0].folder), len(self.runs) - 1
        return f"{first} (and {more} more {'seeds' if more > 1 else 'seed'})" if more else first

    def cell(self, metric):
        """Mean ± deviation, as text."""
        values = [run.metrics[metric] for run in self.runs if metric in run.metrics]
        if len(values) < len(self.runs):
            return ""
        mean = format_score(metric, np.mean(values))
        return f"{mean} ± {format_score(metric, np.std(values, ddof=1))}" if len(values) > 1 else mean

    def scores(self, video_ids):
        """Scores per video, the mean over the runs: metric -> (N,)."""
        all_scores = [aligned(run, video_ids) for run in self.runs]
        shared = set.intersection(*(set(scores) for scores in all_scores))
        return {name: np.mean([scores[name] for scores in all_scores], axis=0) for name in shared}


def grouped(runs):
    """Put runs together that differ only in their seed, in the order of their first; runs of one seed stay apart."""
    groups = []
    for run in runs:
        for group in groups:
            if group[0].settings == run.settings and run.seed not in [other.seed for other in group]:
                group.append(run)
                break
        else:
            groups.append([run])
    return [Group(tuple(group)) for group in groups]


def differing(groups):
    """Names of the settings in which groups differ, in the order of the configuration."""
    first = groups[0].runs[0].settings
    names = dict.fromkeys(name for group in groups for name in group.runs[0].settings)
    different = [name for name in names if any(g.runs[0].settings.get(name) != first.get(name) for g in groups)]
    unknown = any(STEP not in group.runs[0].settings for group in groups)  # of checkpoints that were scored elsewhere
    return [name for name in different if not (name == STEP and unknown)]


def score_table(groups, metrics):
    """Header and rows: published, random and human first, then each group with what differs in its settings."""
    settings = differing(groups)
    rows = {name: dict(values) for name, values in published(groups[0].runs[0].split).items()} | baselines_of(groups)
    blank = [""] * len(settings)
    table = [
        [name, *blank, *[format_score(m, row[m]) if m in row else "" for m in metrics]] for name, row in rows.items()
    ]
    for group in groups:
        found = group.runs[0].settings
        values = [dumps(found[name]) if name in found else "" for name in settings]
        table.append([group.name, *values, *map(group.cell, metrics)])
    return ["", *settings, *metrics], table, 1 + len(settings)


def baselines_of(groups):
    """Chance's and the annotators' rows, of the first run that has them: a run of captions alone has none."""
    return next((run.baselines for group in groups for run in group.runs if run.baselines), {})


def differences(groups, against, metrics, resamples, seed):
    """What each group scores more than one of them: list of (group, {metric: (difference, low, high)})."""
    video_ids = against.runs[0].video_ids
    reference, found = against.scores(video_ids), []
    for group in groups:
        if group is against:
            continue
        scores = group.scores(video_ids)
        shared = [name for name in metrics if name in scores and name in reference]
        if not shared:
            continue
        pairs = np.stack([scores[name] - reference[name] for name in shared], 1)  # (N, M)
        means, ends = pairs.mean(0), paired_bootstrap(pairs, resamples, seed)
        found.append((group, {name: (m, low, high) for name, m, low, high in zip(shared, means, *ends)}))
    return found


def difference_table(found, metrics, videos):
    """Header and rows of `differences`; a star marks those whose interval does not hold 0."""
    rows = []
    for group, values in found:
        cells = []
        for metric in metrics:
            if metric not in values:
                cells.append("")
                continue
            mean, low, high = values[metric]
            star = "*" if videos >= LEAST_VIDEOS and (low > 0 or high < 0) else ""
            shown, lower, upper = (format_score(metric, value, "+") for value in (mean, low, high))
            cells.append(f"{shown} [{lower}, {upper}]{star}")
        rows.append([group.name, *cells])
    return ["", *metrics], rows


def with_differences(header, rows, found, metrics):
    """One table for a spreadsheet: the scores', with difference, low and high of each metric as further columns."""
    more = {group.name: values for group, values in found}
    header = [*header, *[f"{metric} {what}" for metric in metrics for what in ("difference", "low", "high")]]
    for row in rows:
        for metric in metrics:
            values = more.get(row[0], {}).get(metric, ())
            row += [format_score(metric, value, "+") for value in values] or [""] * 3
    return header, rows


def remarks(groups, against, found, metrics):
    """What has to be said of the tables: lines before the second one, and lines behind all."""
    run, before, behind = groups[0].runs[0], [], []
    if published(run.split):
        behind.append(ABOUT_F1)
        if not is_videoxum(run):
            behind.append(f"Published rows are of VideoXum's {VIDEOS[run.split]:,} test videos; these are others.")
    for group in groups:
        if len(group.runs) > 1:
            behind.append(f"{group.name}: {', '.join(str(run.folder) for run in group.runs)}")
    if found:
        videos = len(run.video_ids)
        before.append(f"Mean difference per video from {against.name}, over {videos} videos, and its 95 % interval.")
        if videos < LEAST_VIDEOS:
            before.append(f"Below {LEAST_VIDEOS} videos these intervals are too narrow to tell anything from noise.")
        else:
            before.append(
                "* beyond the noise of the videos: 0 lies outside the interval. Not in it: what another seed would"
            )
            before.append("  change, and that of twenty comparisons one falls outside by chance.")
        if any(METRICS[name].is_corpus for name in metrics):
            before.append("BLEU and METEOR: of single videos' scores, whose mean is not the score of the split above.")
    return before, behind


def _check(groups):
    """Raise a ValueError where groups were not scored on the same videos with the same annotations."""
    first, known = groups[0].runs[0], baselines_of(groups)
    for run in (run for group in groups for run in group.runs):
        aligned(run, first.video_ids)
        for row, values in run.baselines.items():
            for name, value in values.items():
                if not np.isclose(value, known.get(row, {}).get(name, value), rtol=1e-9):
                    raise ValueError(
                        f"{run.folder}: baselines: found others than of the runs before: other annotations"
                    )


def _arguments(argv):
    parser = OneLineParser(prog="python -m report.compare", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="folders with results_{split}.json and scores_{split}.jsonl")
    add("--split", choices=SPLITS, default="test", help="which split's results (default: test)")
    add("--format", choices=FORMATS, default="table", dest="style", help="default: table")
    add(
        "--metrics",
        nargs="+",
        choices=tuple(METRICS),
        default=PAPER_METRICS,
        metavar="NAME",
        help="default: the paper's",
    )
    add("--against", metavar="RUN", help="run whose row the others are compared with (default: the first)")
    add("--resamples", type=int, default=10_000, help="of the bootstrap (default: 10000)")
    add("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    args = parser.parse_args(argv)
    for name, least in (("resamples", 1), ("seed", 0)):
        if getattr(args, name) < least:
            raise ValueError(f"{name}: found {getattr(args, name)}, expected at least {least}")
    return args


def main(argv=None):
    args = _arguments(argv)
    folders = {pathlib.Path(folder).resolve(): folder for folder in reversed(args.runs)}  # each once
    groups = grouped([read_run(folder, args.split) for folder in reversed(folders.values())])
    _check(groups)
    reference = pathlib.Path(args.against or args.runs[0]).resolve()
    against = next((g for g in groups if reference in [run.folder.resolve() for run in g.runs]), None)
    if against is None:
        raise ValueError(f"against: found {args.against}, expected one of the runs to compare")
    measured = {name for group in groups for run in group.runs for name in run.metrics}
    metrics = [name for name in dict.fromkeys(args.metrics) if name in measured]
    header, rows, left = score_table(groups, metrics)
    found = differences(groups, against, metrics, args.resamples, args.seed)
    if args.style == "csv":
        print(layout(*with_differences(header, rows, found, metrics), "csv"), end="")
        return
    before, behind = remarks(groups, against, found, metrics)
    comment = "% " if args.style == "latex" else ""
    print(layout(header, rows, args.style, left))
    for line in before:
        print(comment + line)
    if found:
        print("\n" + layout(*difference_table(found, metrics, len(against.runs[0].video_ids)), args.style))
    for line in behind:
        print(comment + line)


if __name__ == "__main__":
    run_main(main)
