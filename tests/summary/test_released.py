"""The released model as the default: its weights are downloaded once, from a hub on loopback, or are at local paths."""

import dataclasses
import logging
import shutil

import huggingface_hub
import pytest
import torch

from data.mini.encoders import FRAME_SIZE
from models.vtsum_blip import v2vt_sum
from summary import Summarizer
from summary.released import RELEASED_CONFIG, announce_downloads
from tests.conftest import ROOT
from tests.helpers.hub_server import configure_client
from tests.helpers.processes import ENVIRONMENT, run
from tests.helpers.summary_files import SUMMARY_FILES
from utils import published_weights
from utils.published_weights import PUBLISHED_WEIGHTS, find_weights

SMALL = dict(med_config=str(ROOT / "configs/med_config_mini.json"), image_size=FRAME_SIZE, device="cpu")
SMALL_FLAGS = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]


@pytest.fixture
def released(hub, mini_videos, untrained_checkpoint, tmp_path, monkeypatch):
    """Serve a small model as the released one, with its encoder and tokenizer; caches are empty."""
    hub.files["jylins/vtsum_blip", "vtsum_tt_ca.pth"] = untrained_checkpoint.read_bytes()
    hub.files["org/blip", "model.pth"] = (mini_videos / "frame_encoder.pth").read_bytes()
    hub.files["bert-base-uncased", "vocab.txt"] = (mini_videos / "tokenizer/vocab.txt").read_bytes()
    source = f"{hub.endpoint}/org/blip/resolve/main/model.pth"
    blip = dataclasses.replace(PUBLISHED_WEIGHTS["blip"], source=source)
    monkeypatch.setitem(published_weights.PUBLISHED_WEIGHTS, "blip", blip)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)
    shutil.copy(mini_videos / "videos/mini_test_000.mp4", tmp_path / "holiday.mp4")
    return hub


def test_released_weights_are_downloaded_once(released, tmp_path, monkeypatch, caplog):
    """One line tells what is downloaded; then everything works without a network."""
    with caplog.at_level(logging.INFO):
        summary = Summarizer(**SMALL).summarize("holiday.mp4")
    (message,) = [record.getMessage() for record in caplog.records if "downloading once" in record.getMessage()]
    sizes = [f"({len(data) / 1e6:.2f} MB)" for (_, name), data in released.files.items() if name.endswith(".pth")]
    assert message == (
        f"downloading once: {PUBLISHED_WEIGHTS['vtsum_blip_tt_ca'].source} {sizes[0]} to {tmp_path}/hf/hub, "
        f"{PUBLISHED_WEIGHTS['blip'].source} {sizes[1]} to {tmp_path}/torch/hub/vtsum_blip, "
        "the vocabulary of bert-base-uncased (below 1 MB) to the hub's cache"
    )
    assert sorted(file.name for file in (tmp_path / "summaries/holiday").iterdir()) == SUMMARY_FILES

    requests = released.request_count
    configure_client(monkeypatch, "http://127.0.0.1:1", tmp_path / "hf/hub")  # nobody listens
    caplog.clear()
    again = Summarizer(**SMALL).summarize("holiday.mp4")
    assert (again["caption"], again["saliency"]) == (summary["caption"], summary["saliency"])
    assert released.request_count == requests and "downloading" not in caplog.text


def test_local_weights_take_precedence(released, mini_videos, untrained_checkpoint, tmp_path):
    for name, file in (("vtsum_blip_tt_ca", untrained_checkpoint), ("blip", mini_videos / "frame_encoder.pth")):
        path = tmp_path / PUBLISHED_WEIGHTS[name].path
        assert find_weights(PUBLISHED_WEIGHTS[name].path) == PUBLISHED_WEIGHTS[name].source
        path.parent.mkdir(parents=True)
        shutil.copy(file, path)
    summarizer = Summarizer(**SMALL, tokenizer=str(mini_videos / "tokenizer"))
    assert summarizer.checkpoints["model"]["path"] == PUBLISHED_WEIGHTS["vtsum_blip_tt_ca"].path
    assert summarizer.checkpoints["blip"]["path"] == PUBLISHED_WEIGHTS["blip"].path
    assert released.request_count == 0


