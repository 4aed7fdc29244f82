"""Documented command lines, run in this process."""

import glob
import importlib
import shlex
from pathlib import Path

import extract_features
import train_v2vt_sum
from tests.conftest import ROOT

SHORT_RUN = ("--batch_size", "2", "--max_epoch", "1", "--splits", "test", "--max_text_length", "12", "--device", "cpu")


def make_demo(mini_videos):
    """Link the files of `mini_videos` and do the steps of `make demo` in the working directory, with a short run."""
    mini = Path("dataset/mini")
    mini.mkdir(parents=True)
    Path("configs").symlink_to(ROOT / "configs")
    for path in mini_videos.iterdir():
        if path.name != "feat":
            (mini / path.name).symlink_to(path)
    argv = ["--videos", f"{mini}/videos", "--out", f"{mini}/feat", "--annotations", *map(str, mini.glob("anno/*.json"))]
    argv += ["--blip", f"{mini}/frame_encoder.pth", "--vt_clip", f"{mini}/vt_clip.pth", "--image_size", "64"]
    extract_features.main([*argv, "--device", "cpu", "--num_workers", "0"])
    train_v2vt_sum.main(["--config", "configs/mini.yaml", *SHORT_RUN])


def parse_command(line):
    """Split a documented line `python SCRIPT …` or `python -m MODULE …`: (name of the module, its arguments).

    Patterns of paths are expanded as a shell does.
    """
    program, *argv = shlex.split(line, comments=True)[1:]
    if program == "-m":
        program, *argv = argv
    argv = [path for word in argv for path in (sorted(glob.glob(word)) if "*" in word else [word])]
    return program.removesuffix(".py"), argv


def run_main_of(name, argv):
    """Call the `main` of a script, a module or a package."""
    module = importlib.import_module(name)
    if not hasattr(module, "main"):
        module = importlib.import_module(f"{name}.__main__")
    module.main(argv)
