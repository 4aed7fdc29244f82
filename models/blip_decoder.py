"""BLIP's caption decoder as a `CaptionDecoder`: tokenizer, loss and search around `TextDecoder`.

Axes: B videos, T frames, D width of the frame states, L text tokens, D_txt text width.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable

import torch

from models.beam_search import beam_search, nucleus_sample
from models.caption_decoder import CaptionDecoderOptions, Captions, GenerationOptions
from models.losses import next_token_targets
from models.med_config import TextDecoderConfig
from models.packed_linear import prepacked_linears
from models.ragged import RaggedLayout, unique_index_select
from models.text_decoder import TextDecoder
from models.tokenizer import CaptionTokenizer


@dataclasses.dataclass(frozen=True)
class CaptionInputs:
    """Captions as `BlipCaptionDecoder.loss` takes them.

    Attributes:
        input_ids: (n,) int.
        queries: layout of the input ids.
        keys: layout of the real tokens of `queries`.
        key_rows: rows of `keys` in `queries`; None if both are equal.
        loss_rows: (m,) int, rows of the states that the loss depends on; None if it depends on all.
        targets: (m,) int, next token of each of these rows.
        scored: (m,) bool; False for padding and for the prompt.
    """

    input_ids: torch.Tensor
    queries: RaggedLayout
    keys: RaggedLayout
    key_rows: torch.Tensor | None
    loss_rows: torch.Tensor | None
    targets: torch.Tensor
    scored: torch.Tensor


class BlipCaptionDecoder(TextDecoder):
    """BLIP's caption decoder with its tokenizer; implements `CaptionDecoder`.

    Args:
        config: sizes.
        width: D.
        tokenizer: its vocabulary fits `config`.
        max_text_length: truncate captions given as text to this many tokens, prompt and [SEP] included.
        smoothing_scope: see `models.losses.caption_loss`.
        grad_ckpt: recompute activations in the backward pass.
        ckpt_layer: number of last layers to which `grad_ckpt` applies; 0 is all.
    """

    def __init__(
        self,
        config: TextDecoderConfig,
        width: int,
        tokenizer: CaptionTokenizer,
        *,
        max_text_length: int,
        smoothing_scope: str,
        grad_ckpt: bool = False,
        ckpt_layer: int = 0,
    ) -> None:
        super().__init__(config, width, grad_ckpt=grad_ckpt, ckpt_layer=ckpt_layer)
        self.tokenizer = tokenizer
        self.smoothing_scope = smoothing_scope
        self.encode_caption = functools.partial(tokenizer.encode, max_tokens=max_text_length)
        self.pad_id = tokenizer.pad_id

    def prepare_captions(self, captions: Captions) -> CaptionInputs:
        """Lay out captions for `loss`, see `CaptionDecoder`; without the tokens on which the loss does not depend."""
        input_ids, prompt_length = self._caption_ids(captions), len(self.tokenizer.prompt_ids)
        is_real = input_ids.ne(self.pad_id)  # (B, L)
        lengths = RaggedLayout.from_mask(is_real, "tsum_labels").lengths
        if min(lengths) <= prompt_length:
            shortest = f"caption {lengths.index(min(lengths))} of {min(lengths)} tokens"
            raise ValueError(f"tsum_labels: found {shortest}, expected more than the {prompt_length} of the prompt")
        targets, scored = next_token_targets(input_ids, is_real, prompt_length)  # (B, L - 1)
        size = targets.shape[1]
        if self.smoothing_scope == "published":  # QUIRK-2: the loss depends on padding
            queries = RaggedLayout([size] * len(lengths), size)
            keys = RaggedLayout([min(length, size) for length in lengths], size)
        else:
            queries = keys = RaggedLayout([length - 1 for length in lengths], size)
        packed_ids, targets, scored = (queries.pack(x) for x in (input_ids[:, :-1], targets, scored))  # (n,)
        loss_rows = None
        if self.smoothing_scope == "scored":
            loss_rows = scored.nonzero()[:, 0]
            targets, scored = targets[loss_rows], scored[loss_rows]  # (m,)
        return CaptionInputs(packed_ids, queries, keys, keys.row_indices(queries), loss_rows, targets, scored)

    def loss(self, frames: torch.Tensor, frame_layout: RaggedLayout, captions: CaptionInputs) -> torch.Tensor:
        """Compute the caption loss, see `CaptionDecoder` and `models.losses.caption_loss`."""
        states = self(
            captions.input_ids, captions.queries, captions.keys, captions.key_rows, frames, frame_layout
        )  # (n, D_txt)
        if captions.loss_rows is not None:
            states = unique_index_select(states, captions.loss_rows)  # (m, D_txt)
        return self.token_loss(states, captions.targets, captions.scored, self.smoothing_scope)

    def _caption_ids(self, captions: Captions) -> torch.Tensor:
        """Convert captions in any form to (B, L) ids on the host, [DEC] first."""
        if isinstance(captions, torch.Tensor):
            input_ids = captions.cpu().clone()
        else:
            input_ids = self.tokenizer.pad(
                [self.encode_caption(caption) if isinstance(caption, str) else caption for caption in captions]
            )
        input_ids[:, 0] = self.tokenizer.decoder_id
        return input_ids

    def require_capacity(self, num_frames: int, num_tokens: int) -> None:
        """Raise a ValueError unless there are positions for this many tokens; any number of frames fits."""
        if num_tokens > self.config.max_position_embeddings:
            limit = self.config.max_position_embeddings
            raise ValueError(f"max_text_length: found {num_tokens}, expected at most {limit} positions of med_config")

    def generate(self, frames: torch.Tensor, frame_mask: torch.Tensor, options: GenerationOptions) -> list[str]:
        """Generate captions, see `CaptionDecoder`."""
        return self.decode(self.generate_ids(frames, frame_mask, options))

    @torch.no_grad()
    def generate_ids(self, frames: torch.Tensor, frame_mask: torch.Tensor, options: GenerationOptions) -> torch.Tensor:
        """Generate the token ids of captions.

        Args:
            frames: (B, T, D) states.
            frame_mask: (B, T) bool.
            options: how captions are generated.
        Returns:
            (B, n) int: prompt, caption, [SEP], [PAD].
        Raises:
            ValueError: `max_length` leaves no room after the prompt or exceeds the decoder's positions.
        """
        prompt_ids, positions = self.tokenizer.prompt_ids, self.config.max_position_embeddings
        if not len(prompt_ids) < options.max_length <= positions:
            limits = f"{len(prompt_ids) + 1} to {positions} tokens"
            raise ValueError(f"max_length: found {options.max_length}, expected {limits}")
        if options.num_beams < 1:
            raise ValueError(f"num_beams: found {options.num_beams}, expected at least 1")
        search: Callable[..., torch.Tensor] = functools.partial(beam_search, num_beams=options.num_beams)
        if options.sample:
            search = functools.partial(nucleus_sample, top_p=options.top_p)
        with prepacked_linears(self.step_layers()):
            return search(
                self,
                frames,
                frame_mask,
                prompt_ids,
                max_length=options.max_length,
                min_length=options.min_length,
                end_id=self.tokenizer.end_id,
                pad_id=self.pad_id,
                repetition_penalty=options.repetition_penalty,
            )

    def decode(self, ids: torch.Tensor | Iterable[Iterable[int]]) -> list[str]:
        """Convert ids to captions, see `CaptionDecoder`."""
        return [self.tokenizer.decode(row) for row in (ids.tolist() if isinstance(ids, torch.Tensor) else ids)]

    def compile_layers(self) -> None:
        """Compile the layers, see `CaptionDecoder`."""
        for layer in self.layers:
            layer.compile(dynamic=True)

    def describe_base(self) -> None:
        """Return None: nothing is frozen."""


def build_blip_decoder(options: CaptionDecoderOptions, width: int) -> BlipCaptionDecoder:
    """Build BLIP's decoder as initialized.

    Raises:
        FileNotFoundError, ValueError: sizes or tokenizer are missing or invalid, or do not fit each other.
    """
    config = TextDecoderConfig.from_json(options.med_config)
    tokenizer = CaptionTokenizer(options.tokenizer, options.prompt)
    _require_fit(config, options.med_config, tokenizer, options.tokenizer, options.max_text_length)
    return BlipCaptionDecoder(
        config,
        width,
        tokenizer,
        max_text_length=options.max_text_length,
        smoothing_scope=options.smoothing_scope,
        grad_ckpt=options.grad_ckpt,
        ckpt_layer=options.ckpt_layer,
    )


def _require_fit(
    config: TextDecoderConfig,
    med_config: str | os.PathLike,
    caption_tokenizer: CaptionTokenizer,
    tokenizer: str | os.PathLike,
    max_text_length: int,
) -> None:
    """Raise a ValueError unless vocabulary and captions fit the decoder's sizes."""
    if len(caption_tokenizer) > config.vocab_size:
        raise ValueError(
            f"{med_config}: vocab_size: found {config.vocab_size}, "
            f"expected at least the {len(caption_tokenizer)} tokens of {tokenizer}"
        )
    shortest, longest = len(caption_tokenizer.prompt_ids) + 1, config.max_position_embeddings
    if not shortest <= max_text_length <= longest:
        raise ValueError(
            f"max_text_length: found {max_text_length}, expected {shortest} (prompt and one token) to {longest} "
            f"(the positions of {med_config})"
        )
