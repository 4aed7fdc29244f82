"""The caption tokenizer: BERT's WordPiece with BLIP's two additional tokens."""

import contextlib
import logging
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

DECODER_TOKEN = "[DEC]"  # begins every caption, in place of [CLS]
ENCODER_TOKEN = "[ENC]"  # unused here; the released vocabulary includes it
BERT_TOKENS = ("[CLS]", "[SEP]", "[PAD]", "[UNK]")

VOCABULARY_FILES = ("vocab.txt", "tokenizer.json")


class CaptionTokenizer:
    """Converts captions to ids and ids to captions.

    Args:
        name: hub name such as `bert-base-uncased`, or folder with `vocab.txt` or `tokenizer.json`.
        prompt: beginning of every caption.
    Attributes:
        decoder_id: id of [DEC].
        end_id: id of [SEP].
        pad_id: id of [PAD].
        prompt_ids: [DEC] and the prompt.
    Raises:
        FileNotFoundError: the folder has neither file, or the hub is not available and nothing is cached.
        ValueError: the vocabulary lacks one of BERT's special tokens.
    """

    def __init__(self, name: str | os.PathLike, prompt: str) -> None:
        self.prompt = prompt
        self._wordpiece = _load_wordpiece(name)
        vocabulary = self._wordpiece.backend_tokenizer.get_vocab(with_added_tokens=False)
        missing = [token for token in BERT_TOKENS if token not in vocabulary]
        if missing:  # transformers would append them without a warning
            raise ValueError(f"tokenizer: {name}: found no {', '.join(missing)}, expected a BERT vocabulary")
        if sorted(vocabulary.values()) != list(range(len(vocabulary))):
            raise ValueError(f"tokenizer: {name}: found gaps in the ids, expected each token once in the vocabulary")
        ids = self._wordpiece("a").input_ids
        if (ids[0], ids[-1]) != (vocabulary["[CLS]"], vocabulary["[SEP]"]):
            raise ValueError(f"tokenizer: {name}: found no [CLS] and [SEP] around a text, expected BERT's template")
        self._wordpiece.add_tokens([DECODER_TOKEN, ENCODER_TOKEN], special_tokens=True)
        vocabulary = self._wordpiece.get_vocab()
        self.decoder_id = vocabulary[DECODER_TOKEN]
        self.end_id = vocabulary["[SEP]"]
        self.pad_id = vocabulary["[PAD]"]
        special = (*BERT_TOKENS, DECODER_TOKEN, ENCODER_TOKEN)
        self._special_ids = {*self._wordpiece.all_special_ids, *(vocabulary[token] for token in special)}
        self.prompt_ids = self.encode(prompt)[:-1]  # [DEC] and the prompt, without the final [SEP]

    def __len__(self) -> int:
        """Size of the vocabulary, including the two additional tokens."""
        return len(self._wordpiece)

    def encode(self, caption: str, max_tokens: int | None = None) -> list[int]:
        """Tokenize one caption: [DEC] … [SEP], at most `max_tokens` ids, [SEP] included."""
        # A caption may contain the text "[PAD]", whose token would end the caption.
        ids = [i for i in self._wordpiece(caption, add_special_tokens=True).input_ids if i != self.pad_id]
        ids[0] = self.decoder_id
        if max_tokens is not None and len(ids) > max_tokens:
            ids[max_tokens - 1 :] = [self.end_id]
        return ids

    def pad(self, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        """Pad lists of ids to the longest with [PAD]: (B, L) int64."""
        longest = max(len(ids) for ids in sequences)
        return torch.tensor([list(ids) + [self.pad_id] * (longest - len(ids)) for ids in sequences])

    def decode(self, ids: Iterable[int]) -> str:
        """Convert ids to a caption without special tokens and without the prompt.

        Source: `decode` of transformers 4.15 with `clean_up_tokenization_spaces=True`, as the released code calls it.
        """
        tokens = self._wordpiece.convert_ids_to_tokens([int(i) for i in ids if int(i) not in self._special_ids])
        text = " ".join(token for token in tokens if token is not None)  # None: an id outside the vocabulary
        text = self._wordpiece.clean_up_tokenization(text.replace(" ##", "").strip())
        return text[len(self.prompt) :]


def _load_wordpiece(name: str | os.PathLike) -> "PreTrainedTokenizerFast":
    """Load transformers' tokenizer from a folder, or from the files of a hub repository."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else each forked loader worker prints a warning
    from transformers import BertTokenizerFast, PreTrainedTokenizerFast  # type: ignore[attr-defined]  # lazy import

    folder = pathlib.Path(name)
    if not folder.is_dir():
        folder = _hub_folder(str(name))
    # From a folder without these files, transformers would build an empty vocabulary.
    try:
        if (folder / "vocab.txt").is_file():
            return BertTokenizerFast.from_pretrained(folder)
        if (folder / "tokenizer.json").is_file():
            special = {f"{kind}_token": f"[{kind.upper()}]" for kind in ("unk", "sep", "pad", "cls", "mask")}
            return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **special)
    except Exception as error:  # the Rust library raises plain Exception, its Python wrapper nearly anything
        raise ValueError(f"{folder}: tokenizer: a damaged file ({' '.join(str(error).split())[:200]})") from None
    raise FileNotFoundError(f"{name}: tokenizer: found neither vocab.txt nor tokenizer.json in the folder")


def is_tokenizer_local(name: str | os.PathLike) -> bool:
    """Whether a tokenizer needs no download: a folder, or a name whose vocabulary is in the hub's cache."""
    return pathlib.Path(name).is_dir() or _find_cached_folder(str(name)) is not None


def _find_cached_folder(name: str) -> pathlib.Path | None:
    """Return the folder of a repository's vocabulary in the hub's cache."""
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    for file in VOCABULARY_FILES:
        with contextlib.suppress(HFValidationError):
            path = huggingface_hub.try_to_load_from_cache(name, file)
            if isinstance(path, str):
                return pathlib.Path(path).parent
    return None


def _hub_folder(name: str) -> pathlib.Path:
    """Find a hub repository's vocabulary in the local cache, or download it; returns its folder."""
    import huggingface_hub
    from huggingface_hub.errors import (
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RemoteEntryNotFoundError,
    )

    reason = f"the hub's repository has neither {' nor '.join(VOCABULARY_FILES)}"
    try:
        if cached := _find_cached_folder(name):  # else hf_hub_download retries an unreachable hub for 23 s
            return cached
        logger.info("tokenizer: downloading %s from the hub", name)
        for file in VOCABULARY_FILES:
            with contextlib.suppress(RemoteEntryNotFoundError):
                return pathlib.Path(huggingface_hub.hf_hub_download(name, file)).parent
    except HFValidationError:
        reason = "no such folder, and not a name on the hub"
    except Exception as error:  # of the hub client, its HTTP library or the system
        cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
        reason = f"no such folder, not in the hub's cache, and the hub is not available ({type(cause).__name__})"
        if isinstance(cause, OfflineModeIsEnabled):
            reason = "no such folder, not in the hub's cache, and HF_HUB_OFFLINE is set"
    raise FileNotFoundError(
        f"tokenizer: {name}: {reason}; set the option tokenizer to a folder with vocab.txt or tokenizer.json"
    )
