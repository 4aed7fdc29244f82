"""Provenance of results: versions of the packages and of this code."""

import functools
import importlib.metadata
import pathlib
import platform
import subprocess

PACKAGES = ("timm", "transformers", "numpy", "scipy", "pycocoevalcap", "open_clip_torch")


@functools.cache
def environment_info() -> dict[str, str | None]:
    """Return versions by name: Python, torch, `PACKAGES`, and `code`, the git revision (None outside a repository)."""
    import torch

    info: dict[str, str | None] = dict(python=platform.python_version(), torch=str(torch.__version__))
    return info | {name: _version(name) for name in PACKAGES} | dict(code=_revision())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _revision() -> str | None:
    root = pathlib.Path(__file__).resolve().parent.parent
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
