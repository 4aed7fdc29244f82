"""VT-CLIP, the model behind VT-CLIPScore: OpenAI's CLIP with captions of up to 256 tokens.

Axes: N texts or images, L tokens, D feature width, S image side.
"""

import functools
import pathlib

import torch
import torch.nn.functional as F
from torch import nn

from models.temporal import position_rows
from models.weights import read_checkpoint, require_finite, state_dict_of
from utils.download import is_url

MAX_TOKENS = 256
# Entries of OpenAI's layout that are sizes, not parameters.
SIZE_ENTRIES = ("input_resolution", "context_length", "vocab_size")
NEEDED = (
    "visual.conv1.weight",
    "visual.positional_embedding",
    "visual.proj",
    "positional_embedding",
    "token_embedding.weight",
    "text_projection",
    "ln_final.weight",
)


class VTClip(nn.Module):
    """CLIP's two towers, in float32, with a text side that takes captions longer than CLIP's 77 tokens.

    Args:
        clip: `open_clip.model.CLIP`.
        tokenizer: CLIP's byte-pair tokeniser, `open_clip.SimpleTokenizer`.
    """

    BATCH = 64

    def __init__(self, clip, tokenizer):
        super().__init__()
        self.clip = clip
        self.tokenizer = tokenizer

    @property
    def width(self):
        """Columns of the features."""
        return self.clip.text_projection.shape[1]

    @property
    def image_size(self):
        """Side of the images in pixels."""
        return self.clip.visual.image_size[0]

    def token_ids(self, text):
        """CLIP's ids of one text, at most 256; a longer one is cut and its last becomes end-of-text."""
        start, end = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id
        return [start, *self.tokenizer.encode(text)[: MAX_TOKENS - 2], end]

    def position_table(self, L):
        """(L, width) rows of the 77-row table for a text of L tokens."""
        return position_rows(self.clip.positional_embedding, L)

    def encode_text(self, texts):
        """Encode texts: list of N strings -> (N, D), not normalised.

        Texts of one length go through the tower together, without padding, so that a text's feature does not
        depend on the others.
        """
        ids = [self.token_ids(text) for text in texts]
        table = self.clip.token_embedding.weight
        out = table.new_zeros(len(texts), self.width)
        for L in sorted({len(row) for row in ids}):
            places = [i for i, row in enumerate(ids) if len(row) == L]
            for some in torch.tensor(places, device=table.device).split(self.BATCH):
                tokens = torch.tensor([ids[i] for i in some.tolist()], device=table.device)  # (n, L)
                out = out.index_copy(0, some, self._text_tower(tokens))
        return out

    def _text_tower(self, tokens):
        L = tokens.shape[1]
        states = self._states(self.clip.token_embedding(tokens) + self.position_table(L))  # (n, L, width)
        return states[:, -1] @ self.clip.text_projection  # the last token is end-of-text: (n, D)

    def _states(self, x):
        causal = torch.full((x.shape[1], x.shape[1]), float("-inf"), device=x.device).triu(1)
        return self.clip.ln_final(self.clip.transformer(x, attn_mask=causal))

    def encode_text_padded(self, texts):
        """As `encode_text`, in one pass over padded texts: faster, and equal but for rounding.

        Padding stands behind a text, where its own tokens do not look.
        """
        ids = [self.token_ids(text) for text in texts]
        device = self.clip.token_embedding.weight.device
        L, last = max(map(len, ids)), torch.tensor([len(row) - 1 for row in ids], device=device)
        tokens = torch.tensor([row + [0] * (L - len(row)) for row in ids], device=device)  # (N, L)
        tables = [F.pad(self.position_table(len(row)), (0, 0, 0, L - len(row))) for row in ids]
        states = self._states(self.clip.token_embedding(tokens) + torch.stack(tables))  # (N, L, width)
        return states[torch.arange(len(ids), device=device), last] @ self.clip.text_projection  # (N, D)

    def encode_image(self, images):
        """Encode normalised images (N, 3, S, S) -> (N, D), not normalised."""
        return self.clip.encode_image(images)


def load_vt_clip(path):
    """Load VT-CLIP from `{"model": state dict in OpenAI's layout}`, or the state dict itself.

    Returns, Raises: as `vt_clip_of`; also FileNotFoundError and ValueError for what is no checkpoint.
    """
    return vt_clip_of(state_dict_of(read_checkpoint(path), path), path)


def vt_clip_of(state, path="state dict"):
    """Build VT-CLIP from a state dict in OpenAI's layout.

    Sizes are read from the shapes. The model is in evaluation mode, float32, on the CPU.

    Args:
        state: parameters by name.
        path: where they are from, for messages.
    Raises:
        ValueError: they do not fit.
    """
    missing = [name for name in NEEDED if name not in state]
    if missing:
        raise ValueError(f"{path}: VT-CLIP: missing {', '.join(missing)}")
    empty = [name for name in NEEDED if not state[name].numel() or not state[name].is_floating_point()]
    if empty:
        raise ValueError(f"{path}: VT-CLIP: found no real numbers in {', '.join(empty)}")
    import open_clip
    from open_clip.model import build_model_from_openai_state_dict

    state = {name: value.float() for name, value in state.items() if name not in SIZE_ENTRIES}
    state.setdefault("logit_scale", torch.tensor(0.0))
    try:
        require_finite(state, path)
        build = functools.partial(build_model_from_openai_state_dict, quick_gelu=True, cast_dtype=torch.float32)
        with torch.device("meta"):  # whether all fits, before memory is taken for it
            shapes = {name: value.to("meta") for name, value in state.items()}
            build(dict(shapes)).load_state_dict(shapes)
        clip = build(dict(state)).float()
        clip.load_state_dict(state)  # the builder goes through half precision
    except (RuntimeError, ValueError, KeyError, IndexError, TypeError, ArithmeticError) as error:
        reason = " ".join(str(error).split())[:500]
        raise ValueError(f"{path}: VT-CLIP: does not fit CLIP's layout ({reason})") from None
    tokenizer, rows = open_clip.SimpleTokenizer(), len(state["token_embedding.weight"])
    if rows < tokenizer.vocab_size:
        raise ValueError(f"{path}: VT-CLIP: token_embedding: found {rows} rows, expected {tokenizer.vocab_size}")
    return VTClip(clip, tokenizer).eval()


def hub_names():
    """OpenAI's Vision Transformers on open_clip's hub."""
    import open_clip

    names = {name.removesuffix("-quickgelu") for name in open_clip.list_pretrained_models_by_tag("openai")}
    return sorted(name for name in names if name.startswith("ViT"))


def find_clip(source):
    """Load any CLIP that can stand in for VT-CLIP.

    Args:
        source: file or URL that `load_vt_clip` reads, or open_clip's name of one of OpenAI's CLIPs, as ViT-B-16.
    Raises:
        FileNotFoundError, ValueError: it cannot be had, or is no such CLIP.
    """
    source = str(source)
    if is_url(source) or pathlib.Path(source).is_file():
        return load_vt_clip(source)
    import open_clip

    if source not in hub_names():
        expected = f"one or a name: {', '.join(hub_names())}"
        raise FileNotFoundError(f"{source}: clip: found no such file, expected {expected}")
    try:
        clip = open_clip.create_model(f"{source}-quickgelu", pretrained="openai")
    except Exception as error:  # whatever its hub raises
        reason = " ".join(str(error).split())[:300]
        raise FileNotFoundError(f"{source}: clip: cannot be had from open_clip's hub ({reason})") from None
    return vt_clip_of(clip.state_dict(), source)
