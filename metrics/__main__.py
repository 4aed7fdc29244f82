"""Score a file of predictions: `python -m metrics PREDICTIONS ANNOTATIONS [--output_dir DIR]`."""

import argparse
import pathlib
from typing import Any, get_args

from data.annotations import read_subset
from data.captions import pre_caption
from data.registry import add_dataset_option, load_annotations
from engine.config import CAPTION_METRICS_HELP, CaptionMetrics
from engine.predictions import Prediction, read_predictions, write_prediction_lines
from engine.scoring import (
    check_caption_metrics,
    describe_subset,
    format_table,
    score_predictions,
    score_subset,
    write_scores,
)
from metrics.captions import describe_missing_java
from utils.command_line import OneLineParser
from utils.files import make_folder
from utils.log import run_main


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(prog="python -m metrics", description=__doc__.split(":")[0])
    add = parser.add_argument
    add("predictions", help="JSON lines, such as predictions_{split}.jsonl; fields: docs/evaluation.md")
    add("annotations", help="annotation file of the split, such as {split}_videoxum.json")
    add_dataset_option(parser)
    add(
        "--output_dir",
        help="folder for predictions, results and scores per video; '': only print the table",
        default="",
    )
    add("--clean_captions", action="store_true", help='clean captions as the references are: no . ! " ( ) * # : ; ~')
    add("--caption_metrics", choices=get_args(CaptionMetrics), default="require", help=CAPTION_METRICS_HELP)
    add("--subset", metavar="FILE", help="file of video ids, one per line: score these videos only")
    add("--also_subset", metavar="FILE", help="file of video ids: score these videos, too, under `subsets`")
    add("--clip_root", metavar="DIR", default="", help="frame features of VT-CLIP or another encoder, for F_CLIP")
    add(
        "--pretrained_clip",
        metavar="SOURCE",
        default="",
        help="VT-CLIP checkpoint, or open_clip:MODEL[@TAG_OR_PATH], for VT_CLIPScore and Cross-F_CLIP, too",
    )
    add(
        "--text_tokenizer",
        metavar="FOLDER",
        default="",
        help="tokenizer of open_clip models that otherwise download it",
    )
    args = parser.parse_args(argv)
    if args.pretrained_clip and not args.clip_root:
        raise ValueError("--pretrained_clip: found no --clip_root, expected the folder of VT-CLIP's frame features")
    return args


def _clean_captions(predictions: list[Prediction], enabled: bool) -> list[Prediction]:
    """Clean the captions as references are, or print a line on those that differ from their cleaned form."""
    cleaned = [
        p if p.caption is None else p.model_copy(update=dict(caption=pre_caption(p.caption, None))) for p in predictions
    ]
    if enabled:
        return cleaned
    count = sum(a.caption != b.caption for a, b in zip(predictions, cleaned))
    if count:
        print(
            f"{count} of {len(predictions)} captions have capitals or punctuation that the references do not have; "
            "--clean_captions cleans them in the same way"
        )
    return predictions


def main(argv: list[str] | None = None) -> None:
    args = _parse_arguments(argv)
    output_dir = make_folder(args.output_dir, "output_dir") if args.output_dir else None
    predictions = _clean_captions(read_predictions(args.predictions), args.clean_captions)
    records = load_annotations(args.annotations, dataset=args.dataset, needs=())
    extra_results: dict[str, Any] = dict(dataset=args.dataset)
    if args.subset:
        subset = read_subset(args.subset)
        records = subset.select(records, args.annotations)
        predictions = [prediction for prediction in predictions if prediction.video_id in subset.video_ids]
        extra_results["subset"] = describe_subset(subset, records)
    captions_left_out = None
    has_captions = any(prediction.caption is not None for prediction in predictions)
    if has_captions and any(record.has_labels("captions") for record in records):
        captions_left_out = check_caption_metrics(describe_missing_java(), args.caption_metrics)
    frame_features = None
    if args.clip_root:
        from engine.alignment import score_with_clip_features  # imports torch

        scored = score_with_clip_features(
            predictions, records, args.clip_root, args.pretrained_clip, args.text_tokenizer
        )
        predictions, frame_features = scored.predictions, scored.frame_features
        extra_results |= scored.encoder
    results, scores = score_predictions(
        predictions,
        records,
        frame_features=frame_features,
        captions_left_out=captions_left_out,
        refuse_binary=True,
        source=args.predictions,
    )
    if args.also_subset:
        subset = read_subset(args.also_subset)
        part = score_subset(
            predictions, records, subset, frame_features=frame_features, captions_left_out=captions_left_out
        )
        extra_results["subsets"] = {subset.name: part}
    results |= extra_results
    split = pathlib.Path(args.predictions).stem.removeprefix("predictions_")
    if output_dir is not None:
        path = output_dir / f"predictions_{split}.jsonl"
        if not path.exists() or not path.samefile(args.predictions):
            write_prediction_lines(path, predictions)
        write_scores(output_dir, split, results, scores)
    print(format_table(results, split))
    for name, part in results.get("subsets", {}).items():
        print(format_table(part, f"{split}, {name}"))
    for line in results["left_out"]:
        print(line)


if __name__ == "__main__":
    run_main(main)
