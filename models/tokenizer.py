"""The caption tokeniser: BERT's WordPiece plus BLIP's two extra tokens, and ids back to text."""

import contextlib
import logging
import os
import pathlib
import re

import torch

logger = logging.getLogger(__name__)

DECODER_TOKEN = "[DEC]"  # begins every caption, in place of [CLS]
ENCODER_TOKEN = "[ENC]"  # BLIP's, unused here; it keeps the vocabulary the released size
BERT_TOKENS = ("[CLS]", "[SEP]", "[PAD]", "[UNK]")

# What transformers 4.15 rewrote after joining tokens with spaces, in its order.
CLEAN_UP = [(" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'")]
CLEAN_UP += [(f" {ending}", ending) for ending in ("n't", "'m", "'s", "'ve", "'re")]


class CaptionTokenizer:
    """Turns captions into ids and ids into captions.

    Args:
        name: a hub name such as `bert-base-uncased`, or a folder that holds `vocab.txt` or `tokenizer.json`.
        prompt: what every caption begins with.
    Raises:
        FileNotFoundError: the folder holds neither file, or the hub cannot be reached and nothing is cached.
        ValueError: the vocabulary lacks one of BERT's special tokens.
    """

    def __init__(self, name, prompt):
        self.prompt = prompt
        self._wordpiece = _load_wordpiece(name)
        vocabulary = self._wordpiece.backend_tokenizer.get_vocab(with_added_tokens=False)
        missing = [token for token in BERT_TOKENS if token not in vocabulary]
        if missing:  # transformers would quietly append them
            raise ValueError(f"tokenizer: {name}: found no {', '.join(missing)}, expected a BERT vocabulary")
        if sorted(vocabulary.values()) != list(range(len(vocabulary))):
            raise ValueError(f"tokenizer: {name}: found gaps in the ids, expected each token once in the vocabulary")
        around = self._wordpiece("a").input_ids
        if (around[0], around[-1]) != (vocabulary["[CLS]"], vocabulary["[SEP]"]):
            raise ValueError(f"tokenizer: {name}: found no [CLS] and [SEP] around a text, expected BERT's template")
        self._wordpiece.add_tokens([DECODER_TOKEN, ENCODER_TOKEN], special_tokens=True)
        vocabulary = self._wordpiece.get_vocab()
        self.decoder_id = vocabulary[DECODER_TOKEN]
        self.end_id = vocabulary["[SEP]"]
        self.pad_id = vocabulary["[PAD]"]
        special = (*BERT_TOKENS, DECODER_TOKEN, ENCODER_TOKEN)
        self._special_ids = {*self._wordpiece.all_special_ids, *(vocabulary[token] for token in special)}
        self.prompt_ids = self.encode(prompt)[:-1]  # [DEC] and the prompt, without the final [SEP]

    def __len__(self):
        """Size of the vocabulary, the two extra tokens included."""
        return len(self._wordpiece)

    def encode(self, caption, max_tokens=None):
        """Tokenise one caption: [DEC] … [SEP], at most `max_tokens` ids with [SEP] kept."""
        # A caption may hold the letters "[PAD]"; as a token it would mark its end.
        ids = [i for i in self._wordpiece(caption, add_special_tokens=True).input_ids if i != self.pad_id]
        ids[0] = self.decoder_id
        if max_tokens is not None and len(ids) > max_tokens:
            ids[max_tokens - 1 :] = [self.end_id]
        return ids

    def pad(self, sequences):
        """Pad lists of ids to the longest with [PAD]: (B, L) int64."""
        longest = max(len(ids) for ids in sequences)
        return torch.tensor([list(ids) + [self.pad_id] * (longest - len(ids)) for ids in sequences])

    def decode(self, ids):
        """Turn ids into a caption without special tokens and without the prompt.

        Source: `decode` of transformers 4.15 with `clean_up_tokenization_spaces=True`, as the released code calls it.
        """
        tokens = self._wordpiece.convert_ids_to_tokens([int(i) for i in ids if int(i) not in self._special_ids])
        text = " ".join(token for token in tokens if token is not None)  # None: an id the vocabulary does not have
        text = text.replace(" ##", "").strip()
        for found, replacement in CLEAN_UP:
            text = text.replace(found, replacement)
        return text[len(self.prompt) :]


def _load_wordpiece(name):
    """Load transformers' tokeniser from a folder, or from the files of a hub repository."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forked loader workers would warn on every start
    from transformers import BertTokenizerFast, PreTrainedTokenizerFast

    folder = pathlib.Path(name)
    if not folder.is_dir():
        folder = _hub_folder(str(name))
    # Given a folder without these files, transformers would quietly make an empty vocabulary.
    try:
        if (folder / "vocab.txt").is_file():
            return BertTokenizerFast.from_pretrained(folder)
        if (folder / "tokenizer.json").is_file():
            special = {f"{kind}_token": f"[{kind.upper()}]" for kind in ("unk", "sep", "pad", "cls", "mask")}
            return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **special)
    except Exception as error:  # the Rust library raises plain Exception, the Python around it anything
        raise ValueError(f"{folder}: tokenizer: a damaged file ({' '.join(str(error).split())[:200]})") from None
    raise FileNotFoundError(f"{name}: tokenizer: found neither vocab.txt nor tokenizer.json in the folder")


def _hub_folder(name):
    """Fetch a hub repository's vocabulary (or find it in the cache); returns the folder it lies in."""
    import huggingface_hub

    with contextlib.suppress(Exception):
        return pathlib.Path(huggingface_hub.hf_hub_download(name, "vocab.txt", local_files_only=True)).parent
    offline, reason = huggingface_hub.constants.is_offline_mode(), "no such folder, and not a hub name"
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        if not offline:
            logger.info("tokenizer: asking the hub for %s", name)
        for file in ("vocab.txt", "tokenizer.json"):
            try:
                return pathlib.Path(huggingface_hub.hf_hub_download(name, file)).parent
            except Exception as error:  # the hub client raises many kinds for "cannot be had"
                why = (
                    "HF_HUB_OFFLINE forbids to ask the hub" if offline else f"it cannot be had ({type(error).__name__})"
                )
                reason = f"neither a local folder nor in the hub's cache, and {why}"
                if not isinstance(error, huggingface_hub.errors.EntryNotFoundError):
                    break  # no answer, after long tries: asking for another file would take as long again
    raise FileNotFoundError(
        f"tokenizer: {name}: {reason}; set the option tokenizer to a folder that holds its vocab.txt"
    )
