"""Compare runs: a row for each, what differs in their settings, and which differences are beyond noise.

    python -m utils.compare outputs/ablations/tt_ca outputs/ablations/kernel_9 --format markdown

Runs that differ only in their seed are one row: mean ± standard deviation. Differences are from one chosen row's mean
score per video; their 95 % intervals come from a paired bootstrap over the videos.
"""

import dataclasses

import numpy as np

from utils.bootstrap import paired_bootstrap
from utils.config import SPLITS, OneLineParser
from utils.log import run_main
from utils.metrics.scoring import shown
from utils.runs import ALL_METRICS, PAPER_METRICS, Run, aligned, dumps, published, read_run
from utils.tables import FORMATS, layout

# Their score of a split is not the mean of its videos' scores, but counted over all words.
CORPUS = ("BLEU_1", "BLEU_2", "BLEU_3", "BLEU_4", "METEOR")


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
        mean = shown(metric, np.mean(values))
        return f"{mean} ± {shown(metric, np.std(values, ddof=1))}" if len(values) > 1 else mean

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
    return [name for name in names if any(g.runs[0].settings.get(name) != first.get(name) for g in groups)]


def score_table(groups, metrics):
    """Header and rows: published, random and human first, then each group with what differs in its settings."""
    split, settings = groups[0].runs[0].split, differing(groups)
    header = ["", *settings, *metrics]
    rows = {name: dict(values) for name, values in published(split).items()} | groups[0].runs[0].baselines
    blank = [""] * len(settings)
    table = [[name, *blank, *[shown(m, row[m]) if m in row else "" for m in metrics]] for name, row in rows.items()]
    for group in groups:
        found = group.runs[0].settings
        values = [dumps(found[name]) if name in found else "" for name in settings]
        table.append([group.name, *values, *map(group.cell, metrics)])
    return header, table, 1 + len(settings)


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


def difference_table(found, metrics):
    """Header and rows of `differences`; a star marks those whose interval does not hold 0."""
    rows = []
    for group, values in found:
        cells = []
        for metric in metrics:
            if metric not in values:
                cells.append("")
                continue
            mean, low, high = values[metric]
            star = "*" if low > 0 or high < 0 else ""
            cells.append(f"{shown(metric, mean, '+')} [{shown(metric, low, '+')}, {shown(metric, high, '+')}]{star}")
        rows.append([group.name, *cells])
    return ["", *metrics], rows


def _check(groups):
    """Raise a ValueError where groups were not scored on the same videos with the same annotations."""
    first = groups[0].runs[0]
    for run in (run for group in groups for run in group.runs):
        aligned(run, first.video_ids)
        if any(
            not np.isclose(value, first.baselines[row].get(name, np.nan), rtol=1e-9)
            for row, values in run.baselines.items()
            if row in first.baselines
            for name, value in values.items()
        ):
            raise ValueError(f"{run.folder}: baselines: found others than in {first.folder}: other annotations")


def _arguments():
    parser = OneLineParser(prog="python -m utils.compare", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="folders with results_{split}.json and scores_{split}.jsonl")
    add("--split", choices=SPLITS, default="test", help="which split's results (default: test)")
    add("--format", choices=FORMATS, default="table", dest="style", help="default: table")
    add("--metrics", nargs="+", choices=ALL_METRICS, default=PAPER_METRICS, metavar="NAME", help="default: the paper's")
    add("--against", metavar="RUN", help="run whose row the others are compared with (default: the first)")
    add("--resamples", type=int, default=10_000, help="of the bootstrap (default: 10000)")
    add("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    return parser


def main(argv=None):
    args = _arguments().parse_args(argv)
    if args.resamples < 1:
        raise ValueError(f"resamples: found {args.resamples}, expected at least 1")
    groups = grouped([read_run(folder, args.split) for folder in dict.fromkeys(args.runs)])
    _check(groups)
    folder = read_run(args.against, args.split).folder if args.against else groups[0].runs[0].folder
    against = next((group for group in groups if folder in [run.folder for run in group.runs]), None)
    if against is None:
        raise ValueError(f"against: found {args.against}, expected one of the runs to compare")
    metrics = [name for name in args.metrics if any(name in run.metrics for group in groups for run in group.runs)]
    header, rows, left = score_table(groups, metrics)
    print(layout(header, rows, args.style, left), end="")
    found = differences(groups, against, metrics, args.resamples, args.seed)
    if not found:
        return
    if args.style != "csv":
        videos = len(against.runs[0].video_ids)
        print(f"\nMean difference per video from {against.name} over {videos} videos, 95 % interval; * beyond noise")
        if any(name in CORPUS for name in metrics):
            print("(BLEU and METEOR: of single videos' scores, whose mean is not the score of the split above)")
    print()
    print(layout(*difference_table(found, metrics), args.style), end="")


if __name__ == "__main__":
    run_main(main)
