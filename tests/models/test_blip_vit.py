"""BLIP's image encoder against timm's, and its checkpoints."""

import functools

import pytest
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer

from models.blip_vit import UnsuitableImageSize, load_blip_vit
from tests.golden.weights import fill_state_dict


def build_timm_vit(**sizes):
    torch.manual_seed(0)
    norm = functools.partial(torch.nn.LayerNorm, eps=1e-6)
    return VisionTransformer(num_classes=0, norm_layer=norm, **sizes).eval()


def save_checkpoint(path, state, prefix="visual_encoder.", **others):
    torch.save(dict(model={prefix + name: value for name, value in state.items()} | others), path)
    return path


@pytest.fixture
def small_vit(tmp_path):
    """A small encoder and a checkpoint of it that also has a text decoder, as BLIP's does."""
    vit = build_timm_vit(img_size=64, embed_dim=128, depth=2, num_heads=2)
    decoder = {"text_decoder.bert.embeddings.word_embeddings.weight": torch.zeros(3, 3)}
    return vit, save_checkpoint(tmp_path / "blip.pth", vit.state_dict(), **decoder)


@pytest.mark.parametrize("prefix", ["visual_encoder.", ""])
def test_features_equal_timm(small_vit, tmp_path, prefix):
    vit, _ = small_vit
    images = torch.randn(3, 3, 64, 64)
    encoder = load_blip_vit(save_checkpoint(tmp_path / "alone.pth", vit.state_dict(), prefix), 64)
    assert not encoder.training
    with torch.no_grad():
        assert torch.allclose(encoder(images), vit.forward_features(images)[:, 0], atol=1e-5)


def test_full_size_model_has_the_published_parameters(golden, tmp_path):
    """ViT-B/16 has the published names and shapes, and the features of timm's model with the same weights."""
    shapes = {name: tuple(shape) for name, shape in golden("vit_keys.json").items()}
    state = {name: torch.from_numpy(value) for name, value in fill_state_dict(shapes, 0.05).items()}
    encoder = load_blip_vit(save_checkpoint(tmp_path / "blip.pth", state))
    assert {name: tuple(value.shape) for name, value in encoder.state_dict().items()} == shapes
    timm_encoder = build_timm_vit()
    timm_encoder.load_state_dict(state)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected, features = timm_encoder.forward_features(images)[:, 0], encoder(images)
    assert features.shape == (2, 768)
    assert torch.allclose(features, expected, atol=1e-5)


def test_sizes_of_vit_large(tmp_path):
    vit = build_timm_vit(img_size=32, embed_dim=1024, depth=1, num_heads=16)
    encoder = load_blip_vit(save_checkpoint(tmp_path / "large.pth", vit.state_dict()), 32)
    assert encoder.embed_dim == 1024 and encoder.blocks[0].attn.num_heads == 16


@pytest.mark.parametrize("size", [32, 96, 128])
def test_position_table_is_resized_as_in_timm(small_vit, size):
    vit, path = small_vit
    encoder, grid = load_blip_vit(path, size), size // 16
    assert torch.equal(encoder.pos_embed, resample_abs_pos_embed(vit.pos_embed, [grid, grid]))
    images = torch.randn(1, 3, size, size)
    vit.set_input_size(img_size=(size, size))
    with torch.no_grad():
        assert torch.allclose(encoder(images), vit(images), atol=1e-5)


@pytest.mark.parametrize("size", [32, 48, 96])
def test_position_table_is_resized_as_published_without_antialiasing(small_vit, size):
    vit, path = small_vit
    grid, width = size // 16, vit.pos_embed.shape[-1]
    table = load_blip_vit(path, size, position_antialias=False).pos_embed
    old = vit.pos_embed[:, 1:].reshape(1, 4, 4, width).permute(0, 3, 1, 2)  # (1, D, 4, 4)
    expected = F.interpolate(old, (grid, grid), mode="bicubic", align_corners=False)  # (1, D, grid, grid)
    assert torch.equal(table[:, :1], vit.pos_embed[:, :1])
    assert torch.allclose(table[:, 1:], expected.permute(0, 2, 3, 1).flatten(1, 2), rtol=0, atol=1e-6)
    default = load_blip_vit(path, size).pos_embed
    assert torch.equal(default, load_blip_vit(path, size, position_antialias=True).pos_embed)
    assert not torch.allclose(table, default, rtol=0, atol=1e-3)


def test_position_table_of_the_same_size_does_not_depend_on_antialiasing(small_vit):
    vit, path = small_vit
    for antialias in (True, False):
        assert torch.equal(load_blip_vit(path, 64, position_antialias=antialias).pos_embed, vit.pos_embed)


def test_invalid_sizes_and_checkpoints_raise(small_vit, tmp_path):
    vit, path = small_vit
    state = vit.state_dict()
    with pytest.raises(UnsuitableImageSize, match=r"^image_size: found 100, expected a multiple of 16"):
        load_blip_vit(path, 100)
    with pytest.raises(FileNotFoundError, match="none.pth: checkpoint: no such file"):
        load_blip_vit(tmp_path / "none.pth")
    for change, message in (
        (dict(pos_embed=None), r"missing visual_encoder.pos_embed$"),
        ({"blocks.1.mlp.fc1.weight": torch.zeros(3, 3)}, r"does not fit a Vision Transformer .*fc1.weight"),
        ({"blocks.1.norm1.weight": None}, r"does not fit .*Missing key.*blocks.1.norm1.weight"),
        (dict(extra=torch.zeros(1)), r"does not fit .*Unexpected key.*extra"),
        (dict(pos_embed=torch.zeros(1, 12, 128)), "does not fit"),
        (dict(pos_embed=torch.tensor(1.0)), "does not fit"),
        (dict(cls_token=torch.zeros(1, 1, 128, dtype=torch.int32)), "does not fit .*not floating point"),
    ):
        changed = {name: value for name, value in (state | change).items() if value is not None}
        with pytest.raises(ValueError, match=f"bad.pth: BLIP's image encoder: {message}"):
            load_blip_vit(save_checkpoint(tmp_path / "bad.pth", changed), 64)
    torch.save(dict(model={"text_decoder.x": torch.zeros(1)}), tmp_path / "text.pth")
    with pytest.raises(ValueError, match=r"text.pth: BLIP's image encoder: missing visual_encoder.patch_embed"):
        load_blip_vit(tmp_path / "text.pth")
