"""The HTML page of a report: one self-contained file with style, script, data and plots."""

import base64
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data.videoxum import NUM_VIDEOS
from engine.provenance import find_model_note
from metrics.registry import METRICS, PAPER_METRICS, UNSCALED_METRICS, format_score
from report import figures
from report.content import ReportData, ReportVideo
from report.frames import FrameRow
from report.runs import ABOUT_F1, describe_baselines, format_setting, has_all_published_videos, published_rows
from utils.files import atomic_write
from utils.templates import template_environment
from utils.text import format_time


def write_report(
    data: ReportData, path: str | pathlib.Path, frame_rows: Mapping[str, Sequence[FrameRow]] | None = None
) -> None:
    """Write a report as an .html file, atomically.

    Its Content-Security-Policy only allows its own script, by hash.

    Args:
        data: content of the report.
        path: the file.
        frame_rows: video id -> rows of frames in the video's section.
    """
    environment = template_environment(pathlib.Path(__file__).with_name("templates"))
    environment.filters["sha256"] = _base64_sha256
    run = data.run
    metrics = [name for name in METRICS if name in run.metrics and name in (*PAPER_METRICS, data.rank_by)]
    columns: list[dict[str, Any]] = [dict(name="video"), dict(name="seconds", digits=0, factor=1)]
    columns += [dict(name=name, digits=METRICS[name].digits, factor=METRICS[name].scale) for name in metrics]
    columns += [dict(name="generated caption"), dict(name="reference")]
    page = environment.get_template("report.html").render(
        title=f"{run.folder.resolve().name}, {run.split}",
        run=run,
        model_note=find_model_note(run.results.trained_with or {}, run.results.config or {}),
        counts=run.results.num_videos,
        metrics=metrics,
        all_metrics=[name for name in METRICS if name in run.metrics],
        score_rows={"this run": run.metrics} | run.baselines | published_rows(run.split),
        baseline_descriptions=describe_baselines([run]),
        has_published=bool(published_rows(run.split)),
        has_all_published_videos=has_all_published_videos(run),
        videoxum_videos=NUM_VIDEOS[run.split],
        unscaled_metrics=UNSCALED_METRICS,
        about_f1=ABOUT_F1,
        curves=figures.draw_training_curves(data.log),
        distributions=figures.draw_distributions(run, metrics),
        videos=data.videos,
        frame_rows=frame_rows or {},
        settings=run.settings | ({} if run.seed is None else dict(seed=run.seed)) | (run.results.versions or {}),
        columns=columns,
        rows=_table_rows(data, metrics),
        rank_column=[column["name"] for column in columns].index(data.rank_by),
        format_score=format_score,
        format_setting=format_setting,
        format_time=format_time,
        timeline=figures.draw_timeline,
        describe_timeline=_describe_timeline,
    )
    with atomic_write(path) as file:
        file.write(page)


def _base64_sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _table_rows(data: ReportData, metrics: Sequence[str]) -> list[list[Any]]:
    """Build the rows of the table of all videos: id, seconds, scores, generated caption, reference."""
    columns = [[round(float(value), 5) for value in data.run.scores[name]] for name in metrics]
    return [
        [video_id, frames, *scores, caption or "", reference]
        for (video_id, frames, caption, reference), *scores in zip(data.rows, *columns)
    ]


def _describe_timeline(video: ReportVideo) -> str:
    """Describe the timeline, for screen readers."""
    words = [] if video.labels is None else ["No annotator marked a second."]
    if video.labels is not None and video.labels.keyframes.any():
        votes = video.labels.keyframes.sum(axis=0).astype(int)  # (T,)
        segments = _format_segments(votes == votes.max())
        words = [f"The annotators agree most ({votes.max()} of {video.labels.num_annotators}) at {segments}."]
    if video.selected is not None:
        words.append(f"The model selected {_format_segments(video.selected)}.")
    events = ", ".join(f"{n}: {format_time(a)}–{format_time(b)}" for n, a, b in figures.clip_events(video))
    return " ".join([*words, f"Events: {events}." if events else ""])


def _format_segments(flags: np.ndarray, max_segments: int = 12) -> str:
    segments = [f"{format_time(a)}–{format_time(a + n)}" for a, n in figures.contiguous_segments(flags)]
    rest = f" and {len(segments) - max_segments} more" if len(segments) > max_segments else ""
    return ", ".join(segments[:max_segments]) + rest
