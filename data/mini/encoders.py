"""The encoders of mini VideoXum: small, and random but for their last layers, which are fitted in closed form."""

import itertools

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

from data.mini.rendering import draw, event_at
from data.video.preprocessing import preprocess
from models.blip_vit import PREFIX
from models.frame_encoders import FrameEncoder, clip_frame_encoder
from models.temporal import HEAD_WIDTH, LayerNorm
from models.vt_clip import vt_clip_of
from utils.frame_transform import FrameTransform

FEATURE_WIDTH, CLIP_WIDTH = 768, 512
FRAME_SIZE = 64  # side of the frame encoder's images


def moments_of(videos):
    """The middle of each second of videos: list of (video, second, event or None)."""
    return [(video, second, event_at(video, second)) for video in videos for second in video.middles]


def encoded(encoder, moments):
    """Encode what is shown at some moments: (n, D) float64."""
    pixels = (preprocess(draw(video, second), encoder.transform) for video, second, _ in moments)
    parts = iter(lambda: list(itertools.islice(pixels, 64)), [])
    return np.concatenate([encoder(np.stack(part)).double().numpy() for part in parts])


def tiny_frame_encoder(seed, videos):
    """State dict of one block of a ViT in BLIP's layout, weights drawn from the seed.

    They are drawn wider than a ViT's usually are, so that what a frame shows moves its feature about. The last norm
    is set so that over pictures of these videos each feature has mean 0 and variance 1.
    """
    generator = torch.Generator().manual_seed(seed)
    heads = FEATURE_WIDTH // HEAD_WIDTH
    sizes = dict(img_size=FRAME_SIZE, embed_dim=FEATURE_WIDTH, depth=1, num_heads=heads)
    vit = VisionTransformer(**sizes, num_classes=0, global_pool="token", norm_layer=LayerNorm).eval()
    state = vit.state_dict()
    for name, value in state.items():
        if name in ("cls_token", "pos_embed"):
            value.normal_(generator=generator)
        elif value.ndim >= 2:
            value.normal_(std=1.5 / value[0].numel() ** 0.5, generator=generator)
    features = torch.from_numpy(encoded(FrameEncoder(vit, FrameTransform(FRAME_SIZE)), moments_of(videos)))
    state["norm.weight"].copy_(1 / features.std(0))
    state["norm.bias"].copy_(-features.mean(0) / features.std(0))
    return {PREFIX + name: value for name, value in state.items()}


def tiny_vt_clip(seed):
    """State dict of a tiny CLIP in OpenAI's layout, 512 wide at its output, weights drawn from the seed."""
    width, layers, patch, grid = 64, 2, 16, 4
    shapes = {
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


def fitted_to_pictures(state, videos):
    """Fit the last layer of a tiny VT-CLIP's image tower, by ridge regression on pictures of these videos.

    A picture of an event is to have the feature of the event's sentence, the more so the nearer its high point.
    """
    clip = vt_clip_of(state)
    projection, clip.clip.visual.proj = clip.clip.visual.proj, None
    moments = moments_of(videos)
    states = encoded(clip_frame_encoder(clip), moments)
    sentences = text_features(clip, sorted({event.sentence(0) for *_, event in moments if event}))
    targets = np.stack(
        [sentences[e.sentence(0)] * (0.5 + e.strength(s)) if e else np.zeros(CLIP_WIDTH) for _, s, e in moments]
    )
    ridge = states.T @ states + 1e-3 * len(states) * np.eye(states.shape[1])
    fitted = torch.from_numpy(np.linalg.solve(ridge, states.T @ targets))
    return state | {"visual.proj": fitted.to(projection.dtype)}


@torch.no_grad()
def text_features(clip, texts):
    """Texts -> dictionary from text to its feature of length 1, (C,) float64."""
    features = clip.encode_text(texts)
    features = features / features.norm(dim=-1, keepdim=True)
    return dict(zip(texts, features.double().numpy()))
