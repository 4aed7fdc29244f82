import huggingface_hub
import pytest
import tokenizers

from models.tokenizer import CaptionTokenizer
from tests.conftest import BERT_WORDS


@pytest.fixture(scope="module")
def tokenizer(bert_vocabulary):
    return CaptionTokenizer(str(bert_vocabulary), "a video of ")


def test_special_ids_come_from_the_vocabulary(tokenizer, mini_root):
    assert (tokenizer.pad_id, tokenizer.end_id, tokenizer.decoder_id, len(tokenizer)) == (0, 102, 30522, 30524)
    assert tokenizer.prompt_ids == [30522, 1037, 2678, 1997]
    mini = CaptionTokenizer(str(mini_root / "tokenizer"), "a video of ")
    assert (mini.pad_id, mini.end_id, mini.decoder_id, len(mini)) == (0, 3, 254, 256)


def test_encode(tokenizer):
    assert tokenizer.encode("A video of he w5000") == [30522, 1037, 2678, 1997, 2002, 5000, 102]


def test_padding_token_in_a_text_is_dropped(tokenizer):
    assert tokenizer.encode("a video of [PAD] he w5000") == tokenizer.encode("a video of he w5000")


def test_decoded_texts_equal_golden_values(golden, tokenizer):
    for ids, text in golden("decode.json"):
        assert [i for i in ids if i not in BERT_WORDS] == [tokenizer.decoder_id], "a word is missing in conftest.py"
        assert tokenizer.decode(ids) == text


def test_tokenizer_json_equals_vocab_txt(tokenizer, bert_vocabulary, tmp_path):
    tokenizer._wordpiece.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").unlink(missing_ok=True)
    assert (tmp_path / "tokenizer.json").is_file()
    reloaded = CaptionTokenizer(str(tmp_path), "a video of ")
    assert reloaded.encode("a video of he stops") == tokenizer.encode("a video of he stops")
    assert (reloaded.end_id, reloaded.decoder_id, len(reloaded)) == (102, 30522, 30524)


def test_unknown_ids_and_word_pieces(tokenizer, mini_root):
    mini = CaptionTokenizer(str(mini_root / "tokenizer"), "")
    assert mini.decode(mini.encode("a red zebra")[1:]) == "a red zebra"  # split into letters and joined again
    assert mini.decode([mini.decoder_id, 10**6, mini.end_id]) == ""


def test_damaged_tokenizers_raise(tmp_path, mini_root):
    words = (mini_root / "tokenizer/vocab.txt").read_text().split()
    (tmp_path / "vocab.txt").write_text("\n".join([*words, "circle"]) + "\n")
    # [DEC] would get the id of a word.
    with pytest.raises(ValueError, match="found gaps in the ids, expected each token once"):
        CaptionTokenizer(str(tmp_path), "")
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\n\xff\xfe\n")
    with pytest.raises(ValueError, match="tokenizer: a damaged file"):
        CaptionTokenizer(str(tmp_path), "")
    (tmp_path / "vocab.txt").unlink()
    for content in ("", "{", "[]", "{}"):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(ValueError, match="tokenizer: a damaged file"):
            CaptionTokenizer(str(tmp_path), "")
    plain = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    plain.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    plain.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"found no \[CLS\] and \[SEP\] around a text"):
        CaptionTokenizer(str(tmp_path), "")


def test_tokenizers_on_the_hub(hub, bert_vocabulary, tokenizer, tmp_path, monkeypatch):
    tokenizer._wordpiece.save_pretrained(tmp_path)
    hub.files["org/words", "vocab.txt"] = (bert_vocabulary / "vocab.txt").read_bytes()
    hub.files["org/json", "tokenizer.json"] = (tmp_path / "tokenizer.json").read_bytes()
    hub.files["org/none", "README.md"] = b"no vocabulary"
    hub.gated.add("org/gated")
    for name in ("org/words", "org/json"):
        assert CaptionTokenizer(name, "a video of ").encode("he") == tokenizer.encode("he")
    request_count = hub.request_count
    assert len(CaptionTokenizer("org/json", "")) == 30524 and hub.request_count == request_count  # from the cache
    with pytest.raises(FileNotFoundError, match=r"^tokenizer: org/none: the hub's repository has neither vocab.txt"):
        CaptionTokenizer("org/none", "")
    for name, error in (("org/gated", "GatedRepoError"), ("org/unknown", "RepositoryNotFoundError")):
        with pytest.raises(FileNotFoundError, match=rf"{name}: .*the hub is not available \({error}\); set the"):
            CaptionTokenizer(name, "")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert len(CaptionTokenizer("org/words", "")) == 30524
    with pytest.raises(FileNotFoundError, match=r"org/none: .*HF_HUB_OFFLINE is set"):
        CaptionTokenizer("org/none", "")


def test_missing_tokenizers_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither vocab.txt nor tokenizer.json"):
        CaptionTokenizer(str(tmp_path), "")
    with pytest.raises(FileNotFoundError, match="set the option tokenizer to a folder"):
        CaptionTokenizer("bert-base-uncased", "")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        CaptionTokenizer(str(tmp_path / "none"), "")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\na\n")
    with pytest.raises(ValueError, match=r"found no \[CLS\], \[SEP\]"):
        CaptionTokenizer(str(tmp_path), "")
