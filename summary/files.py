"""The files of a summary, written when all are complete."""

import contextlib
import json
import os
import pathlib
import tempfile
from typing import TYPE_CHECKING, Any

from data.video.reader import VideoFile
from summary.chapters import render_chapters
from summary.otio_timeline import build_timeline
from summary.page import relative_url, render_page
from summary.skim import has_audio, write_skim
from summary.stages import Stages
from summary.storyboard import Storyboard
from summary.subtitles import render_subtitles
from utils.files import make_folder

if TYPE_CHECKING:
    import av

SKIM_FILE = "summary.mp4"
STORYBOARD_FILE = "storyboard.png"
PAGE_FILE = "index.html"
SUBTITLES_FILE = "summary.srt"
CHAPTERS_FILE = "chapters.txt"
TIMELINE_FILE = "summary.otio"
JSON_FILE = "summary.json"
# In the order of writing.
FILES = (SKIM_FILE, STORYBOARD_FILE, PAGE_FILE, SUBTITLES_FILE, CHAPTERS_FILE, TIMELINE_FILE, JSON_FILE)


def list_files(summary: dict[str, Any]) -> list[str]:
    """List the files of a summary: `FILES`, without subtitles if there is no caption."""
    return [name for name in FILES if name != SUBTITLES_FILE or render_subtitles(summary)]


def write_files(
    summary: dict[str, Any], video: VideoFile, storyboard: Storyboard, folder: pathlib.Path, stages: Stages
) -> None:
    """Write a summary's files to a temporary folder, and move them when all are complete.

    Args:
        summary: content of `summary.json`; its `files` are written, and others of `FILES` are removed.
        video: the source.
        storyboard: empty; collects its frames while the skim is written.
        folder: folder of the files.
        stages: time the stages `skim` and `page`.
    Raises:
        OSError, ValueError: a file cannot be written, or the skim cannot be encoded; nothing is written.
    """
    make_folder(folder, "out")
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished.") as unfinished:
            work = pathlib.Path(unfinished)
            with stages.run("skim", summary["segments"][-1][1]) as progress:

                def on_frame(k: int, frame: "av.VideoFrame") -> None:
                    storyboard.add(k, frame)
                    progress.advance_to(float(video.timeline.starts[k]))

                write_skim(video, summary["segments"], work / SKIM_FILE, on_frame, summary["audio"])
            with stages.run("page", summary["duration"]):
                storyboard.write(work / STORYBOARD_FILE)
                page = render_page(
                    summary, len(storyboard.frames), storyboard.poster_url(), relative_url(video.path, folder)
                )
                (work / PAGE_FILE).write_text(page, encoding="utf-8")
                for name, text in _render_texts(summary, video).items():
                    (work / name).write_text(text, encoding="utf-8")
            (work / JSON_FILE).write_text(json.dumps(summary, indent=1), encoding="utf-8")
            for name in FILES:
                if name in summary["files"]:
                    os.replace(work / name, folder / name)
                else:  # of an earlier summary
                    (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise OSError(f"{folder}: cannot be written ({error.strerror or error})") from None
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # if it is empty


def _render_texts(summary: dict[str, Any], video: VideoFile) -> dict[str, str]:
    """Return the content of the text files that other programs read, by name."""
    segments = summary["segments"]
    timeline = build_timeline(video, segments, summary["audio"] == "keep" and has_audio(video))
    return {
        SUBTITLES_FILE: render_subtitles(summary),
        CHAPTERS_FILE: render_chapters(segments, summary["duration"]),
        TIMELINE_FILE: timeline.to_json_string() + "\n",
    }
