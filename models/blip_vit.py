"""BLIP's image encoder: a Vision Transformer, timm's."""

import functools

import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer

from models.temporal import HEAD_WIDTH, LayerNorm
from models.weights import read_checkpoint, require_finite, state_dict_of

PREFIX = "visual_encoder."


def load_blip_vit(path, image_size=224):
    """Load the image encoder of a BLIP checkpoint.

    Sizes (ViT-B/16, L/16 or other) are read from the shapes. The position table is resampled as timm does where its
    grid is not that of `image_size`.

    Args:
        path: path or http(s) URL of `{"model": {"visual_encoder.…": …}}`, or of the encoder's parameters alone.
        image_size: S, side of the images in pixels.
    Returns:
        `VisionTransformer` in evaluation mode, float32, on the CPU: (N, 3, S, S) normalised pixels -> (N, D), the
        [CLS] token after the final norm. `embed_dim` is D.
    Raises:
        FileNotFoundError, ValueError: no such file, not such a checkpoint, or S is no multiple of the patch size.
    """
    state = state_dict_of(read_checkpoint(path), path)
    if any(name.startswith(PREFIX) for name in state):
        state = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
    try:
        if not all(value.is_floating_point() for value in state.values()):
            raise ValueError("found parameters that are no real numbers")
        width, _, patch, _ = state["patch_embed.proj.weight"].shape
        positions = state["pos_embed"].float()
        depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
        if image_size % patch or image_size < patch:
            raise ValueError(f"image_size: found {image_size}, expected a multiple of {patch}, the encoder's patch")
        grid = image_size // patch
        state["pos_embed"] = resample_abs_pos_embed(positions, [grid, grid])
        require_finite(state, path)
        sizes = dict(img_size=image_size, patch_size=patch, embed_dim=width, depth=depth, num_heads=width // HEAD_WIDTH)
        build = functools.partial(VisionTransformer, **sizes, num_classes=0, global_pool="token", norm_layer=LayerNorm)
        with torch.device("meta"):  # whether all fits, before memory is taken for it
            build().load_state_dict({name: value.to("meta") for name, value in state.items()})
        model = build()
        model.load_state_dict(state)
    except KeyError as error:
        raise ValueError(f"{path}: BLIP's image encoder: missing {PREFIX}{error.args[0]}") from None
    except (RuntimeError, ValueError, AssertionError, ArithmeticError, IndexError, TypeError) as error:
        if str(error).startswith("image_size"):
            raise
        reason = " ".join(str(error).split())[:500]
        raise ValueError(f"{path}: BLIP's image encoder: does not fit a Vision Transformer ({reason})") from None
    return model.eval()
