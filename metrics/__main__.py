"""Score a file of predictions: `python -m metrics PREDICTIONS ANNOTATIONS [--output_dir DIR]`."""

import pathlib

from data.annotations import load_annotations
from engine.predictions import read_predictions
from engine.scoring import format_table, score_predictions, write_scores
from utils.command_line import OneLineParser
from utils.log import run_main


def main(argv: list[str] | None = None) -> None:
    parser = OneLineParser(prog="python -m metrics", description=__doc__.split(":")[0])
    parser.add_argument("predictions", help="predictions_{split}.jsonl")
    parser.add_argument("annotations", help="{split}_videoxum.json")
    parser.add_argument(
        "--output_dir", help="folder for results and scores per video; without it, the table is only printed"
    )
    args = parser.parse_args(argv)
    if args.output_dir:
        pathlib.Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    predictions = read_predictions(args.predictions)
    results, scores = score_predictions(predictions, load_annotations(args.annotations))
    split = pathlib.Path(args.predictions).stem.removeprefix("predictions_")
    if args.output_dir:
        write_scores(args.output_dir, split, results, scores)
    print(format_table(results, split))


if __name__ == "__main__":
    run_main(main)
