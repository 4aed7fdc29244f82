"""The encoders of mini VideoXum: small, with random weights except for the last layer, which has a closed-form fit.

Axes: n frames, N texts, D feature width, C width of VT-CLIP's features.
"""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

from data.mini.plans import VideoPlan
from data.mini.rendering import draw_frame
from data.video.preprocessing import preprocess
from models.blip_vit import VISUAL_ENCODER_PREFIX
from models.frame_encoders import FrameEncoder, clip_frame_encoder
from models.temporal import HEAD_WIDTH, LayerNorm
from models.vt_clip import VTClip, build_vt_clip
from models.weights import StateDict
from utils.frame_transform import FrameTransform

FEATURE_WIDTH = 768
CLIP_WIDTH = 512
FRAME_SIZE = 64  # side of the frame encoder's images in pixels
FRAMES_PER_CALL = 64  # of an encoder


def sample_times(plans: Iterable[VideoPlan]) -> list[tuple[VideoPlan, float]]:
    """Sample videos at 1 fps: (video, time in seconds) of each frame."""
    return [(plan, second) for plan in plans for second in plan.frame_times]


def encode_frames(encoder: FrameEncoder, samples: Iterable[tuple[VideoPlan, float]]) -> np.ndarray:
    """Draw and encode frames.

    Args:
        encoder: encoder of width D.
        samples: (video, time in seconds) of each frame.
    Returns:
        (n, D) float64.
    """
    pixels = (preprocess(draw_frame(plan, second), encoder.transform) for plan, second in samples)
    batches = iter(lambda: list(itertools.islice(pixels, FRAMES_PER_CALL)), [])
    return np.concatenate([encoder(np.stack(batch)).double().numpy() for batch in batches])


def build_frame_encoder_state(seed: int, plans: Sequence[VideoPlan]) -> StateDict:
    """Build the weights of a ViT with one block in BLIP's layout.

    The standard deviation of the random weights is larger than a ViT's usually is, so that features depend strongly on
    the frame. The last norm standardizes the features: over the frames of the given videos each has mean 0 and
    variance 1.

    Args:
        seed: random seed of the weights.
        plans: videos that the last norm is fitted to.
    """
    generator = torch.Generator().manual_seed(seed)
    vit = VisionTransformer(
        img_size=FRAME_SIZE,
        embed_dim=FEATURE_WIDTH,
        depth=1,
        num_heads=FEATURE_WIDTH // HEAD_WIDTH,
        num_classes=0,
        global_pool="token",
        norm_layer=LayerNorm,
    ).eval()
    state = vit.state_dict()
    for name, value in state.items():
        if name in ("cls_token", "pos_embed"):
            value.normal_(generator=generator)
        elif value.ndim >= 2:
            value.normal_(std=1.5 / value[0].numel() ** 0.5, generator=generator)
    state["patch_embed.proj.bias"].zero_()  # timm draws it from the global generator
    encoder = FrameEncoder(vit, FrameTransform(FRAME_SIZE))
    features = torch.from_numpy(encode_frames(encoder, sample_times(plans)))  # (n, D)
    state["norm.weight"].copy_(1 / features.std(0))
    state["norm.bias"].copy_(-features.mean(0) / features.std(0))
    return {VISUAL_ENCODER_PREFIX + name: value for name, value in state.items()}


def build_vt_clip_state(seed: int) -> StateDict:
    """Build the random weights of a tiny CLIP in OpenAI's layout, with features of width `CLIP_WIDTH`."""
    width, layers, patch, grid = 64, 2, 16, 4
    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (77, width),
        "text_projection": (width, CLIP_WIDTH),
        "logit_scale": (),
        "visual.class_embedding": (width,),
        "visual.positional_embedding": (grid * grid + 1, width),
        "visual.proj": (width, CLIP_WIDTH),
        "visual.conv1.weight": (width, 3, patch, patch),
        "token_embedding.weight": (49408, width),
    }
    norms = ["visual.ln_pre", "visual.ln_post", "ln_final"]
    for tower, i in itertools.product(("visual.transformer", "transformer"), range(layers)):
        block = f"{tower}.resblocks.{i}"
        norms += [f"{block}.ln_1", f"{block}.ln_2"]
        shapes |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
        for name, rows, columns in (
            ("attn.out_proj", width, width),
            ("mlp.c_fc", 4 * width, width),
            ("mlp.c_proj", width, 4 * width),
        ):
            shapes |= {f"{block}.{name}.weight": (rows, columns), f"{block}.{name}.bias": (rows,)}
    generator = torch.Generator().manual_seed(seed)
    state = {name: torch.randn(shape, generator=generator) / width**0.5 for name, shape in shapes.items()}
    state |= {name: torch.zeros(shape) for name, shape in shapes.items() if name.endswith("bias")}
    state["logit_scale"] = torch.tensor(100.0).log()
    for norm in norms:
        state |= {f"{norm}.weight": torch.ones(width), f"{norm}.bias": torch.zeros(width)}
    return state


def fit_image_projection(state: StateDict, plans: Sequence[VideoPlan]) -> StateDict:
    """Fit the last layer of a tiny VT-CLIP's image tower, by ridge regression on frames of the given videos.

    The target of a frame is the text feature of its event, scaled by the strength of the event at that time.

    Args:
        state: from `build_vt_clip_state`.
        plans: plans of the videos.
    Returns:
        A copy of `state` with the fitted layer.
    """
    clip = build_vt_clip(state)
    projection = clip.clip.visual.proj
    clip.clip.visual.proj = None
    samples = sample_times(plans)
    states = encode_frames(clip_frame_encoder(clip), samples)  # (n, width)
    events = [plan.find_event(second) for plan, second in samples]
    text_features = compute_text_features(clip, sorted({event.describe(0) for event in events if event is not None}))
    targets = np.stack(
        [
            np.zeros(CLIP_WIDTH)
            if event is None
            else text_features[event.describe(0)] * (0.5 + event.compute_strength(second))
            for event, (_, second) in zip(events, samples)
        ]
    )  # (n, C)
    ridge = states.T @ states + 1e-3 * len(states) * np.eye(states.shape[1])  # (width, width)
    fitted = torch.from_numpy(np.linalg.solve(ridge, states.T @ targets))  # (width, C)
    return state | {"visual.proj": fitted.to(projection.dtype)}


@torch.no_grad()
def compute_text_features(clip: VTClip, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Encode and normalize N texts: text -> (C,) float64 of length 1."""
    features = clip.encode_text(texts)  # (N, C)
    features = features / features.norm(dim=-1, keepdim=True)
    return dict(zip(texts, features.double().numpy()))
