"""A model card, the page that stands beside published weights, filled from a run's folder.

What only the author knows is left as **[fill in]**.
"""

import pathlib
import string

from huggingface_hub import EvalResult, ModelCardData

from engine.checkpoint import count_parameters
from engine.config import SPLITS
from metrics.registry import PAPER_METRICS, format_score
from report.runs import dumps, is_videoxum, read_run
from utils.files import atomic_write, sha256_of
from utils.tables import layout

TEMPLATE = pathlib.Path(__file__).with_name("card_template.md")
CHECKPOINT = "checkpoint.pth"
SUMMARIES = {
    "v2vt": "a visual summary (saliency per second, of which the top 15 % are kept) and a textual summary",
    "v2v": "a visual summary (saliency per second, of which the top 15 % are kept)",
    "v2t": "a textual summary",
}
CAPTION_LIMITS = "- Captions are English, of the kind of ActivityNet Captions, and may name what is not there.\n"


def write_card(folder, path):
    """Write the card of a run.

    Args:
        folder: of the run, with its checkpoint and the results of a split or more.
        path: Markdown file to write.
    Raises:
        FileNotFoundError, ValueError: there is no checkpoint or no result, or one is bad.
    """
    folder = pathlib.Path(folder)
    checkpoint = folder / CHECKPOINT
    parameters = count_parameters(checkpoint)
    splits = [split for split in SPLITS if (folder / f"results_{split}.json").is_file()]
    if not splits:
        raise FileNotFoundError(f"{folder}: results: found none, expected results_test.json or another split's")
    runs = [read_run(folder, split) for split in splits]
    sha256, name = sha256_of(checkpoint), folder.resolve().name
    scored = {run.results.get("checkpoint_sha256") for run in runs}
    settings = runs[-1].settings
    start = settings["pretrained_model"] or settings["pretrained"]
    text = dict(
        metadata=_metadata(name, runs),
        name=name,
        summaries=SUMMARIES[settings["task"]],
        what=f"This one has {parameters / 1e6:.1f} M parameters: {_what(settings)}.",
        checkpoint=CHECKPOINT,
        sha256=sha256,
        scores="\n".join(_scores(run) for run in runs),
        start=f"`{start}`" if start else "drawn at random",
        settings="\n".join(f"| `{k}` | `{dumps(v)}` |" for k, v in (settings | dict(seed=runs[-1].seed)).items()),
        versions=", ".join(f"{k} {v}" for k, v in (runs[-1].results.get("versions") or {}).items()),
        clip="VT-CLIPScores are comparable only under one VT-CLIP checkpoint: **[fill in: which]**."
        if any("VT_CLIPScore" in run.metrics for run in runs)
        else "",
        limits="" if settings["task"] == "v2v" else CAPTION_LIMITS,
        file="The scores above are this file's."
        if scored == {sha256}
        else "**The scores above were computed with another file than this checkpoint**: score it again.",
    )
    with atomic_write(path) as file:
        file.write(string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(text))


def _what(settings):
    aggregation = f", context aggregation over {settings['kernel_size']} frames"
    depth = settings["tt_depth"]
    parts = f"temporal transformer of depth {depth}" if depth else "no temporal transformer"
    parts += aggregation if settings["model"] == "vtsum_blip_tt_ca" else ""
    return f"{parts}, task {settings['task']}, frame features of BLIP's {settings['vit']} ViT"


def _metadata(name, runs):
    """The card's head, which the hub reads: its library's own writing."""
    found = [
        EvalResult(
            task_type="video-summarization",
            task_name="Cross-modal video summarisation",
            dataset_type="jylins/videoxum" if is_videoxum(run) else "other",
            dataset_name="VideoXum" if is_videoxum(run) else "[fill in]",
            dataset_split=run.split,
            metric_type=metric,
            metric_name=metric,
            metric_value=round(run.metrics[metric], 5),
        )
        for run in runs
        for metric in PAPER_METRICS
        if metric in run.metrics
    ]
    tags = ["video-summarization", "video-captioning", "vtsum-blip"]
    data = ModelCardData(
        language="en",
        datasets=["jylins/videoxum"] if all(map(is_videoxum, runs)) else None,
        tags=tags,
        model_name=name,
        eval_results=found,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _scores(run):
    metrics = [name for name in PAPER_METRICS if name in run.metrics]
    rows = {f"this model, {run.split}": run.metrics} | {f"{k}, {run.split}": v for k, v in run.baselines.items()}
    cells = [[name, *[format_score(m, row[m]) if m in row else "" for m in metrics]] for name, row in rows.items()]
    return layout(["", *metrics], cells, "markdown")
