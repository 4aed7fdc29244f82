"""BLIP's caption decoder: BERT with causal self-attention and cross-attention to the frames.

Parameter names are those of BLIP's checkpoints (and of transformers' `BlipTextLMHeadModel`).
Axes: B videos, K beams, L text tokens, T frames, H heads, Dh head width, D_txt text width.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from models.temporal import recomputed_layers


class Cache:
    """Keys and values of one decoding run.

    Self-attention keys and values lie in buffers of the final length, one row per beam; those of cross-attention
    are computed once per video and shared by its beams.
    """

    def __init__(self, max_length):
        self.max_length = max_length
        self.length = 0
        self.self_kv = {}  # layer -> (2, rows, H, max_length, Dh)
        self.cross_kv = {}  # layer -> (key, value), each (B, H, T, Dh)

    def append(self, layer, k, v):
        """Store keys and values of new tokens, (rows, H, new, Dh) each; return all so far."""
        if layer not in self.self_kv:
            rows, heads, _, width = k.shape
            self.self_kv[layer] = k.new_zeros(2, rows, heads, self.max_length, width)
        end = self.length + k.shape[2]
        buffer = self.self_kv[layer]
        buffer[0, :, :, self.length : end] = k
        buffer[1, :, :, self.length : end] = v
        return buffer[0, :, :, :end], buffer[1, :, :, :end]

    def reorder(self, rows):
        """Keep row `rows[i]` of the self-attention buffers as row i; `rows` may repeat (that is how beams start)."""
        for layer, buffer in self.self_kv.items():
            if len(rows) != buffer.shape[1]:
                self.self_kv[layer] = buffer[:, rows]
            else:
                buffer[:, :, :, : self.length] = buffer[:, rows, :, : self.length]


def split_heads(x, heads):
    """(B, N, H·Dh) -> (B, H, N, Dh)."""
    return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


class QueryKeyValue(nn.Module):
    """The three projections of an attention, under the names of BERT's `self` module."""

    def __init__(self, width, key_width):
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(key_width, width)
        self.value = nn.Linear(key_width, width)


class AddNorm(nn.Module):
    """Post-norm residual: LayerNorm(residual + dropout(dense(x)))."""

    def __init__(self, in_width, config):
        super().__init__()
        self.dense = nn.Linear(in_width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x, residual):
        return self.LayerNorm(residual + self.dropout(self.dense(x)))


class Attention(nn.Module):
    """Multi-head attention with its output layer, residual and norm."""

    def __init__(self, config, key_width):
        super().__init__()
        self.self = QueryKeyValue(config.hidden_size, key_width)
        self.output = AddNorm(config.hidden_size, config)
        self.num_heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob

    def key_value(self, states):
        """(B, N, key width) -> keys and values, (B, H, N, Dh) each."""
        return split_heads(self.self.key(states), self.num_heads), split_heads(self.self.value(states), self.num_heads)

    def forward(self, x, k, v, mask=None):
        """Attend from x to k, v.

        Args:
            x: (rows, N, D_txt). With more rows than k has, each row of k serves rows / len(k) rows of x in turn.
            k, v: (B, H, M, Dh).
            mask: bool, broadcast to (B, H, N, M), True = seen; None sees all.
        Returns:
            (rows, N, D_txt)
        """
        rows, n, width = x.shape
        q = self.self.query(x).view(len(k), -1, width)  # (B, rows / B * N, D_txt): the beams of a video side by side
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(
            split_heads(q, self.num_heads), k, v, attn_mask=mask, dropout_p=dropout
        )  # (B, H, rows / B * N, Dh)
        return self.output(out.transpose(1, 2).reshape(rows, n, width), x)


class Dense(nn.Module):
    """A lone linear layer that BERT keeps one level down."""

    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention to the frames, feed-forward; each followed by its norm."""

    def __init__(self, config, encoder_width):
        super().__init__()
        self.attention = Attention(config, config.hidden_size)
        self.crossattention = Attention(config, encoder_width)
        self.intermediate = Dense(config)
        self.output = AddNorm(config.intermediate_size, config)

    def forward(self, x, self_kv, self_mask, cross_kv, cross_mask):
        x = self.attention(x, *self_kv, self_mask)
        x = self.crossattention(x, *cross_kv, cross_mask)
        return self.output(F.gelu(self.intermediate.dense(x)), x)

    def train_forward(self, x, self_mask, frames, frame_mask):
        """One layer over whole captions, without a cache; what activation checkpointing recomputes."""
        return self(x, self.attention.key_value(x), self_mask, self.crossattention.key_value(frames), frame_mask)


class Embeddings(nn.Module):
    """Word plus position embeddings, LayerNorm, dropout; [PAD] as an input gets no gradient, as in BERT."""

    def __init__(self, config):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids, first_position):
        stop = first_position + input_ids.shape[1]
        positions = self.position_embeddings.weight[first_position:stop]  # (L, D_txt)
        return self.dropout(self.LayerNorm(self.word_embeddings(input_ids) + positions))


class Encoder(nn.Module):
    """The stack of layers, under BERT's name for it."""

    def __init__(self, config, encoder_width):
        super().__init__()
        self.layer = nn.ModuleList(DecoderLayer(config, encoder_width) for _ in range(config.num_hidden_layers))


