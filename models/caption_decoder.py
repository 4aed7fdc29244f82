"""The interface between VTSUM-BLIP and its caption decoder, which `Config.decoder` selects.

A decoder is a module of its own, built by a function that is listed in `models.decoder_registry.CAPTION_DECODERS`. It
owns everything that concerns text: tokenizer, special tokens, prompt, caches and search.
Axes: B videos, T frames, D width of the frame states, L text tokens.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch

from models.ragged import RaggedLayout

Captions = Sequence[str] | Sequence[Sequence[int]] | torch.Tensor  # as `CaptionDecoder.prepare_captions` takes them


@dataclasses.dataclass(frozen=True)
class CaptionDecoderOptions:
    """All options that decoders are built from; each decoder reads those that concern it.

    Attributes:
        prompt: text that every caption begins with.
        max_text_length: truncate training captions to this many tokens, prompt and end token included.
        grad_ckpt: recompute activations in the backward pass.
        ckpt_layer: number of last layers to which `grad_ckpt` applies; 0 is all.
        med_config: `blip`: JSON file with the sizes.
        tokenizer: `blip`: hub name, or folder with `vocab.txt` or `tokenizer.json`.
        smoothing_scope: `blip`: see `models.losses.caption_loss`.
        path: `causal_lm`: hub name or folder of the language model.
        train: `causal_lm`: `projector`, `lora` or `all`.
        lora_rank: `causal_lm`: rank of the LoRA matrices.
    """

    prompt: str
    max_text_length: int
    grad_ckpt: bool
    ckpt_layer: int
    med_config: str | os.PathLike
    tokenizer: str | os.PathLike
    smoothing_scope: str
    path: str | os.PathLike
    train: str
    lora_rank: int


@dataclasses.dataclass(frozen=True)
class GenerationOptions:
    """How captions are generated.

    Attributes:
        sample: nucleus sampling from torch's global generator instead of beam search.
        num_beams: beams of the search.
        max_length: limit of a caption in tokens, prompt included.
        min_length: the end token is forbidden below this many tokens, prompt included.
        top_p: total probability of the tokens to sample from, of the 50 most likely ones.
        repetition_penalty: > 1 makes repeated tokens less likely; `causal_lm` does not count those of the prompt.
    """

    sample: bool = False
    num_beams: int = 3
    max_length: int = 30
    min_length: int = 10
    top_p: float = 0.9
    repetition_penalty: float = 1.0


class CaptionDecoder(Protocol):
    """Decodes frame states to captions: an `nn.Module` with the members below.

    Its parameters with `requires_grad` are what a fresh run trains; `state_dict()` contains these, and no frozen ones,
    so that checkpoints stay small. It is built for one width D of the frame states.

    Attributes:
        encode_caption: converts a caption, prompt included, to token ids for `loss`. Loader workers call it: it must be
            picklable and must not hold the weights.
        pad_id: id that pads the ids of a batch of captions on the right.
    """

    @property
    def encode_caption(self) -> Callable[[str], list[int]]: ...

    @property
    def pad_id(self) -> int: ...

    def prepare_captions(self, captions: Captions) -> Any:
        """Convert captions to what `loss` takes, on the host.

        Args:
            captions: B captions that begin with the prompt, or their ids from `encode_caption`: B lists of ids, or
                (B, L) int padded with `pad_id`, preferably on the host.
        Returns:
            Integer and bool tensors, layouts, or tuples and dataclasses of them, see `models.ragged.to_device`.
        Raises:
            ValueError: a caption has no tokens after the prompt.
        """

    def loss(self, frames: torch.Tensor, frame_layout: RaggedLayout, captions: Any) -> torch.Tensor:
        """Compute the training loss.

        Args:
            frames: (n, D) states of the real frames of all videos.
            frame_layout: layout of the frames.
            captions: from `prepare_captions`, with its tensors on the device of the frames.
        Returns:
            () float
        """

    def generate(self, frames: torch.Tensor, frame_mask: torch.Tensor, options: GenerationOptions) -> list[str]:
        """Generate one caption per video; the caller has disabled dropout (evaluation mode) and gradients.

        The caption of a video does not depend on the other videos of the batch.

        Args:
            frames: (B, T, D) states, 0 at padding.
            frame_mask: (B, T) bool, True = real frame.
            options: how captions are generated.
        Returns:
            B captions without the prompt.
        Raises:
            ValueError: an option is out of the decoder's range.
        """

    def decode(self, ids: torch.Tensor | Iterable[Iterable[int]]) -> list[str]:
        """Convert ids of captions, prompt included, (B, L) or B lists, to text without special tokens and prompt."""

    def compile_layers(self) -> None:
        """Compile the layers by torch.compile at their first call; parameters keep their names."""

    def require_capacity(self, num_frames: int, num_tokens: int) -> None:
        """Raise a ValueError unless videos of this many frames and captions of this many tokens fit the decoder."""

    def describe_base(self) -> dict[str, str] | None:
        """Describe what a checkpoint depends on and does not contain; None if there is nothing.

        Returns:
            `name` of the model, `tokenizer_sha256` of its vocabulary, and `sha256` of the frozen weights that
            `state_dict()` omits, if it omits some.
        """
