"""VTSUM-BLIP: frame features -> key-frame saliency and a caption.

Axes: B videos, T frames (1 fps, padded), R annotators, D width (768 base, 1024 large), L text tokens.
"""

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import nn

from models.caption_decoder import CaptionDecoder, CaptionDecoderOptions, Captions, GenerationOptions
from models.decoder_registry import CAPTION_DECODERS
from models.losses import KEYFRAME_LOSSES, SMOOTHING_SCOPES
from models.ragged import RaggedLayout, exclude_attention_from_compilation, to_device
from models.temporal import HEAD_WIDTH, ContextAggregation, TemporalTransformer, interpolate_positions
from models.weights import POSITION_INITS, load_weights
from utils.encoder_names import FEATURE_WIDTHS

logger = logging.getLogger(__name__)

PROJECTED_WIDTH = FEATURE_WIDTHS["base"]  # that BLIP's cross-attention is trained with
NUM_POSITIONS = 512
ARCHITECTURES = ("vtsum_blip_tt", "vtsum_blip_tt_ca")
TASKS = ("v2vt", "v2v", "v2t")


class VTSumBLIP(nn.Module):
    """Temporal transformer, optional context aggregation, saliency head and caption decoder.

    Args:
        width: D, a multiple of 64.
        tt_depth: blocks of the temporal transformer; 0: no temporal transformer, and the position table is added once.
        kernel_size: window of the context aggregation in frames; None: no context aggregation.
        caption_decoder: builds the caption decoder from D; None: no decoder (task v2v).
        saliency_head: False: no saliency head (task v2t).
        loss_type: key-frame loss, a key of `models.losses.KEYFRAME_LOSSES`.
        grad_ckpt: recompute activations of the temporal transformer in the backward pass.
        ckpt_layer: number of its last layers to which `grad_ckpt` applies; 0 is all.
        feature_width: width of the frame features if a linear layer projects them to `width`; None: not projected.
    Source: VideoXum (Lin et al., 2023) and its released implementation.
    """

    def __init__(
        self,
        *,
        width: int,
        tt_depth: int,
        kernel_size: int | None = None,
        caption_decoder: Callable[[int], CaptionDecoder] | None = None,
        saliency_head: bool = True,
        loss_type: str = "cross_entropy",
        grad_ckpt: bool = False,
        ckpt_layer: int = 0,
        feature_width: int | None = None,
    ) -> None:
        super().__init__()
        self.keyframe_loss = KEYFRAME_LOSSES[loss_type]
        self.position_embeddings = nn.Embedding(NUM_POSITIONS, width)  # N(0, 1), PyTorch's default, as published
        self.tt = None
        if tt_depth:
            self.tt = TemporalTransformer(width, tt_depth, grad_ckpt=grad_ckpt, ckpt_layer=ckpt_layer)
        self.vsum_head = None
        if saliency_head:
            head = nn.Linear(width, 1)  # the bias keeps PyTorch's default, U(-1 / √D, 1 / √D), as published
            nn.init.normal_(head.weight, std=0.02)
            self.vsum_head = nn.Sequential(head)
        self.local_atten_head = None if kernel_size is None else ContextAggregation(width, kernel_size)
        self.text_decoder = None if caption_decoder is None else caption_decoder(width)
        self.feature_projection = None if feature_width is None else nn.Linear(feature_width, width)

    def position_table(self, T: int) -> torch.Tensor:
        """Return T rows of the position table: (T, D).

        Above 512 frames, the whole table is interpolated bicubically to T rows. T is the batch's padded length:
        shorter videos of the batch get interpolated rows too (QUIRK-5).
        """
        return interpolate_positions(self.position_embeddings.weight, T)

    def encode(self, video_embeddings: torch.Tensor, video_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute frame states from frame features.

        Args:
            video_embeddings: (B, T, D) float, frame features at 1 fps (with a feature projection, of their own width).
            video_mask: (B, T), 1 = real frame; padding comes last. A mask on the host avoids a host sync.
        Returns:
            (B, T, D) states, 0 at padding, and the mask as bool on the states' device.
        Raises:
            ValueError: the shapes do not fit each other, or padding comes before a real frame.
        """
        frame_layout = to_device(_frame_layout(video_embeddings, video_mask), video_embeddings.device)
        return frame_layout.unpack(self._encode(video_embeddings, frame_layout)), frame_layout.mask

    def _encode(self, video_embeddings: torch.Tensor, frame_layout: RaggedLayout) -> torch.Tensor:
        """(B, T, D) frame features, laid out by `frame_layout` on their device -> (n, D) states of the real frames."""
        positions = F.embedding(frame_layout.columns, self.position_table(frame_layout.size))  # (n, D)
        x = frame_layout.pack(video_embeddings)  # (n, feature width)
        if self.feature_projection is not None:
            x = self.feature_projection(x)  # (n, D)
        x = x + positions
        if self.tt is not None:
            x = self.tt(x, frame_layout) + positions  # QUIRK-3: the table is added a second time
        if self.local_atten_head is not None:
            x = self.local_atten_head(x, frame_layout)  # QUIRK-8: also input of the caption decoder
        return x

    def _saliency(self, frames: torch.Tensor, frame_layout: RaggedLayout) -> torch.Tensor | None:
        """(n, D) states -> (B, T) float logits, 0 at padding; None without a saliency head."""
        return None if self.vsum_head is None else frame_layout.unpack(self.vsum_head(frames)[:, 0].float())

    def forward(
        self,
        video_embeddings: torch.Tensor,
        video_mask: torch.Tensor,
        vsum_labels: torch.Tensor,
        tsum_labels: Captions,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Compute the training losses.

        Args:
            video_embeddings: (B, T, D) float.
            video_mask: (B, T), 1 = real frame; see `encode`.
            vsum_labels: (B, R, T) in {0, 1}, or graded in [0, 1]; NaN for an annotator that a video does not have.
            tsum_labels: B captions that begin with the prompt, or their ids: B lists of ids, or (B, L) int padded with
                [PAD], preferably on the host; see `CaptionDecoder.loss`.
        Returns:
            loss_tsum, loss_vsum: () float each; None without the caption decoder or the saliency head.
        Raises:
            ValueError: the shapes, or the number of captions, do not fit each other.
        """
        frame_layout, captions = _frame_layout(video_embeddings, video_mask), None
        if self.text_decoder is not None:
            if len(tsum_labels) != len(video_mask):
                raise ValueError(f"tsum_labels: found {len(tsum_labels)} captions, expected {len(video_mask)}")
            captions = self.text_decoder.prepare_captions(tsum_labels)
        frame_layout, captions = to_device((frame_layout, captions), video_embeddings.device)
        frames = self._encode(video_embeddings, frame_layout)
        loss_tsum = loss_vsum = None
        saliency = self._saliency(frames, frame_layout)
        if saliency is not None:
            loss_vsum = self.keyframe_loss(saliency, vsum_labels, frame_layout.mask.to(saliency.dtype))
        if self.text_decoder is not None:
            loss_tsum = self.text_decoder.loss(frames, frame_layout, captions)
        return loss_tsum, loss_vsum

    def compile_layers(self) -> None:
        """Compile the layers by torch.compile at their first call; parameters keep their names."""
        exclude_attention_from_compilation()
        if self.tt is not None:
            for block in self.tt.blocks:
                block.compile(dynamic=True)
        if self.text_decoder is not None:
            self.text_decoder.compile_layers()

    @torch.no_grad()
    def generate(
        self,
        video_embeddings: torch.Tensor,
        video_mask: torch.Tensor,
        sample: bool = False,
        num_beams: int = 3,
        max_length: int = 30,
        min_length: int = 10,
        top_p: float = 0.9,
        repetition_penalty: float | None = None,
    ) -> tuple[list[str] | None, torch.Tensor | None]:
        """Generate captions and predict saliency; dropout is disabled, also in training mode.

        Args:
            video_embeddings: (B, T, D) float.
            video_mask: (B, T), 1 = real frame.
            sample: nucleus sampling from torch's global generator instead of beam search.
            num_beams: K.
            max_length: limit of a caption in tokens, prompt included.
            min_length: the end token is forbidden below this many tokens, prompt included.
            top_p: total probability of the tokens to sample from, of the 50 most likely ones.
            repetition_penalty: > 1 makes repeated tokens less likely; None is 1.0 for beam search, 1.1 for sampling.
        Returns:
            captions: B strings without the prompt; None without a decoder.
            saliency: (B·T,) logits, video after video, 0 at padding; None without a saliency head.
        """
        if repetition_penalty is None:
            repetition_penalty = 1.1 if sample else 1.0
        with _without_dropout(self):
            frame_layout = to_device(_frame_layout(video_embeddings, video_mask), video_embeddings.device)
            frames = self._encode(video_embeddings, frame_layout)
            saliency = self._saliency(frames, frame_layout)
            saliency = None if saliency is None else saliency.view(-1)  # (B·T,)
            if self.text_decoder is None:
                return None, saliency
            options = GenerationOptions(
                sample=sample,
                num_beams=num_beams,
                max_length=max_length,
                min_length=min_length,
                top_p=top_p,
                repetition_penalty=repetition_penalty,
            )
            captions = self.text_decoder.generate(frame_layout.unpack(frames), frame_layout.mask, options)
        return captions, saliency

    def decode(self, ids: torch.Tensor | Iterable[Iterable[int]]) -> list[str]:
        """Convert id sequences (B, n), or lists of ids, to B captions without special tokens and prompt."""
        assert self.text_decoder is not None, "the task v2v has no caption decoder"
        return self.text_decoder.decode(ids)


def _frame_layout(video_embeddings: torch.Tensor, video_mask: torch.Tensor) -> RaggedLayout:
    """Build the layout of the real frames, on the host, and check the shapes of features and mask."""
    if video_embeddings.ndim != 3 or video_mask.shape != video_embeddings.shape[:2]:
        shapes = f"{tuple(video_embeddings.shape)} and {tuple(video_mask.shape)}"
        raise ValueError(f"video_embeddings, video_mask: found shapes {shapes}, expected (B, T, D) and (B, T)")
    return RaggedLayout.from_mask(video_mask, "video_mask")


@contextlib.contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def v2vt_sum(
    version: str,
    pretrained: str | os.PathLike = "",
    *,
    tt_depth: int = 1,
    kernel_size: int = 5,
    loss_type: str = "cross_entropy",
    vit: str = "base",
    prompt: str = "a video of ",
    max_text_length: int = 128,
    med_config: str | os.PathLike = "configs/med_config.json",
    tokenizer: str | os.PathLike = "bert-base-uncased",
    task: str = "v2vt",
    smoothing_scope: str = "published",
    vit_grad_ckpt: bool = False,
    vit_ckpt_layer: int = 0,
    position_init: str = "blip",
    feature_width: int = 0,
    feature_projection: bool = False,
    decoder: str = "blip",
    decoder_path: str | os.PathLike = "",
    decoder_train: str = "projector",
    decoder_lora_rank: int = 16,
) -> VTSumBLIP:
    """Build a VTSUM-BLIP model and load its weights.

    Args:
        version: `vtsum_blip_tt` or `vtsum_blip_tt_ca`.
        pretrained: checkpoint of BLIP or of VTSUM-BLIP (path or URL); "" is random initialization.
        tt_depth: blocks of the temporal transformer; 0: none, see `VTSumBLIP`.
        kernel_size: window of the context aggregation in frames, `kernel_size // 2` to each side, so that an even
            number has the window of the next odd one; `vtsum_blip_tt` ignores it.
        loss_type: key-frame loss, a key of `models.losses.KEYFRAME_LOSSES`.
        vit: `base` (D = 768) or `large` (D = 1024), the width of the frame features if `feature_width` is 0.
        prompt: text that every caption begins with.
        max_text_length: truncate training captions to this many tokens, prompt and [SEP] included.
        med_config: JSON file with the decoder's sizes; a relative path is also resolved against the repository.
        tokenizer: hub name, or folder with `vocab.txt` or `tokenizer.json`.
        task: `v2vt`, `v2v` (saliency head only) or `v2t` (caption decoder only).
        smoothing_scope: `published` or `scored`, see `models.losses.caption_loss`.
        vit_grad_ckpt: recompute activations in the backward pass: same result, less memory.
        vit_ckpt_layer: number of last layers of each stack to which `vit_grad_ckpt` applies; 0 is all.
        position_init: frames' position table if `pretrained` is of BLIP: `blip` or `normal`, see `load_weights`.
        feature_width: D of the frame features, a multiple of 64 unless they are projected.
        feature_projection: project the frame features to 768 columns by a linear layer.
        decoder: caption decoder, a key of `models.decoder_registry.CAPTION_DECODERS`; for `blip`, see med_config,
            tokenizer and smoothing_scope.
        decoder_path: hub name or folder of the language model of `causal_lm`.
        decoder_train: what `causal_lm` trains: `projector`, `lora` or `all`, see `models.causal_lm`.
        decoder_lora_rank: rank of the LoRA matrices.
    Returns:
        `VTSumBLIP` in training mode.
    Raises:
        ValueError, FileNotFoundError: an argument is not one of the above, or a file does not fit.
    """
    _require_choice("version", version, ARCHITECTURES)
    _require_choice("loss_type", loss_type, KEYFRAME_LOSSES)
    _require_choice("vit", vit, FEATURE_WIDTHS)
    _require_choice("task", task, TASKS)
    _require_choice("smoothing_scope", smoothing_scope, SMOOTHING_SCOPES)
    _require_choice("position_init", position_init, POSITION_INITS)
    _require_integer("tt_depth", tt_depth, 0)
    _require_integer("kernel_size", kernel_size, 1)
    if version == "vtsum_blip_tt_ca" and kernel_size % 2 == 0:
        logger.warning(
            "kernel_size: found %d, which equals %d: the window has %d frames to each side; expected an odd number",
            kernel_size,
            kernel_size + 1,
            kernel_size // 2,
        )
    _require_integer("feature_width", feature_width, 0)
    feature_width = feature_width or FEATURE_WIDTHS[vit]
    if feature_width % HEAD_WIDTH and not feature_projection:
        raise ValueError(
            f"feature_width: found {feature_width}, expected a multiple of {HEAD_WIDTH}, the width of a head; "
            "feature_projection: true projects the frame features to another width"
        )
    _require_choice("decoder", decoder, CAPTION_DECODERS)
    options = CaptionDecoderOptions(
        prompt=prompt,
        max_text_length=max_text_length,
        grad_ckpt=vit_grad_ckpt,
        ckpt_layer=vit_ckpt_layer,
        med_config=med_config,
        tokenizer=tokenizer,
        smoothing_scope=smoothing_scope,
        path=decoder_path,
        train=decoder_train,
        lora_rank=decoder_lora_rank,
    )
    model = VTSumBLIP(
        width=PROJECTED_WIDTH if feature_projection else feature_width,
        tt_depth=tt_depth,
        kernel_size=kernel_size if version == "vtsum_blip_tt_ca" else None,
        caption_decoder=None if task == "v2v" else functools.partial(CAPTION_DECODERS[decoder], options),
        saliency_head=task != "v2t",
        loss_type=loss_type,
        grad_ckpt=vit_grad_ckpt,
        ckpt_layer=vit_ckpt_layer,
        feature_width=feature_width if feature_projection else None,
    )
    if pretrained:
        load_weights(model, pretrained, position_init=position_init)
    return model


def _require_choice(name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: found {value!r}, expected one of {', '.join(choices)}")


def _require_integer(name: str, value: int, minimum: int) -> None:
    if not isinstance(value, int) or not minimum <= value <= 2**31:
        raise ValueError(f"{name}: found {value!r}, expected an integer, at least {minimum}")
