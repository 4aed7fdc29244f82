"""The configurations of encoders, decoders and datasets build their models."""

import re

import pytest

from benchmarks.language_models import write_language_model
from engine.config import load_config
from engine.setup import build_model
from models.blip_decoder import BlipCaptionDecoder
from models.causal_lm import CausalLMDecoder
from tests.conftest import ROOT
from utils.encoder_names import EncoderName

# Family of the language model of a configuration -> family of the random one in its place.
FAMILIES = {"openai-community/gpt2": "gpt2", "HuggingFaceTB/SmolLM2": "llama", "meta-llama": "llama", "Qwen/": "qwen3"}
WIDTHS = dict(siglip2=768, dinov3=768, pe_core=768, siglip2_clip=768, mobileclip2=512)


def list_configurations(folder):
    return sorted((ROOT / "configs" / folder).glob("*.yaml"))


@pytest.fixture
def load(mini_root):
    """Return a function that loads a configuration with the small decoder and tokenizer of mini VideoXum."""

    def load_small(path, *flags):
        small = [
            "--med_config",
            str(ROOT / "configs/med_config_mini.json"),
            "--tokenizer",
            str(mini_root / "tokenizer"),
        ]
        return load_config(["--config", str(path), *small, *flags]).settings

    return load_small


@pytest.mark.parametrize("path", list_configurations("encoders"), ids=lambda path: path.stem)
def test_encoders(load, path):
    """The command in the comment writes the features that the configuration reads."""
    config = load(path)
    model = build_model(config)
    assert config.feature_width == WIDTHS[path.stem]
    if config.feature_projection:
        assert model.feature_projection.weight.shape == (768, config.feature_width)
    assert model.position_embeddings.weight.shape[1] == (768 if config.feature_projection else config.feature_width)
    (name, folder) = re.search(r"--encoder (\S+)=(\w+)$", path.read_text(), re.M).groups()
    assert config.video_embeddings_root == f"dataset/ActivityNet/feat/{folder}" and folder == path.stem
    assert EncoderName.parse(name).library in ("timm", "open_clip")


@pytest.mark.parametrize("path", list_configurations("decoders"), ids=lambda path: path.stem)
def test_decoders(load, path, mini_root, tmp_path):
    (family,) = (value for name, value in FAMILIES.items() if load(path).decoder_path.startswith(name))
    folder = write_language_model(tmp_path, family, mini_root / "tokenizer")
    model = build_model(load(path, "--decoder_path", str(folder)))
    assert isinstance(model.text_decoder, CausalLMDecoder)


@pytest.mark.parametrize("path", list_configurations("datasets"), ids=lambda path: path.stem)
def test_datasets(load, path):
    assert isinstance(build_model(load(path)).text_decoder, BlipCaptionDecoder)