class Bert(nn.Module):
    def __init__(self, config, encoder_width):
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config, encoder_width)


class Transform(nn.Module):
    """Dense, GELU, LayerNorm before the output layer."""

    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x):
        return self.LayerNorm(F.gelu(self.dense(x)))


class Predictions(nn.Module):
    """Output layer; its weight is the word embeddings and its bias has two names, as in BLIP's checkpoints."""

    def __init__(self, config, word_embeddings):
        super().__init__()
        self.transform = Transform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        self.decoder.weight = word_embeddings.weight
        self.bias = self.decoder.bias

    def forward(self, x):
        return self.decoder(self.transform(x))


class OutputHead(nn.Module):
    def __init__(self, config, word_embeddings):
        super().__init__()
        self.predictions = Predictions(config, word_embeddings)


class TextDecoder(nn.Module):
    """BLIP's caption decoder.

    Args:
        config: `TextDecoderConfig`.
        encoder_width: D, width of the frame states that cross-attention reads.
        grad_ckpt, ckpt_layer: recompute activations in the backward pass, of the last `ckpt_layer` layers if > 0.
    Source: BLIP (Li et al., 2022), image-grounded text decoder.
    """

    def __init__(self, config, encoder_width, *, grad_ckpt=False, ckpt_layer=0):
        super().__init__()
        self.config = config
        self.bert = Bert(config, encoder_width)
        self.cls = OutputHead(config, self.bert.embeddings.word_embeddings)
        self.recompute = recomputed_layers(config.num_hidden_layers, grad_ckpt, ckpt_layer)
        self.apply(self._init_weights)

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def forward(self, input_ids, attention_mask, frames, frame_mask):
        """Run whole captions for training.

        Args:
            input_ids: (B, L) int.
            attention_mask: (B, L) bool, True = real token; padding is hidden from every query, padded ones too.
            frames: (B, T, D) frame states.
            frame_mask: (B, T) bool.
        Returns:
            (B, L, D_txt) states; `logits` turns them into scores over the vocabulary.
        """
        L = input_ids.shape[1]
        causal = torch.ones(L, L, dtype=torch.bool, device=input_ids.device).tril()
        self_mask = causal & attention_mask[:, None, None, :]  # (B, 1, L, L)
        cross_mask = frame_mask[:, None, None, :]  # (B, 1, 1, T)
        x = self.bert.embeddings(input_ids, 0)  # (B, L, D_txt)
        for layer, recompute in zip(self.bert.encoder.layer, self.recompute):
            if recompute and self.training:
                x = checkpoint(layer.train_forward, x, self_mask, frames, cross_mask, use_reentrant=False)
            else:
                x = layer.train_forward(x, self_mask, frames, cross_mask)
        return x

    def logits(self, states):
        """(…, D_txt) -> (…, V) scores over the vocabulary."""
        return self.cls.predictions(states)

    def start(self, frames, max_length):
        """Open a cache for decoding at most `max_length` tokens against frames (B, T, D)."""
        cache = Cache(max_length)
        for i, layer in enumerate(self.bert.encoder.layer):
            cache.cross_kv[i] = layer.crossattention.key_value(frames)
        return cache

    def step(self, input_ids, cache, frame_mask):
        """Feed the next tokens and score what follows the last of them.

        Args:
            input_ids: (rows, N) int, the tokens that follow those in the cache; rows = B, or B·K with the K
                beams of a video side by side. All rows have the same length.
            cache: from `start`; grows by N.
            frame_mask: (B, T) bool.
        Returns:
            (rows, V) logits.
        """
        N = input_ids.shape[1]
        x = self.bert.embeddings(input_ids, cache.length)
        self_mask = None
        if N > 1:
            self_mask = torch.ones(N, cache.length + N, dtype=torch.bool, device=x.device).tril(cache.length)
        cross_mask = frame_mask[:, None, None, :]
        for i, layer in enumerate(self.bert.encoder.layer):
            self_kv = cache.append(i, *layer.attention.key_value(x))
            x = layer(x, self_kv, self_mask, cache.cross_kv[i], cross_mask)
        cache.length += N
        return self.logits(x[:, -1])
