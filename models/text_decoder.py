"""BLIP's caption decoder: BERT with causal self-attention and cross-attention to the frames.

Parameter names are those of BLIP's checkpoints (and of transformers' `BlipTextLMHeadModel`).
Axes: B videos, K beams, L text tokens, T frames, H heads, Dh head width, D_txt text width.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from models import ragged
from models.cache import KVCache, cached_attention, mask_to_bias
from models.losses import caption_loss
from models.med_config import TextDecoderConfig
from models.ragged import RaggedLayout, to_device, unique_index_select
from models.temporal import checkpointed_layers

Attend = Callable[[torch.Tensor], torch.Tensor]  # queries (…, H, Dh) -> attention's output (…, H, Dh)


class QueryKeyValue(nn.Module):
    """The three projections of an attention, under the names of BERT's `self` module."""

    def __init__(self, width: int, key_width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(key_width, width)
        self.value = nn.Linear(key_width, width)


class AddNorm(nn.Module):
    """Post-norm residual: LayerNorm(residual + dropout(dense(x)))."""

    def __init__(self, in_width: int, config: TextDecoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(in_width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(residual + self.dropout(self.dense(x)))


class DecoderAttention(nn.Module):
    """Multi-head attention with its output layer, residual and norm."""

    def __init__(self, config: TextDecoderConfig, key_width: int) -> None:
        super().__init__()
        self.self = QueryKeyValue(config.hidden_size, key_width)
        self.output = AddNorm(config.hidden_size, config)
        self.num_heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        """(…, D_txt) -> (…, H, Dh)."""
        return x.unflatten(-1, (self.num_heads, -1))

    def key_value(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(…, key width) -> keys and values, (…, H, Dh) each."""
        return self.heads(self.self.key(states)), self.heads(self.self.value(states))

    def forward(self, x: torch.Tensor, attend: Attend) -> torch.Tensor:
        """x (…, D_txt) -> (…, D_txt)."""
        return self.output(attend(self.heads(self.self.query(x))).flatten(-2), x)


class Dense(nn.Module):
    """A linear layer, nested as in BERT."""

    def __init__(self, config: TextDecoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention to the frames, feed-forward; each followed by its norm."""

    def __init__(self, config: TextDecoderConfig, encoder_width: int) -> None:
        super().__init__()
        self.attention = DecoderAttention(config, config.hidden_size)
        self.crossattention = DecoderAttention(config, encoder_width)
        self.intermediate = Dense(config)
        self.output = AddNorm(config.intermediate_size, config)

    def _apply_sublayers(self, x: torch.Tensor, attend_tokens: Attend, attend_frames: Attend) -> torch.Tensor:
        x = self.attention(x, attend_tokens)
        x = self.crossattention(x, attend_frames)
        return self.output(F.gelu(self.intermediate.dense(x)), x)

    def forward(
        self,
        x: torch.Tensor,
        queries: RaggedLayout,
        keys: RaggedLayout,
        key_rows: torch.Tensor | None,
        frames: torch.Tensor,
        frame_layout: RaggedLayout,
    ) -> torch.Tensor:
        """Apply the layer to whole captions.

        Args:
            x: (n, D_txt) states.
            queries, keys, key_rows, frames, frame_layout: as in `TextDecoder.forward`.
        Returns:
            (n, D_txt)
        """
        k, v = self.attention.key_value(x if key_rows is None else unique_index_select(x, key_rows))
        frame_k, frame_v = self.crossattention.key_value(frames)
        dropout = self.attention.dropout if self.training else 0.0

        def attend_tokens(q: torch.Tensor) -> torch.Tensor:
            return ragged.varlen_attention(q, k, v, queries, keys, causal=True, dropout=dropout)

        def attend_frames(q: torch.Tensor) -> torch.Tensor:
            return ragged.varlen_attention(q, frame_k, frame_v, queries, frame_layout, dropout=dropout)

        return self._apply_sublayers(x, attend_tokens, attend_frames)

    def step(self, x: torch.Tensor, layer: int, cache: KVCache, token_bias: torch.Tensor) -> torch.Tensor:
        """Apply the layer to new tokens.

        Args:
            x: (B, N, D_txt) states.
            layer: its number in the stack.
            cache: keys and values of the tokens before; those of the new ones are added.
            token_bias: bias of the attention to tokens, see `cached_attention`.
        Returns:
            (B, N, D_txt)
        """

        def attend_tokens(q: torch.Tensor) -> torch.Tensor:
            k, v = (states.transpose(1, 2) for states in self.attention.key_value(x))  # (B, H, N, Dh)
            return cached_attention(q, *cache.append(layer, k, v), token_bias)

        def attend_frames(q: torch.Tensor) -> torch.Tensor:
            return cached_attention(q, *cache.cross_kv[layer], cache.frame_bias)

        return self._apply_sublayers(x, attend_tokens, attend_frames)


class Embeddings(nn.Module):
    """Word plus position embeddings, LayerNorm, dropout; [PAD] as an input gets no gradient, as in BERT."""

    def __init__(self, config: TextDecoderConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Ids and their positions, (…,) int each -> (…, D_txt); positions may be broadcast."""
        return self.dropout(self.LayerNorm(self.word_embeddings(input_ids) + self.position_embeddings(positions)))


class Encoder(nn.Module):
    """The stack of layers, under BERT's name for it."""

    def __init__(self, config: TextDecoderConfig, encoder_width: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(DecoderLayer(config, encoder_width) for _ in range(config.num_hidden_layers))


class Bert(nn.Module):
    """Embeddings and layers, under BERT's names."""

    def __init__(self, config: TextDecoderConfig, encoder_width: int) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config, encoder_width)


class Transform(nn.Module):
    """Dense, GELU, LayerNorm before the output layer."""

    def __init__(self, config: TextDecoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(F.gelu(self.dense(x)))


class Predictions(nn.Module):
    """Output layer; its weight is the word embeddings and its bias has two names, as in BLIP's checkpoints."""

    def __init__(self, config: TextDecoderConfig, word_embeddings: nn.Embedding) -> None:
        super().__init__()
        self.transform = Transform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.decoder.weight = word_embeddings.weight
        self.bias = self.decoder.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.transform(x))


class OutputHead(nn.Module):
    """The output layer, nested as in BERT."""

    def __init__(self, config: TextDecoderConfig, word_embeddings: nn.Embedding) -> None:
        super().__init__()
        self.predictions = Predictions(config, word_embeddings)


class TextDecoder(nn.Module):
    """BLIP's caption decoder.

    Args:
        config: sizes.
        encoder_width: D, width of the frame states that cross-attention reads.
        grad_ckpt: recompute activations in the backward pass.
        ckpt_layer: number of last layers to which `grad_ckpt` applies; 0 is all.
    Source: BLIP (Li et al., 2022), image-grounded text decoder.
    """

    def __init__(
        self, config: TextDecoderConfig, encoder_width: int, *, grad_ckpt: bool = False, ckpt_layer: int = 0
    ) -> None:
        super().__init__()
        self.config = config
        self.bert = Bert(config, encoder_width)
        self.cls = OutputHead(config, self.bert.embeddings.word_embeddings)
        self.recompute = checkpointed_layers(config.num_hidden_layers, grad_ckpt, ckpt_layer)
        self.apply(self._init_weights)
        self.register_load_state_dict_pre_hook(_drop_position_ids)

    @property
    def layers(self) -> list[DecoderLayer]:
        """The decoder layers, in order."""
        return [cast(DecoderLayer, layer) for layer in self.bert.encoder.layer]

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def forward(
        self,
        input_ids: torch.Tensor,
        queries: RaggedLayout,
        keys: RaggedLayout,
        key_rows: torch.Tensor | None,
        frames: torch.Tensor,
        frame_layout: RaggedLayout,
    ) -> torch.Tensor:
        """Compute the states of whole captions, for training.

        Args:
            input_ids: (n,) int, laid out by `queries`.
            queries: layout of the tokens whose states are computed: with padding if the smoothing is published
                (QUIRK-2).
            keys: layout of the real tokens of `queries`.
            key_rows: `keys.row_indices(queries)`, on the device.
            frames: (m, D) frame states.
            frame_layout: layout of the frames.
        Returns:
            (n, D_txt) states; `logits` converts them to scores over the vocabulary.
        """
        x = self.bert.embeddings(input_ids, queries.columns)  # (n, D_txt)
        for layer, recompute in zip(self.layers, self.recompute):
            if recompute and self.training:
                x = checkpoint(layer, x, queries, keys, key_rows, frames, frame_layout, use_reentrant=False)
            else:
                x = layer(x, queries, keys, key_rows, frames, frame_layout)
        return x

    def token_loss(
        self, states: torch.Tensor, targets: torch.Tensor, scored: torch.Tensor, smoothing_scope: str
    ) -> torch.Tensor:
        """Compute the caption loss of states (n, D_txt); see `models.losses.caption_loss`."""
        head = self.cls.predictions
        return caption_loss(head.transform(states), head.decoder.weight, head.bias, targets, scored, smoothing_scope)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """(…, D_txt) -> (…, V) logits over the vocabulary."""
        return self.cls.predictions(states)

    def start(
        self,
        prompt_ids: Sequence[int],
        frames: torch.Tensor,
        frame_mask: torch.Tensor,
        *,
        num_beams: int,
    ) -> tuple[KVCache, torch.Tensor]:
        """Process the prompt, with which all captions begin.

        Args:
            prompt_ids: P ids.
            frames: (B, T, D) frame states.
            frame_mask: (B, T) bool.
            num_beams: K.
        Returns:
            cache for `step`, and (B, V) logits of the token after the prompt.
        """
        B, P = len(frames), len(prompt_ids)
        cache = KVCache(frame_mask, num_beams, P, frames.dtype)
        for i, layer in enumerate(self.layers):
            k, v = (x.transpose(1, 2) for x in layer.crossattention.key_value(frames))  # (B, H, T, Dh)
            cache.cross_kv[i] = k.contiguous(), v.contiguous()  # contiguous per head, for the kernels of each step
        ids = to_device(torch.tensor(prompt_ids), frames.device).expand(B, P)
        causal = torch.ones(P, cache.mask.shape[2], dtype=torch.bool, device=frames.device).tril()
        return cache, self.logits(self._new_tokens(ids, P, cache, causal)[:, -1])

    def step(self, input_ids: torch.Tensor, cache: KVCache) -> torch.Tensor:
        """Process each beam's next token.

        Args:
            input_ids: (B, K) int.
            cache: from `start`; grows by one token per beam.
        Returns:
            (B, K, V) logits of the tokens after these.
        """
        return self.logits(self._new_tokens(input_ids, 1, cache, cache.reserve_slots()[:, None]))

    def _new_tokens(self, input_ids: torch.Tensor, count: int, cache: KVCache, mask: torch.Tensor) -> torch.Tensor:
        """Compute the states of `count` new tokens of each caption.

        Args:
            input_ids: (B, N) int.
            count: number of positions of the N tokens: N for the prompt, 1 for the next tokens of N beams.
            cache: grows by the tokens.
            mask: bool, slots that each token attends to, broadcast to (B, 1, N, M).
        Returns:
            (B, N, D_txt)
        """
        positions = torch.arange(cache.next_position, cache.next_position + count, device=input_ids.device)
        x = self.bert.embeddings(input_ids, positions)
        token_bias = mask_to_bias(mask, x.dtype)
        for i, layer in enumerate(self.layers):
            x = layer.step(x, i, cache, token_bias)
        cache.advance(count, input_ids.shape[1])
        return x

    def step_layers(self) -> list[nn.Linear]:
        """Return the linear layers of a decoding step: all except the keys and values of the frames."""
        cross = [layer.crossattention.self for layer in self.layers]
        frame_layers = {id(linear) for projections in cross for linear in (projections.key, projections.value)}
        return [m for m in self.modules() if isinstance(m, nn.Linear) and id(m) not in frame_layers]


def _drop_position_ids(module: nn.Module, state_dict: dict[str, torch.Tensor], prefix: str, *_: Any) -> None:
    """Ignore the constant buffer that transformers 4.15 saved in checkpoints."""
    state_dict.pop(f"{prefix}bert.embeddings.position_ids", None)