def test_without_a_network_the_error_names_the_options(released, monkeypatch):
    configure_client(monkeypatch, "http://127.0.0.1:1", "empty")
    expected = (
        r"vtsum_tt_ca.pth: not in the cache .*; with network access, python -m data.download --what weights fetches "
        "the weights; local files are given by pretrained_model, blip"
    )
    with pytest.raises(FileNotFoundError, match=expected):
        Summarizer(**SMALL)


def test_command_without_a_network_prints_two_lines(released, tmp_path):
    """What is downloaded, and the error: not each request that the hub's client repeats; offline, the error alone."""
    env = ENVIRONMENT | dict(HF_ENDPOINT="http://127.0.0.1:1", HF_HOME=str(tmp_path / "home"))
    command = ["python", str(ROOT / "summarize.py"), "holiday.mp4", *SMALL_FLAGS]
    for offline, count in (("0", 2), ("1", 1)):
        status, output = run(command, tmp_path, env=env | dict(HF_HUB_OFFLINE=offline))
        assert status == 2 and len(output.splitlines()) == count, output
        assert output.splitlines()[-1].startswith("error: hf://jylins/vtsum_blip/vtsum_tt_ca.pth: not in the cache ")


def test_downloads_that_offline_hub_allows_are_announced(released, mini_videos, monkeypatch, caplog):
    """HF_HUB_OFFLINE does not forbid other servers."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    blip = PUBLISHED_WEIGHTS["blip"].path
    with caplog.at_level(logging.INFO):
        announce_downloads([find_weights(blip)], str(mini_videos / "tokenizer"))
        announce_downloads(
            [find_weights(blip), PUBLISHED_WEIGHTS["vtsum_blip_tt"].source], str(mini_videos / "tokenizer")
        )
    (message,) = caplog.messages
    assert message.startswith(f"downloading once: {find_weights(blip)} (")


def test_command_needs_a_video_only(released, mini_videos, tmp_path):
    """The weights of BLIP are at their local path: their server is not on loopback."""
    (tmp_path / PUBLISHED_WEIGHTS["blip"].path).parent.mkdir(parents=True)
    shutil.copy(mini_videos / "frame_encoder.pth", tmp_path / PUBLISHED_WEIGHTS["blip"].path)
    env = ENVIRONMENT | dict(HF_ENDPOINT=released.endpoint, HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="0")
    status, output = run(["python", str(ROOT / "summarize.py"), "holiday.mp4", *SMALL_FLAGS], tmp_path, env=env)
    assert status == 0, output
    assert "downloading once: hf://jylins/vtsum_blip/vtsum_tt_ca.pth" in output
    assert sorted(file.name for file in (tmp_path / "summaries/holiday").iterdir()) == SUMMARY_FILES


@pytest.mark.soak
def test_command_at_full_size(released, bert_vocabulary, tmp_path):
    """`python summarize.py holiday.mp4`, with random weights of the published size."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    model = v2vt_sum("vtsum_blip_tt_ca", tokenizer=str(bert_vocabulary))
    torch.save(dict(model=model.state_dict()), tmp_path / "model.pth")
    vit = VisionTransformer(num_classes=0)
    (tmp_path / PUBLISHED_WEIGHTS["blip"].path).parent.mkdir(parents=True)
    state = {f"visual_encoder.{name}": value for name, value in vit.state_dict().items()}
    torch.save(dict(model=state), tmp_path / PUBLISHED_WEIGHTS["blip"].path)
    released.files["jylins/vtsum_blip", "vtsum_tt_ca.pth"] = (tmp_path / "model.pth").read_bytes()
    released.files["bert-base-uncased", "vocab.txt"] = (bert_vocabulary / "vocab.txt").read_bytes()
    env = ENVIRONMENT | dict(HF_ENDPOINT=released.endpoint, HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="0")
    status, output = run(["python", str(ROOT / "summarize.py"), "holiday.mp4"], tmp_path, env=env)
    assert status == 0, output


def test_released_config_is_the_published_one():
    assert RELEASED_CONFIG.read_text().count(PUBLISHED_WEIGHTS["vtsum_blip_tt_ca"].path) == 1
