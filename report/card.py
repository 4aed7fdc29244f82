"""Write a model card for published weights: `python -m report.card RUN`.

It is filled from the run's folder; fields that only the author knows are **[fill in]**.
"""

import pathlib
import shlex
from typing import Any

from data.registry import DATASETS
from engine.config import SPLITS
from engine.provenance import find_model_note, recorded_name
from metrics.registry import PAPER_METRICS, UNSCALED_METRICS, format_score
from report.runs import Run, describe_baselines, format_setting, has_all_published_videos, read_run
from utils.command_line import OneLineParser
from utils.files import atomic_write, compute_sha256
from utils.log import run_main

CHECKPOINT = "checkpoint.pth"
SUMMARIES = {
    "v2vt": "a visual summary (saliency per second, of which the top 15% are selected) and a textual summary",
    "v2v": "a visual summary (saliency per second, of which the top 15% are selected)",
    "v2t": "a textual summary",
}


def write_card(folder: str | pathlib.Path, path: str | pathlib.Path) -> None:
    """Write the card of a run as Markdown.

    Args:
        folder: folder of the run, with its checkpoint and the results of at least one split.
        path: file to write.
    Raises:
        FileNotFoundError, ValueError: checkpoint or results are missing or invalid.
    """
    from engine.checkpoint import count_parameters
    from utils.templates import template_environment

    folder = pathlib.Path(folder)
    parameters = count_parameters(folder / CHECKPOINT)
    splits = [split for split in SPLITS if (folder / f"results_{split}.json").is_file()]
    if not splits:
        raise FileNotFoundError(f"{folder}: results: found none, expected results_test.json or another split's")
    runs = [read_run(folder, split) for split in splits]
    settings, name, sha256 = runs[-1].settings, folder.resolve().name, compute_sha256(folder / CHECKPOINT)
    environment = template_environment(pathlib.Path(__file__).with_name("templates"))
    card = environment.get_template("card.md").render(
        metadata=_hub_metadata(name, runs),
        name=name,
        model_note=find_model_note(runs[-1].results.trained_with or {}, runs[-1].results.config or {}),
        summaries=SUMMARIES[settings["task"]],
        parameters=f"{parameters / 1e6:.1f}",
        architecture=_describe_architecture(settings),
        decoder_sha256=(runs[-1].results.decoder_base or {}).get("sha256"),
        encoder=_describe_encoder(runs[-1].results.encoder or {}),
        checkpoint=CHECKPOINT,
        sha256=sha256,
        unscaled_metrics=UNSCALED_METRICS,
        baseline_descriptions=describe_baselines(runs),
        score_tables=[_score_table(run) for run in runs],
        has_vt_clip=any("VT_CLIPScore" in run.metrics for run in runs),
        initial_weights=settings["pretrained_model"] or settings["pretrained"],
        settings=settings | dict(seed=runs[-1].seed),
        format_setting=format_setting,
        versions=runs[-1].results.versions or {},
        has_captions=settings["task"] != "v2v",
        is_scored_file={run.results.checkpoint_sha256 for run in runs} == {sha256},
    )
    with atomic_write(path) as file:
        file.write(card)


def _describe_architecture(settings: dict[str, Any]) -> str:
    depth = settings["tt_depth"]
    parts = [f"temporal transformer of depth {depth}" if depth else "no temporal transformer"]
    if settings["model"] == "vtsum_blip_tt_ca":
        parts.append(f"context aggregation over {settings['kernel_size']} frames")
    if settings["task"] != "v2v":
        parts.append(f"caption decoder {settings['decoder']}")
    features = f"frame features of width {settings['feature_width']}"
    if settings["feature_projection"]:
        features += ", projected"
    return ", ".join([*parts, f"task {settings['task']}", features])


def _describe_encoder(encoder: dict[str, Any]) -> dict[str, Any]:
    """Entries of the card about the frame encoder; {} if it is not known."""
    if not encoder:
        return {}
    architecture = encoder.get("encoder", "blip")  # earlier versions had no other encoder
    flag = "--blip model_base_capfilt_large.pth"
    if architecture != "blip":
        flag = f"--encoder {shlex.quote(_without_folder(recorded_name(encoder)))}"
    return dict(
        name=architecture,
        flag=flag,
        image_size=encoder.get("image_size"),
        sha256=encoder.get("weights_sha256"),
    )


def _without_folder(name: str) -> str:
    """Name of an encoder without the folder of a local file."""
    prefix, separator, weights = name.rpartition("@")
    return f"{prefix}{separator}{pathlib.PurePath(weights).name}" if separator else name


def _name_dataset(run: Run) -> tuple[str, str]:
    """Return id on the hub and title of a run's dataset; "" and a placeholder for your own data or parts of one."""
    reader = DATASETS[run.dataset]
    is_whole = has_all_published_videos(run) if run.dataset == "videoxum" else run.results.subset is None
    return (reader.repository, reader.title) if reader.repository and is_whole else ("", "[fill in]")


def _hub_metadata(name: str, runs: list[Run]) -> str:
    """Return the card's YAML metadata, which the hub reads."""
    from huggingface_hub import EvalResult, ModelCardData

    datasets = [_name_dataset(run) for run in runs]
    eval_results = [
        EvalResult(
            task_type="video-summarization",
            task_name="Cross-modal video summarization",
            dataset_type=repository or "other",
            dataset_name=title,
            dataset_split=run.split,
            metric_type=metric,
            metric_name=metric,
            metric_value=round(run.metrics[metric], 5),
        )
        for run, (repository, title) in zip(runs, datasets)
        for metric in PAPER_METRICS
        if metric in run.metrics
    ]
    return ModelCardData(
        language="en",
        datasets=[datasets[0][0]] if all(repository for repository, _ in datasets) else None,
        tags=["video-summarization", "video-captioning", "vtsum-blip"],
        model_name=name,
        eval_results=eval_results,
    ).to_yaml()


def _score_table(run: Run) -> str:
    from report.tables import render_table

    metrics = [name for name in PAPER_METRICS if name in run.metrics]
    rows = {"this model": run.metrics} | run.baselines
    videos = run.split
    if run.results.subset is not None:
        videos += f" ({run.results.num_videos.scored} videos of {run.results.subset.file})"
    cells = [
        [f"{label}, {videos}", *[format_score(m, row[m]) if m in row else "" for m in metrics]]
        for label, row in rows.items()
    ]
    return render_table(["", *metrics], cells, "markdown")


def main(argv: list[str] | None = None) -> None:
    parser = OneLineParser(prog="python -m report.card", description=__doc__.split(":")[0])
    parser.add_argument("run", metavar="RUN", type=pathlib.Path, help="folder with checkpoint.pth and results")
    parser.add_argument("--out", type=pathlib.Path, help="Markdown file to write (default: RUN/README.md)")
    args = parser.parse_args(argv)
    path = args.out or args.run / "README.md"
    write_card(args.run, path)
    print(f"{path}: look for [fill in]")


if __name__ == "__main__":
    run_main(main)
