"""A summary's files as a .zip to download, without paths of the server."""

import json
import pathlib
import zipfile
from typing import Any


def write_bundle(summary: dict[str, Any], folder: pathlib.Path, path: pathlib.Path) -> None:
    """Write a summary's files to a .zip.

    Args:
        summary: content of `summary.json`.
        folder: folder of the files.
        path: file to write.
    """
    checkpoints = {role: dict(sha256=checkpoint["sha256"]) for role, checkpoint in summary["checkpoints"].items()}
    public = summary | dict(video=summary["name"], checkpoints=checkpoints)
    with zipfile.ZipFile(path, "w") as file:  # uncompressed: videos and images are compressed already
        for name in ("summary.mp4", "storyboard.png", "index.html"):
            file.write(folder / name, name)
        file.writestr("summary.json", json.dumps(public, indent=1))
