"""What made a result: versions of the packages, and of this code."""

import functools
import importlib.metadata
import pathlib
import platform
import subprocess

import torch

PACKAGES = ("timm", "transformers", "numpy", "scipy", "pycocoevalcap", "open_clip_torch")


@functools.cache
def versions():
    """Versions by name: Python, torch, `PACKAGES`, and `code`, git's revision of this folder (None outside git)."""
    found = dict(python=platform.python_version(), torch=str(torch.__version__))
    return found | {name: _version(name) for name in PACKAGES} | dict(code=_revision())


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _revision():
    here = pathlib.Path(__file__).resolve().parent.parent
    try:
        words = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(words, cwd=here, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
