"""Small frame encoders with random weights, in the layouts of their libraries."""

import json
import pathlib
from typing import Any

import open_clip
import timm
import torch

TIMM_NAME = "test_vit.r160_in1k"  # features of width 64


def save_timm_encoder(path: pathlib.Path, seed: int = 0) -> str:
    """Save random weights of a small model of timm; returns the encoder's name."""
    torch.manual_seed(seed)
    torch.save(timm.create_model(TIMM_NAME, pretrained=False).state_dict(), path)
    return f"timm:{TIMM_NAME}@{path}"


def build_open_clip_folder(folder: pathlib.Path, preprocessing: dict[str, Any]) -> "open_clip.CLIP":
    """Save a tiny model of open_clip with its configuration, in the layout of its hub; returns the model."""
    config = dict(
        embed_dim=64,
        vision_cfg=dict(image_size=32, layers=1, width=64, patch_size=16, head_width=32),
        text_cfg=dict(context_length=16, vocab_size=49408, width=64, heads=2, layers=1),
    )
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(dict(model_cfg=config, preprocess_cfg=preprocessing)))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False).eval()
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return model
