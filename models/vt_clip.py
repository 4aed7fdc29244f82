"""VT-CLIP, the model of VT-CLIPScore: OpenAI's CLIP with captions of up to 256 tokens.

Axes: N texts or images, L tokens, D feature width, S image side.
"""

import functools
import itertools
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from models.ragged import to_device, unique_index_select
from models.temporal import interpolate_positions
from models.weights import (
    StateDict,
    TorchScriptArchive,
    extract_state_dict,
    read_checkpoint,
    require_finite_parameters,
)
from utils.download import is_url
from utils.published_weights import fetch_hint

if TYPE_CHECKING:
    import open_clip

MAX_TOKENS = 256
# Entries of OpenAI's layout that are sizes, not parameters.
SIZE_ENTRIES = ("input_resolution", "context_length", "vocab_size")
CLIP_PARAMETERS = (
    "visual.conv1.weight",
    "visual.positional_embedding",
    "visual.proj",
    "positional_embedding",
    "token_embedding.weight",
    "text_projection",
    "ln_final.weight",
)


class VTClip(nn.Module):
    """CLIP's two towers, in float32; its text tower accepts captions longer than CLIP's 77 tokens.

    Args:
        clip: the towers.
        tokenizer: CLIP's byte-pair tokenizer.
    """

    BATCH = 64

    def __init__(self, clip: "open_clip.CLIP", tokenizer: "open_clip.SimpleTokenizer") -> None:
        super().__init__()
        self.clip = clip
        self.tokenizer = tokenizer

    @property
    def width(self) -> int:
        """Columns of the features."""
        return self.clip.text_projection.shape[1]

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self.clip.visual.image_size[0]

    def token_ids(self, text: str) -> list[int]:
        """Tokenize one text: at most 256 ids; a truncated text ends in end-of-text, too."""
        start, end = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id
        return [start, *self.tokenizer.encode(text)[: MAX_TOKENS - 2], end]

    def position_table(self, L: int) -> torch.Tensor:
        """(L, width) rows of the 77-row table for a text of L tokens."""
        return interpolate_positions(self.clip.positional_embedding, L)

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Encode N texts: (N, D), not normalized.

        Texts of equal length are a batch without padding: a text's feature does not depend on the other texts.
        """
        ids = [self.token_ids(text) for text in texts]
        table = self.clip.token_embedding.weight
        out = table.new_zeros(len(texts), self.width)
        for L in sorted({len(row) for row in ids}):
            rows = torch.tensor([i for i, row in enumerate(ids) if len(row) == L])
            for batch in rows.split(self.BATCH):
                tokens = torch.tensor([ids[i] for i in batch.tolist()])  # (n, L)
                batch, tokens = to_device((batch, tokens), table.device)
                out = out.index_copy(0, batch, self._text_tower(tokens))
        return out

    def _text_tower(self, tokens: torch.Tensor) -> torch.Tensor:
        L = tokens.shape[1]
        states = self._states(self.clip.token_embedding(tokens) + self.position_table(L))  # (n, L, width)
        return states[:, -1] @ self.clip.text_projection  # the last token is end-of-text: (n, D)

    def _states(self, x: torch.Tensor) -> torch.Tensor:
        causal = torch.full((x.shape[1], x.shape[1]), float("-inf"), device=x.device).triu(1)
        return self.clip.ln_final(self.clip.transformer(x, attn_mask=causal))

    def encode_text_padded(self, texts: Sequence[str]) -> torch.Tensor:
        """Same as `encode_text`, in one padded batch: faster, and equal up to rounding.

        Padding comes after a text, where causal attention masks it.
        """
        ids = [self.token_ids(text) for text in texts]
        N, L, table = len(ids), max(map(len, ids)), self.clip.positional_embedding
        # Texts of up to 77 tokens have the first rows of the table, each greater length has a table of its own.
        longer = sorted({len(row) for row in ids if len(row) > len(table)})
        first_rows = dict(zip(longer, itertools.accumulate(longer, initial=len(table))))
        starts = torch.tensor([first_rows.get(len(row), 0) for row in ids])
        lengths = torch.tensor([len(row) for row in ids])
        is_real = torch.arange(L) < lengths[:, None]  # (N, L)
        positions = (starts[:, None] + torch.arange(L)) * is_real  # (N, L) rows of all tables
        tokens = pad_sequence([torch.tensor(row) for row in ids], batch_first=True)  # (N, L)
        last = torch.arange(N) * L + lengths - 1  # (N,) rows of the flattened batch
        tokens, positions, last = to_device((tokens, positions, last), table.device)
        tables = torch.cat([table, *(interpolate_positions(table, length) for length in longer)])
        states = self._states(self.clip.token_embedding(tokens) + F.embedding(positions, tables))  # (N, L, width)
        return unique_index_select(states.flatten(0, 1), last) @ self.clip.text_projection  # (N, D)

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Encode normalized images (N, 3, S, S) -> (N, D), not normalized."""
        return self.clip.encode_image(images)


