"""A causal language model of transformers as the caption decoder: a prefix of frame states, then prompt and caption.

Each video is one sequence: [BOS] if the tokenizer uses one, a projection of the video's frame states, the prompt, the
caption, EOS. Batches are padded on the left, in training as in generation; positions are counted from the first real
element, so that padding changes nothing.

transformers and peft are imported lazily.
Axes: B videos, T frames, D width of the frame states, E width of the language model, L text tokens, N elements.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from models.caption_decoder import CaptionDecoderOptions, Captions, GenerationOptions
from models.ragged import RaggedLayout, to_device
from models.temporal import checkpointed_layers
from models.weights import hash_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.modeling_layers import GradientCheckpointingLayer

DECODER_TRAINING_MODES = ("projector", "lora", "all")
PAD_ID = -1  # of captions; many language models have no padding token
TOP_K = 50  # as `models.beam_search.nucleus_sample`


@dataclasses.dataclass(frozen=True)
class PromptedTokenizer:
    """Converts captions that begin with a prompt to ids, and back.

    Attributes:
        base_tokenizer: tokenizer of the language model.
        prompt_ids: P ids of the prompt.
        prompt: the prompt, without trailing spaces.
        max_tokens: limit of `encode`, prompt and EOS included.
    """

    base_tokenizer: "PreTrainedTokenizerBase"
    prompt_ids: list[int]
    prompt: str
    max_tokens: int

    @classmethod
    def build(cls, tokenizer: "PreTrainedTokenizerBase", prompt: str, max_tokens: int) -> "PromptedTokenizer":
        """Tokenize the prompt."""
        prompt_ids = tokenizer.encode(prompt.strip(), add_special_tokens=False)
        return cls(tokenizer, prompt_ids, prompt.rstrip(), max_tokens)

    def encode(self, caption: str) -> list[int]:
        """Tokenize one caption, prompt included, and append EOS.

        The caption after the prompt is tokenized separately, as it is generated.
        """
        text = caption.removeprefix(self.prompt)
        ids = [*self.prompt_ids, *self.base_tokenizer.encode(text, add_special_tokens=False)]
        return [*ids[: self.max_tokens - 1], self.base_tokenizer.eos_token_id]

    def decode(self, ids: Iterable[int]) -> str:
        """Convert ids, prompt included, to a caption without prompt and special tokens."""
        caption_ids = [i for i in ids if i != PAD_ID][len(self.prompt_ids) :]
        return str(self.base_tokenizer.decode(caption_ids, skip_special_tokens=True)).strip()


class CausalLMDecoder(nn.Module):
    """Language model with a two-layer projector of frame states; implements `CaptionDecoder`.

    Args:
        base: the language model, in float32.
        tokenizer: its tokenizer.
        width: D.
        options: see `CaptionDecoderOptions`. `train` is `projector` (the language model is frozen and without dropout),
            `lora` (likewise, with trained low-rank matrices in all its linear layers; Hu et al., 2021) or `all`.
    Raises:
        ValueError: `lora` without peft.
    """

    def __init__(
        self,
        base: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        width: int,
        options: CaptionDecoderOptions,
    ) -> None:
        super().__init__()
        from transformers import GenerationConfig

        embeddings: Any = base.get_input_embeddings()
        base_width = embeddings.weight.shape[1]
        self.projector = nn.Sequential(nn.Linear(width, base_width), nn.GELU(), nn.Linear(base_width, base_width))
        self.tokenizer = PromptedTokenizer.build(tokenizer, options.prompt, options.max_text_length)
        self.encode_caption = self.tokenizer.encode
        self.pad_id = PAD_ID
        self._is_compiled = False
        has_bos = tokenizer.bos_token_id is not None and tokenizer.bos_token_id in tokenizer.encode("a")[:1]
        self.bos_ids = [tokenizer.bos_token_id] if has_bos else []
        self.max_positions = getattr(base.config, "max_position_embeddings", None)
        self.is_frozen = options.train != "all"
        self._base_description = dict(name=os.fspath(options.path), tokenizer_sha256=_hash_vocabulary(tokenizer))
        if self.is_frozen:
            self._base_description["sha256"] = hash_weights(base)
            base.requires_grad_(False)
            self.register_state_dict_post_hook(_remove_frozen)
            self.register_load_state_dict_pre_hook(_add_frozen)
        if options.train == "lora":
            base = _add_lora(base, options.lora_rank)
        if options.grad_ckpt:
            base.activation_checkpointing_enable(dict(use_reentrant=False))
        base.generation_config = GenerationConfig()  # without the hub's defaults, such as sampling
        self.base: Any = base  # `PreTrainedModel` lacks the type of `generate`
        layers = self._layers()
        for layer, recompute in zip(layers, checkpointed_layers(len(layers), options.grad_ckpt, options.ckpt_layer)):
            layer.gradient_checkpointing = recompute
        self.train()

    def _layers(self) -> list["GradientCheckpointingLayer"]:
        from transformers.modeling_layers import GradientCheckpointingLayer

        return [module for module in self.base.modules() if isinstance(module, GradientCheckpointingLayer)]

    def train(self, mode: bool = True) -> "CausalLMDecoder":
        """Set the mode; a frozen language model has no dropout in either."""
        super().train(mode)
        if self.is_frozen:
            self.base.eval()
            for layer in self._layers():
                layer.training = mode  # of the layer alone: it recomputes activations in training mode only
        return self

    def _prefix_inputs(
        self, frames: torch.Tensor, frame_mask: torch.Tensor, ids: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Arrange the inputs of the language model, padded on the left.

        Args:
            frames: (B, T, E) projected states.
            frame_mask: (B, T) bool.
            ids: (B, L) int on the device, with PAD_ID at any index.
        Returns:
            inputs_embeds (B, N, E), attention_mask (B, N), position_ids (B, N).
        """
        device, B = frames.device, len(frames)
        bos_ids = to_device(torch.tensor(self.bos_ids, dtype=torch.long), device).expand(B, -1)
        embed = self.base.get_input_embeddings()
        embeddings = torch.cat([embed(bos_ids), frames, embed(ids.clamp(min=0))], 1)  # (B, N, E)
        mask = torch.cat([torch.ones_like(bos_ids, dtype=torch.bool), frame_mask, ids != PAD_ID], 1)  # (B, N)
        order = _padding_first(mask)
        mask = mask.gather(1, order)
        return dict(
            inputs_embeds=embeddings.gather(1, order[..., None].expand_as(embeddings)),
            attention_mask=mask.long(),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        )

    def require_capacity(self, num_frames: int, num_tokens: int) -> None:
        """Raise a ValueError unless there are positions for this many frames and tokens, see `CaptionDecoder`."""
        if self.max_positions is not None and len(self.bos_ids) + num_frames + num_tokens > self.max_positions:
            sizes = f"{num_frames} frames and {num_tokens} tokens"
            raise ValueError(f"decoder_path: found {self.max_positions} positions, expected enough for {sizes}")

    def prepare_captions(self, captions: Captions) -> torch.Tensor:
        """Convert captions to ids (B, L), padded with PAD_ID, see `CaptionDecoder`."""
        if isinstance(captions, torch.Tensor):
            ids = captions.cpu()
        else:
            rows = [self.encode_caption(caption) if isinstance(caption, str) else caption for caption in captions]
            ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=PAD_ID)
        prompt_length = len(self.tokenizer.prompt_ids)
        counts = (ids != PAD_ID).sum(1)
        if counts.min() <= prompt_length:
            shortest = f"caption {int(counts.argmin())} of {int(counts.min())} tokens"
            raise ValueError(f"tsum_labels: found {shortest}, expected more than the {prompt_length} of the prompt")
        return ids

    def loss(self, frames: torch.Tensor, frame_layout: RaggedLayout, captions: torch.Tensor) -> torch.Tensor:
        """Compute the mean cross-entropy over the tokens of captions and EOS, see `CaptionDecoder`."""
        ids = captions
        self.require_capacity(frame_layout.size, ids.shape[1])
        inputs = self._prefix_inputs(frame_layout.unpack(self.projector(frames)), frame_layout.mask, ids)
        targets = ids.gather(1, _padding_first(ids != PAD_ID))  # (B, L), as the last L inputs
        is_prompt = (targets != PAD_ID).cumsum(1) <= len(self.tokenizer.prompt_ids)
        targets = targets.masked_fill(is_prompt, PAD_ID)
        logits = self.base(**inputs, logits_to_keep=ids.shape[1] + 1, use_cache=False).logits[:, :-1]  # (B, L, V)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=PAD_ID)

    @torch.no_grad()
    def generate(self, frames: torch.Tensor, frame_mask: torch.Tensor, options: GenerationOptions) -> list[str]:
        """Generate captions with transformers' `generate`, see `CaptionDecoder`."""
        prompt_ids, tokenizer = self.tokenizer.prompt_ids, self.tokenizer.base_tokenizer
        if options.max_length <= len(prompt_ids):
            raise ValueError(f"max_length: found {options.max_length}, expected at least {len(prompt_ids) + 1} tokens")
        if options.num_beams < 1:
            raise ValueError(f"num_beams: found {options.num_beams}, expected at least 1")
        self.require_capacity(frames.shape[1], options.max_length)
        from transformers import GenerationConfig, LogitsProcessorList, RepetitionPenaltyLogitsProcessor

        # `GenerationConfig.repetition_penalty` would ignore as many generated tokens as a video has padding.
        penalty = LogitsProcessorList()
        if options.repetition_penalty != 1.0:
            penalty.append(RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
        ids = to_device(torch.tensor(prompt_ids, dtype=torch.long), frames.device).expand(len(frames), -1)  # (B, P)
        sampling = dict(do_sample=True, top_p=options.top_p, top_k=TOP_K) if options.sample else {}
        config = GenerationConfig(
            num_beams=1 if options.sample else options.num_beams,
            max_new_tokens=options.max_length - len(prompt_ids),
            min_new_tokens=max(0, options.min_length - len(prompt_ids)),
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
            **sampling,
        )
        inputs = self._prefix_inputs(self.projector(frames), frame_mask, ids)
        # Compiled layers would be recompiled for each length of the cache.
        with torch.compiler.set_stance("force_eager") if self._is_compiled else contextlib.nullcontext():
            generated = self.base.generate(
                **inputs, generation_config=config, logits_processor=penalty
            )  # (B, n), without the prefix
        return self.decode(torch.cat([ids, generated], 1))

    def decode(self, ids: torch.Tensor | Iterable[Iterable[int]]) -> list[str]:
        """Convert ids to captions, see `CaptionDecoder`."""
        return [self.tokenizer.decode(row) for row in (ids.tolist() if isinstance(ids, torch.Tensor) else ids)]

    def compile_layers(self) -> None:
        """Compile the layers for training, see `CaptionDecoder`."""
        self._is_compiled = True
        for layer in self._layers():
            layer.compile(dynamic=True)

    def describe_base(self) -> dict[str, str] | None:
        """Return name and hashes of vocabulary and, if they are frozen, weights of the language model."""
        return self._base_description


def _hash_vocabulary(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Hex SHA-256 of the tokens and their ids."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()


def _padding_first(mask: torch.Tensor) -> torch.Tensor:
    """Order (B, N) of a batch's elements that moves padding, False in mask (B, N), to the left."""
    return mask.long().argsort(stable=True, dim=1)


def _frozen_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Frozen parameters under all their names: output layer and embeddings may share one."""
    return {name: p for name, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad}


def _remove_frozen(module: nn.Module, state_dict: dict[str, Any], prefix: str, _: Any) -> None:
    for name in _frozen_parameters(module):
        del state_dict[prefix + name]


def _add_frozen(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Complete a state dict to be loaded by the module's frozen parameters, which it omits."""
    for name, parameter in _frozen_parameters(module).items():
        state_dict[prefix + name] = parameter.detach()


def _add_lora(base: "PreTrainedModel", rank: int) -> "PreTrainedModel":
    """Add trained low-rank matrices to all linear layers but the output layer.

    Raises:
        ValueError: peft is not installed.
    """
    try:
        import peft
    except ImportError:
        raise ValueError("decoder_train: found 'lora', which requires peft: pip install peft") from None
    from transformers.pytorch_utils import Conv1D

    has_transposed_weights = any(isinstance(module, Conv1D) for module in base.modules())  # GPT-2
    config = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", fan_in_fan_out=has_transposed_weights
    )
    return cast("PreTrainedModel", peft.inject_adapter_in_model(config, base))


@contextlib.contextmanager
def _hidden_progress_bars() -> Iterator[None]:
    """Hide transformers' bars of loading; those of downloads, which `disable_progress_bar` hides too, are shown."""
    from transformers.utils import logging

    previous = logging.set_tqdm_hook(lambda factory, args, kwargs: factory(*args, **kwargs | dict(disable=True)))
    try:
        yield
    finally:
        logging.set_tqdm_hook(previous)


def _load_language_model(path: str) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """Load a language model, in float32, and its tokenizer, without code from the folder or the hub."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else each forked loader worker prints a warning
    from transformers import AutoModelForCausalLM, AutoTokenizer

    expected = "expected a folder or hub name of a causal language model"
    if not os.path.isdir(path) and (path.startswith(("/", "./", "../")) or path.count("/") > 1):  # not a hub name
        raise FileNotFoundError(f"{path}: decoder_path: no such folder; {expected}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        with _hidden_progress_bars():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                path, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
            )
        base, info = loaded
    except Exception as error:  # transformers, its tokenizers, safetensors and the hub's client raise nearly anything
        reason = " ".join(str(error).split())[:200]
        error_type = ValueError if os.path.isdir(path) else FileNotFoundError
        problem = f"found nothing that transformers loads ({type(error).__name__}: {reason})"
        raise error_type(f"{path}: decoder_path: {problem}, {expected}") from None
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"])[:3])
        raise ValueError(f"{path}: decoder_path: found weights without {missing}, {expected}")
    if tokenizer.eos_token_id is None:
        raise ValueError(f"{path}: decoder_path: found a tokenizer without eos_token, which ends a caption")
    with torch.no_grad():
        first, second = (base.eval()(input_ids=torch.tensor([[0, token]])).logits[:, 0] for token in (0, 1))
    if not torch.allclose(first, second, atol=1e-5):
        raise ValueError(f"{path}: decoder_path: found a model whose tokens attend to later ones, {expected}")
    rows = len(base.get_input_embeddings().weight)
    if len(tokenizer) > rows:
        raise ValueError(
            f"{path}: decoder_path: found {rows} embeddings, expected one for each of {len(tokenizer)} tokens"
        )
    return base, tokenizer


def build_causal_lm_decoder(options: CaptionDecoderOptions, width: int) -> CausalLMDecoder:
    """Load the language model, and build a decoder with a projector as initialized.

    Raises:
        FileNotFoundError, ValueError: the language model cannot be loaded, or an option does not fit it.
    """
    if options.train not in DECODER_TRAINING_MODES:
        expected = ", ".join(DECODER_TRAINING_MODES)
        raise ValueError(f"decoder_train: found {options.train!r}, expected one of {expected}")
    if options.lora_rank < 1:
        raise ValueError(f"decoder_lora_rank: found {options.lora_rank}, expected at least 1")
    base, tokenizer = _load_language_model(os.fspath(options.path))
    decoder = CausalLMDecoder(base, tokenizer, width, options)
    shortest = len(decoder.tokenizer.prompt_ids) + 1
    if options.max_text_length < shortest:
        raise ValueError(
            f"max_text_length: found {options.max_text_length}, expected at least {shortest} (prompt and one token)"
        )
    return decoder
