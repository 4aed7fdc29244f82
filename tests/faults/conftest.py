"""A small run to do things to, and what it leaves when nothing is done to it."""

import pytest

from tests.conftest import ROOT, make_once
from tests.faults.harness import Run


@pytest.fixture(scope="session")
def command(mini_root):
    """Words of a run of 16 steps in 2 epochs on one process; on two, each takes half of a batch's videos."""

    def words(*flags, size=1):
        return [
            *("--config", ROOT / "configs/mini.yaml", "--output_dir", "run", "--pretrained", ""),
            *("--video_embeddings_root", mini_root / "feat/blip", "--ann_root", mini_root / "anno"),
            *("--clip_root", "", "--pretrained_clip", "", "--tokenizer", mini_root / "tokenizer"),
            *("--med_config", ROOT / "configs/med_config_mini.json", "--num_workers", "0", "--device", "cpu"),
            *("--batch_size", 4 // size, "--max_epoch", "2", "--log_freq", "1", "--splits", "val", *flags),
        ]

    return words


@pytest.fixture
def begin(command, tmp_path):
    """Start a training run in a folder of the test's."""

    def start(*flags, size=1, folder="it", script="train_v2vt_sum", prepare=None):
        (tmp_path / folder).mkdir(exist_ok=True)
        return Run(script, command(*flags, size=size), tmp_path / folder, size, prepare)

    return start


@pytest.fixture(scope="session")
def undisturbed(command, tmp_path_factory):
    """Folder of a run to which nothing is done, by its number of processes and flags."""
    folders = {}

    def folder(size=1, *flags):
        if (size, *flags) not in folders:

            def train(folder):
                run = Run("train_v2vt_sum", command(*flags, size=size), folder, size)
                assert run.wait() == [0] * size, run.said()

            name = "_".join(["undisturbed", str(size), *flags])
            folders[size, *flags] = make_once(tmp_path_factory, name, train) / "run"
        return folders[size, *flags]

    return folder