def load_vt_clip(path: str | os.PathLike) -> VTClip:
    """Load VT-CLIP from `{"model": state dict in OpenAI's layout}`, or the state dict itself.

    Args:
        path: path or URL of the checkpoint.
    Raises:
        FileNotFoundError, ValueError: see `models.weights.read_checkpoint` and `build_vt_clip`.
    """
    return build_vt_clip(extract_state_dict(read_checkpoint(path), path), path)


def build_vt_clip(state: StateDict, path: str | os.PathLike = "state dict") -> VTClip:
    """Build VT-CLIP from a state dict in OpenAI's layout.

    Args:
        state: parameters by name; sizes are read from their shapes.
        path: path of their file, for messages.
    Returns:
        The model in evaluation mode, float32, on the CPU.
    Raises:
        ValueError: the parameters are not those of a CLIP.
    """
    missing = [name for name in CLIP_PARAMETERS if name not in state]
    if missing:
        raise ValueError(f"{path}: VT-CLIP: missing {', '.join(missing)}")
    empty = [name for name in CLIP_PARAMETERS if not state[name].numel() or not state[name].is_floating_point()]
    if empty:
        raise ValueError(f"{path}: VT-CLIP: found no floating-point values in {', '.join(empty)}")
    import open_clip
    from open_clip.model import build_model_from_openai_state_dict

    state = {name: value.float() for name, value in state.items() if name not in SIZE_ENTRIES}
    state.setdefault("logit_scale", torch.tensor(0.0))
    try:
        require_finite_parameters(state, path)
        build = functools.partial(build_model_from_openai_state_dict, quick_gelu=True, cast_dtype=torch.float32)
        with torch.device("meta"):  # compare all shapes before memory is allocated
            shapes = {name: value.to("meta") for name, value in state.items()}
            build(dict(shapes)).load_state_dict(shapes)
        clip = build(dict(state)).float()
        clip.load_state_dict(state)  # the builder has rounded the weights to half precision
    except (RuntimeError, ValueError, KeyError, IndexError, TypeError, ArithmeticError) as error:
        reason = " ".join(str(error).split())[:500]
        raise ValueError(f"{path}: VT-CLIP: does not fit CLIP's layout ({reason})") from None
    tokenizer, rows = open_clip.SimpleTokenizer(), len(state["token_embedding.weight"])
    if rows < tokenizer.vocab_size:
        raise ValueError(f"{path}: VT-CLIP: token_embedding: found {rows} rows, expected {tokenizer.vocab_size}")
    return VTClip(clip, tokenizer).eval()


def list_hub_clips() -> list[str]:
    """List the names of OpenAI's Vision Transformers on open_clip's hub."""
    import open_clip

    names = {name.removesuffix("-quickgelu") for name in open_clip.list_pretrained_models_by_tag("openai")}
    return sorted(name for name in names if name.startswith("ViT"))


def check_clip(source: str | os.PathLike) -> None:
    """Check that a source for `load_clip` exists; a URL is not requested.

    Raises:
        FileNotFoundError: no such file or name.
    """
    source = str(source)
    if not is_url(source) and not pathlib.Path(source).is_file() and source not in list_hub_clips():
        expected = f"a file or one of {', '.join(list_hub_clips())}"
        raise FileNotFoundError(f"{source}: clip: no such file, expected {expected}{fetch_hint(source)}")


def load_clip(source: str | os.PathLike) -> VTClip:
    """Load VT-CLIP, or another CLIP in its place.

    Args:
        source: file or URL for `load_vt_clip`, or open_clip's name of one of OpenAI's CLIPs, such as ViT-B-16.
    Raises:
        FileNotFoundError: no such file or name, or the hub is not available.
        ValueError: the file is not a CLIP.
    """
    source = str(source)
    check_clip(source)
    if is_url(source) or pathlib.Path(source).is_file():
        try:
            return load_vt_clip(source)
        except TorchScriptArchive as error:
            raise TorchScriptArchive(f"{error}, or one of OpenAI's CLIPs as in open_clip, such as ViT-B-16") from None
    import open_clip

    try:
        clip = open_clip.create_model(f"{source}-quickgelu", pretrained="openai")
    except Exception as error:  # of open_clip's hub clients
        reason = " ".join(str(error).split())[:300]
        raise FileNotFoundError(f"{source}: clip: cannot be downloaded from open_clip's hub ({reason})") from None
    return build_vt_clip(clip.state_dict(), source)
