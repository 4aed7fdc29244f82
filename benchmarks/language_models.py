"""Small causal language models with random weights and a tokenizer of mini VideoXum, for benchmarks and tests."""

import os
import pathlib
from typing import Any

import torch
from transformers import (  # type: ignore[attr-defined]  # lazy import
    BertTokenizerFast,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

NUM_LAYERS = 2
NUM_HEADS = 4
LANGUAGE_MODEL_POSITIONS = 200


def build_language_model(family: str, vocab_size: int, width: int) -> PreTrainedModel:
    """Build a GPT-2 (learned positions, dropout, tied embeddings), Qwen3 (tied) or Llama (not tied).

    Args:
        family: `gpt2`, `qwen3` or `llama`.
        vocab_size: size of the vocabulary.
        width: E, a multiple of 8.
    """
    if family == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=vocab_size,
                n_embd=width,
                n_layer=NUM_LAYERS,
                n_head=NUM_HEADS,
                n_positions=LANGUAGE_MODEL_POSITIONS,
            )
        )
    sizes: dict[str, Any] = dict(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=NUM_HEADS,
        num_key_value_heads=NUM_HEADS // 2,
        head_dim=width // NUM_HEADS,
        max_position_embeddings=LANGUAGE_MODEL_POSITIONS,
    )
    if family == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(tie_word_embeddings=True, **sizes))
    assert family == "llama"
    return LlamaForCausalLM(LlamaConfig(tie_word_embeddings=False, **sizes))


def write_language_model(
    folder: str | os.PathLike,
    family: str,
    tokenizer_folder: str | os.PathLike,
    *,
    seed: int = 0,
    width: int = 48,
    std: float = 0.02,
) -> pathlib.Path:
    """Write a language model with random weights, and its tokenizer.

    EOS is [SEP] and BOS [CLS]; the Llama has neither BOS nor a padding token.

    Args:
        folder: to write.
        family: see `build_language_model`.
        tokenizer_folder: folder with `vocab.txt`.
        seed: random seed of the weights.
        width: E.
        std: standard deviation of the matrices.
    Returns:
        The folder.
    """
    special = dict(pad_token=None) if family == "llama" else dict(bos_token="[CLS]")
    tokenizer = BertTokenizerFast.from_pretrained(tokenizer_folder, eos_token="[SEP]", **special)
    torch.manual_seed(seed)
    model = build_language_model(family, len(tokenizer), width)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=std)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return pathlib.Path(folder)
