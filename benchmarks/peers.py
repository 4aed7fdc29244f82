"""The peer of `VTSumBLIP`: the same model from timm's and transformers' modules, padded throughout.

Axes: B videos, T frames, R annotators, L text tokens, D width.
"""

import functools
import operator
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import nn
from transformers import BlipTextConfig
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

from benchmarks.workload import get_blip_decoder
from models.temporal import HEAD_WIDTH, LayerNorm
from models.vtsum_blip import VTSumBLIP


class PeerTemporalTransformer(nn.Module):
    """timm's ViT blocks, with an explicit attention mask, then a LayerNorm."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        norm_layer = cast("type[nn.Module]", LayerNorm)
        blocks = [Block(width, width // HEAD_WIDTH, qkv_bias=True, norm_layer=norm_layer) for _ in range(depth)]
        for block in blocks:
            attention: Any = block.attn
            attention.fused_attn = False
        self.blocks = nn.ModuleList(blocks)
        self.norm = LayerNorm(width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, T, D) frames and (B, T) mask -> (B, T, D)."""
        for block in self.blocks:
            x = block(x, attn_mask=mask[:, None, None, :].bool())
        return self.norm(x)


class PeerContextAggregation(nn.Module):
    """Context aggregation with a dense attention mask."""

    def __init__(self, width: int, radius: int) -> None:
        super().__init__()
        self.radius = radius
        self.heads = width // HEAD_WIDTH
        self.norm1 = LayerNorm(width)
        self.attn = nn.ModuleDict(dict(qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width)))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, T, D) frames and (B, T) mask -> (B, T, D)."""
        B, T, D = x.shape
        qkv = self.attn["qkv"](self.norm1(x)).view(B, T, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, T, Dh)
        positions = torch.arange(T, device=x.device)
        is_near = (positions[:, None] - positions).abs() <= self.radius  # (T, T)
        is_attended = is_near & mask[:, None, None, :].bool()  # (B, 1, T, T)
        weights = (q @ k.transpose(-2, -1) / HEAD_WIDTH**0.5).masked_fill(~is_attended, -1e9).softmax(-1)
        return x + self.attn["proj"]((weights @ v).transpose(1, 2).reshape(B, T, D))


def pass_frame_mask(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Forward pre-hook that passes the frame mask to cross-attention.

    transformers 5.23 passes it as `attention_mask`, which only self-attention reads.
    """
    return args, kwargs | dict(encoder_attention_mask=kwargs["attention_mask"])


class PeerModel(nn.Module):
    """VTSUM-BLIP from timm's blocks and transformers' `BlipTextLMHeadModel` (eager attention).

    Args:
        model: its weights are copied; with temporal transformer, context aggregation and both heads. Videos have at
            most 512 frames.
    """

    def __init__(self, model: VTSumBLIP) -> None:
        super().__init__()
        assert model.tt is not None and model.local_atten_head is not None
        decoder = get_blip_decoder(model)
        radius = model.local_atten_head.attn.radius
        assert radius is not None
        sizes = decoder.config
        width = model.position_embeddings.embedding_dim
        self.prompt_length = len(decoder.tokenizer.prompt_ids)
        self.position_embeddings = nn.Embedding(model.position_embeddings.num_embeddings, width)
        self.tt = PeerTemporalTransformer(width, len(model.tt.blocks))
        self.vsum_head = nn.Sequential(nn.Linear(width, 1))
        self.local_atten_head = PeerContextAggregation(width, radius)
        config = BlipTextConfig(
            vocab_size=sizes.vocab_size,
            hidden_size=sizes.hidden_size,
            encoder_hidden_size=width,
            intermediate_size=sizes.intermediate_size,
            num_hidden_layers=sizes.num_hidden_layers,
            num_attention_heads=sizes.num_attention_heads,
            max_position_embeddings=sizes.max_position_embeddings,
            layer_norm_eps=sizes.layer_norm_eps,
            hidden_dropout_prob=sizes.hidden_dropout_prob,
            attention_probs_dropout_prob=sizes.attention_probs_dropout_prob,
            is_decoder=True,
        )
        # By default the masks would be built for another attention implementation.
        self.text_decoder = BlipTextLMHeadModel._from_config(config, attn_implementation="eager")
        for layer in self.text_decoder.bert.encoder.layer:
            layer.crossattention.self.register_forward_pre_hook(pass_frame_mask, with_kwargs=True)
        self.load_state_dict(model.state_dict())

    def encode(self, embeddings: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Compute frame states (B, T, D) from frame features (B, T, D) and their mask (B, T)."""
        positions = self.position_embeddings.weight[: embeddings.shape[1]]  # (T, D)
        return self.local_atten_head(self.tt(embeddings + positions, mask) + positions, mask)

    def forward(
        self,
        embeddings: torch.Tensor,
        mask: torch.Tensor,
        labels: torch.Tensor,
        ids: torch.Tensor,
        smoothing_scope: str,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute both training losses.

        Args:
            embeddings: (B, T, D) float.
            mask: (B, T), 1 = real frame.
            labels: (B, R, T) in {0, 1}.
            ids: (B, L) int, padded with 0.
            smoothing_scope: see `models.losses.caption_loss`.
        Returns:
            loss_tsum, loss_vsum: () float each.
        """
        frames = self.encode(embeddings, mask)
        saliency = self.vsum_head(frames)[..., 0]  # (B, T)
        losses = [
            F.binary_cross_entropy_with_logits(saliency, annotator.float(), weight=mask)
            for annotator in labels.unbind(1)
        ]
        loss_vsum = functools.reduce(operator.add, losses) / len(losses)
        attention_mask = (ids != 0).long()
        logits = self.text_decoder(
            input_ids=ids,
            attention_mask=attention_mask,
            encoder_hidden_states=frames,
            encoder_attention_mask=mask.long(),
            is_decoder=True,
        ).logits[:, :-1]  # (B, L - 1, V)
        targets = ids[:, 1:].masked_fill(attention_mask[:, 1:] == 0, -100)
        targets[:, : self.prompt_length - 1] = -100
        if smoothing_scope == "scored":
            return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=0.1), loss_vsum
        log_probs = logits.log_softmax(-1)
        likelihood = F.nll_loss(log_probs.flatten(0, 1), targets.flatten())
        return 0.9 * likelihood - 0.1 * log_probs.mean(), loss_vsum

    @torch.no_grad()
    def generate(
        self,
        embeddings: torch.Tensor,
        mask: torch.Tensor,
        prompt_ids: Sequence[int],
        *,
        num_beams: int,
        max_length: int,
        min_length: int,
        end_id: int,
        pad_id: int,
    ) -> torch.Tensor:
        """Search captions with transformers' `generate`.

        Args:
            embeddings: (B, T, D) float.
            mask: (B, T), 1 = real frame.
            prompt_ids: ids that every caption begins with.
            num_beams: K.
            max_length: limit in tokens, prompt included.
            min_length: [SEP] is forbidden below this many tokens, prompt included.
            end_id: id of [SEP].
            pad_id: id of [PAD].
        Returns:
            (B, n) int.
        """
        frames = self.encode(embeddings, mask)
        return self.text_decoder.generate(
            torch.tensor([prompt_ids] * len(frames), device=frames.device),
            encoder_hidden_states=frames,
            encoder_attention_mask=mask.long(),
            num_beams=num_beams,
            max_length=max_length,
            min_length=min_length,
            eos_token_id=end_id,
            pad_token_id=pad_id,
            do_sample=False,
        )
