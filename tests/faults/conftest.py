"""A small training run, and the same run without a fault as its reference."""

import pytest

from tests.conftest import ROOT, make_once
from tests.helpers.harness import Run


@pytest.fixture(scope="session")
def training_argv(mini_root):
    """Return a function that builds the arguments of a run of 16 steps in 2 epochs; processes split each batch."""

    def build(*flags, size=1):
        return [
            *("--config", ROOT / "configs/mini.yaml", "--output_dir", "run", "--pretrained", ""),
            *("--video_embeddings_root", mini_root / "feat/blip", "--ann_root", mini_root / "anno"),
            *("--clip_root", "", "--pretrained_clip", "", "--tokenizer", mini_root / "tokenizer"),
            *("--med_config", ROOT / "configs/med_config_mini.json", "--num_workers", "0", "--device", "cpu"),
            *("--batch_size", 4 // size, "--max_epoch", "2", "--log_freq", "1", "--splits", "val", *flags),
        ]

    return build


@pytest.fixture
def launch_run(training_argv, tmp_path):
    """Return a function that launches a training run in a temporary folder."""

    def launch(*flags, size=1, folder="launch", script="train_v2vt_sum", prepare=None):
        (tmp_path / folder).mkdir(exist_ok=True)
        return Run(script, training_argv(*flags, size=size), tmp_path / folder, size, prepare)

    return launch


@pytest.fixture(scope="session")
def reference_run(training_argv, tmp_path_factory):
    """Return a function that gives the folder of an uninterrupted run by its number of processes and flags."""
    folders = {}

    def get_folder(size=1, *flags):
        if (size, *flags) not in folders:

            def train(folder):
                run = Run("train_v2vt_sum", training_argv(*flags, size=size), folder, size)
                assert run.wait() == [0] * size, run.output()

            name = "_".join(["reference", str(size), *flags])
            folders[size, *flags] = make_once(tmp_path_factory, name, train) / "run"
        return folders[size, *flags]

    return get_folder
