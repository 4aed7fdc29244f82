"""A summary's files as a .zip to download, without paths of the server."""

import json
import pathlib
import zipfile
from typing import Any

from summary.files import JSON_FILE, PAGE_FILE, TIMELINE_FILE
from summary.otio_timeline import with_relative_urls
from summary.page import relative_url, with_original_url


def write_bundle(summary: dict[str, Any], folder: pathlib.Path, path: pathlib.Path) -> None:
    """Write a summary's files to a .zip, in which they refer to a video in their own folder.

    Args:
        summary: content of `summary.json`.
        folder: folder of the files.
        path: file to write.
    """
    checkpoints = {role: dict(sha256=checkpoint["sha256"]) for role, checkpoint in summary["checkpoints"].items()}
    public = summary | dict(video=summary["name"], checkpoints=checkpoints)
    page = with_original_url((folder / PAGE_FILE).read_text(encoding="utf-8"), relative_url(summary["name"], "."))
    timeline = with_relative_urls((folder / TIMELINE_FILE).read_text(encoding="utf-8"), summary["name"])
    texts = {JSON_FILE: json.dumps(public, indent=1), TIMELINE_FILE: timeline, PAGE_FILE: page}
    with zipfile.ZipFile(path, "w") as file:  # uncompressed: videos and images are compressed already
        for name in summary["files"]:
            if name in texts:
                file.writestr(name, texts[name])
            else:
                file.write(folder / name, name)
