"""What the project is measured against: the same model put together from other libraries' parts, padded throughout."""

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import nn
from transformers import BlipTextConfig
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

from models.temporal import LayerNorm


class PeerContext(nn.Module):
    """Context aggregation with a dense table of who sees whom."""

    def __init__(self, width, radius):
        super().__init__()
        self.radius, self.heads = radius, width // 64
        self.norm1 = LayerNorm(width)
        self.attn = nn.ModuleDict(dict(qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width)))

    def forward(self, x, mask):
        B, T, D = x.shape
        q, k, v = self.attn["qkv"](self.norm1(x)).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        places = torch.arange(T, device=x.device)
        seen = ((places[:, None] - places).abs() <= self.radius) & mask[:, None, None, :].bool()
        scores = (q @ k.transpose(-2, -1) / 8).masked_fill(~seen, -1e9).softmax(-1)
        return x + self.attn["proj"]((scores @ v).transpose(1, 2).reshape(B, T, D))


def pass_frame_mask(module, args, kwargs):
    """Hand cross-attention its mask: transformers 5.23 passes it under the name that only self-attention reads."""
    return args, kwargs | dict(encoder_attention_mask=kwargs["attention_mask"])


class Peer(nn.Module):
    """VTSUM-BLIP from timm's blocks and transformers' `BlipTextLMHeadModel` (eager attention).

    Takes the weights of a `VTSumBLIP`; videos up to 512 frames.
    """

    def __init__(self, model):
        super().__init__()
        sizes, width = model.text_decoder.config, model.position_embeddings.embedding_dim
        self.prompt_length = len(model.tokenizer.prompt_ids)
        self.position_embeddings = nn.Embedding(*model.position_embeddings.weight.shape)
        self.tt = nn.Module()
        self.tt.blocks = nn.ModuleList(
            Block(width, width // 64, qkv_bias=True, norm_layer=LayerNorm) for _ in model.tt.blocks
        )
        self.tt.norm = LayerNorm(width)
        for block in self.tt.blocks:
            block.attn.fused_attn = False
        self.vsum_head = nn.Sequential(nn.Linear(width, 1))
        self.local_atten_head = PeerContext(width, model.local_atten_head.attn.radius)
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
        # Without the name, its masks would be made for another kind of attention than the one it has.
        self.text_decoder = BlipTextLMHeadModel._from_config(config, attn_implementation="eager")
        for layer in self.text_decoder.bert.encoder.layer:
            layer.crossattention.self.register_forward_pre_hook(pass_frame_mask, with_kwargs=True)
        self.load_state_dict(model.state_dict())

    def encode(self, embeddings, mask):
        """Frame features (B, T, D) -> frame states."""
        positions = self.position_embeddings.weight[: embeddings.shape[1]]
        x = embeddings + positions
        for block in self.tt.blocks:
            x = block(x, attn_mask=mask[:, None, None, :].bool())
        return self.local_atten_head(self.tt.norm(x) + positions, mask)

    def forward(self, embeddings, mask, labels, ids, smoothing_scope):
        """Compute both losses, with `labels` (B, R, T) annotator by annotator."""
        frames = self.encode(embeddings, mask)
        saliency = self.vsum_head(frames)[..., 0]
        losses = [F.binary_cross_entropy_with_logits(saliency, row.float(), weight=mask) for row in labels.unbind(1)]
        attention = (ids != 0).long()
        logits = self.text_decoder(
            input_ids=ids,
            attention_mask=attention,
            encoder_hidden_states=frames,
            encoder_attention_mask=mask.long(),
            is_decoder=True,
        ).logits[:, :-1]
        targets = ids[:, 1:].masked_fill(attention[:, 1:] == 0, -100)
        targets[:, : self.prompt_length - 1] = -100
        if smoothing_scope == "scored":
            return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=0.1), sum(losses) / len(
                losses
            )
        log_probs = logits.log_softmax(-1)
        likelihood = F.nll_loss(log_probs.flatten(0, 1), targets.flatten())
        return 0.9 * likelihood - 0.1 * log_probs.mean(), sum(losses) / len(losses)

    @torch.no_grad()
    def generate(self, embeddings, mask, prompt_ids, *, num_beams, max_length, min_length, end_id, pad_id):
        """Search captions with transformers' own `generate`: (B, n) int."""
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
