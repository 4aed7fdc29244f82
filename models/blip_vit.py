"""BLIP's image encoder: timm's Vision Transformer."""

import functools
import logging
import math
import os
from typing import TYPE_CHECKING

import torch

from models.temporal import HEAD_WIDTH, LayerNorm
from models.weights import StateDict, extract_state_dict, read_checkpoint, require_finite_parameters

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

logger = logging.getLogger(__name__)

VISUAL_ENCODER_PREFIX = "visual_encoder."
VIT_PARAMETERS = ("patch_embed.proj.weight", "pos_embed")


class UnsuitableImageSize(ValueError):
    """The image size is not a multiple of the encoder's patch size."""


def load_blip_vit(
    path: str | os.PathLike, image_size: int | None = 224, *, position_antialias: bool = True
) -> "VisionTransformer":
    """Load the image encoder of a BLIP checkpoint.

    Sizes (ViT-B/16, L/16 or other) are read from the shapes. If the grid of the position table is not that of
    `image_size`, it is resampled bicubically, with a warning.

    Args:
        path: path or URL of `{"model": {"visual_encoder.…": …}}`, or of the encoder's parameters alone.
        image_size: S, side of the images in pixels. None is the size of the position table, with which the encoder was
            trained: 224 for BLIP's `model_base_capfilt_large.pth` (197 rows: [CLS] and 14 x 14 patches of 16 pixels),
            from which VideoXum's features are.
        position_antialias: resample the position table with antialiasing, as timm does; the published code does not.
    Returns:
        `VisionTransformer` in evaluation mode, float32, on the CPU: (N, 3, S, S) normalized pixels -> (N, D), the
        [CLS] token after the final norm. `embed_dim` is D.
    Raises:
        FileNotFoundError, ValueError: no such file, or not such a checkpoint.
        UnsuitableImageSize: S is not a multiple of the patch size.
    """
    state = extract_state_dict(read_checkpoint(path), path)
    if any(name.startswith(VISUAL_ENCODER_PREFIX) for name in state):
        state = {
            name.removeprefix(VISUAL_ENCODER_PREFIX): value
            for name, value in state.items()
            if name.startswith(VISUAL_ENCODER_PREFIX)
        }
    missing = [name for name in VIT_PARAMETERS if name not in state]
    if missing:
        raise ValueError(f"{path}: BLIP's image encoder: missing {VISUAL_ENCODER_PREFIX}{missing[0]}")
    require_finite_parameters(state, path)
    try:
        return _build_vit(state, path, image_size, position_antialias)
    except UnsuitableImageSize:
        raise
    except (RuntimeError, ValueError, AssertionError, ArithmeticError, LookupError, TypeError) as error:
        reason = " ".join(str(error).split())[:500]
        raise ValueError(f"{path}: BLIP's image encoder: does not fit a Vision Transformer ({reason})") from None


def _build_vit(
    state: StateDict, path: str | os.PathLike, image_size: int | None, position_antialias: bool
) -> "VisionTransformer":
    from timm.layers import resample_abs_pos_embed
    from timm.models.vision_transformer import VisionTransformer

    if not all(value.is_floating_point() for value in state.values()):
        raise ValueError("found parameters that are not floating point")
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    table_size = math.isqrt(state["pos_embed"].shape[1] - 1) * patch  # without the row of [CLS]
    if image_size is None:
        image_size = table_size
    if image_size % patch or image_size < patch:
        raise UnsuitableImageSize(f"image_size: found {image_size}, expected a multiple of {patch}, the patch size")
    if image_size != table_size:
        logger.warning(
            "%s: BLIP's image encoder is for %d x %d pixels: its position table is resampled for image_size %d",
            path,
            table_size,
            table_size,
            image_size,
        )
    grid = image_size // patch
    table = resample_abs_pos_embed(state["pos_embed"].float(), [grid, grid], antialias=position_antialias)
    state = state | {"pos_embed": table}  # (1, 1 + grid², D)
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    build = functools.partial(
        VisionTransformer,
        img_size=image_size,
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=width // HEAD_WIDTH,
        num_classes=0,
        global_pool="token",
        norm_layer=LayerNorm,
    )
    with torch.device("meta"):  # compare all shapes before memory is allocated
        build().load_state_dict({name: value.to("meta") for name, value in state.items()})
    model = build()
    model.load_state_dict(state)
    return model.eval()
