"""BLIP's caption decoder: BERT with causal self-attention and cross-attention to the frames.

Parameter names are those of BLIP's checkpoints (and of transformers' `BlipTextLMHeadModel`).
Axes: B videos, K beams, L text tokens, T frames, H heads, Dh head width, D_txt text width.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from models import ragged
from models.cache import Cache, attend_few, bias_of
from models.losses import caption_loss
from models.ragged import take_rows, to_device
from models.temporal import recomputed_layers


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

    def heads(self, x):
        """(…, D_txt) -> (…, H, Dh)."""
        return x.unflatten(-1, (self.num_heads, -1))

    def key_value(self, states):
        """(…, key width) -> keys and values, (…, H, Dh) each."""
        return self.heads(self.self.key(states)), self.heads(self.self.value(states))

    def forward(self, x, attend):
        """x (…, D_txt) -> (…, D_txt); `attend` turns queries (…, H, Dh) into what they find, (…, H, Dh)."""
        return self.output(attend(self.heads(self.self.query(x))).flatten(-2), x)


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

    def _through(self, x, attend_tokens, attend_frames):
        x = self.attention(x, attend_tokens)
        x = self.crossattention(x, attend_frames)
        return self.output(F.gelu(self.intermediate.dense(x)), x)

    def forward(self, x, queries, keys, key_rows, frames, videos):
        """One layer over whole captions, as `TextDecoder.forward`; `key_rows` names the rows of x that are keys."""
        k, v = self.attention.key_value(x if key_rows is None else take_rows(x, key_rows))
        frame_k, frame_v = self.crossattention.key_value(frames)
        dropout = self.attention.dropout if self.training else 0.0

        def attend_tokens(q):
            return ragged.attend(q, k, v, queries, keys, causal=True, dropout=dropout)

        def attend_frames(q):
            return ragged.attend(q, frame_k, frame_v, queries, videos, dropout=dropout)

        return self._through(x, attend_tokens, attend_frames)

    def step(self, x, number, cache, token_bias):
        """One layer, the `number`-th, over new tokens (B, N, D_txt), as `TextDecoder.step`."""

        def attend_tokens(q):
            k, v = (each.transpose(1, 2) for each in self.attention.key_value(x))
            return attend_few(q, *cache.append(number, k, v), token_bias)

        def attend_frames(q):
            return attend_few(q, *cache.cross_kv[number], cache.frame_bias)

        return self._through(x, attend_tokens, attend_frames)


class Embeddings(nn.Module):
    """Word plus position embeddings, LayerNorm, dropout; [PAD] as an input gets no gradient, as in BERT."""

    def __init__(self, config):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids, positions):
        """Ids and their positions, (…,) int each -> (…, D_txt); positions may be broadcast."""
        return self.dropout(self.LayerNorm(self.word_embeddings(input_ids) + self.position_embeddings(positions)))


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

    def forward(self, input_ids, queries, keys, frames, videos):
        """Run whole captions for training.

        Args:
            input_ids: (n,) int, laid out as `queries` says.
            queries: `Ragged`, the tokens whose states are wanted; with the published smoothing padding is among them.
            keys: `Ragged`, the real ones among these: padding is hidden from every query, padded ones too.
            frames: (m, D) frame states.
            videos: `Ragged`, which of them belong together.
        Returns:
            (n, D_txt) states; `logits` turns them into scores over the vocabulary.
        """
        key_rows = keys.inside(queries)
        x = self.bert.embeddings(input_ids, queries.columns)  # (n, D_txt)
        for layer, recompute in zip(self.bert.encoder.layer, self.recompute):
            if recompute and self.training:
                x = checkpoint(layer, x, queries, keys, key_rows, frames, videos, use_reentrant=False)
            else:
                x = layer(x, queries, keys, key_rows, frames, videos)
        return x

    def loss(self, states, targets, scored, smoothing_scope):
        """Caption loss of states (n, D_txt), without ever holding their scores: see `models.losses.caption_loss`."""
        head = self.cls.predictions
        return caption_loss(head.transform(states), head.decoder.weight, head.bias, targets, scored, smoothing_scope)

    def logits(self, states):
        """(…, D_txt) -> (…, V) scores over the vocabulary."""
        return self.cls.predictions(states)

    def start(self, prompt_ids, frames, frame_mask, *, num_beams, max_length):
        """Read the prompt, which all captions begin with.

        Args:
            prompt_ids: list of P ids.
            frames: (B, T, D) frame states.
            frame_mask: (B, T) bool.
            num_beams: K.
            max_length: tokens that a caption may have, prompt included.
        Returns:
            cache for `step`, and (B, V) logits of what follows the prompt.
        """
        B, P = len(frames), len(prompt_ids)
        cache = Cache(frame_mask, num_beams, P, max_length, frames.dtype)
        for i, layer in enumerate(self.bert.encoder.layer):
            # In one piece per head, as the kernels read it at each step.
            cache.cross_kv[i] = tuple(x.transpose(1, 2).contiguous() for x in layer.crossattention.key_value(frames))
        ids = to_device(torch.tensor(prompt_ids), frames.device).expand(B, P)
        causal = torch.ones(P, P, dtype=torch.bool, device=frames.device).tril()
        return cache, self.logits(self._new_tokens(ids, P, cache, causal)[:, -1])

    def step(self, input_ids, cache):
        """Feed each beam's next token and score what follows it.

        Args:
            input_ids: (B, K) int.
            cache: from `start`; grows by one token per beam.
        Returns:
            (B, K, V) logits.
        """
        return self.logits(self._new_tokens(input_ids, 1, cache, cache.open_places()[:, None]))

    def _new_tokens(self, input_ids, count, cache, seen):
        """Run `count` new tokens of each caption, (B, N) ids, which see `seen` of the places: (B, N, D_txt)."""
        positions = torch.arange(cache.position, cache.position + count, device=input_ids.device)
        x = self.bert.embeddings(input_ids, positions)
        token_bias = bias_of(seen, x.dtype)
        for i, layer in enumerate(self.bert.encoder.layer):
            x = layer.step(x, i, cache, token_bias)
        cache.advance(count, input_ids.shape[1])
        return x

    def step_layers(self):
        """The linear layers that each step of decoding runs through."""
        once = {id(m) for layer in self.bert.encoder.layer for m in layer.crossattention.self.children()}
        once -= {id(layer.crossattention.self.query) for layer in self.bert.encoder.layer}
        return [m for m in self.modules() if isinstance(m, nn.Linear) and id(m) not in once]
