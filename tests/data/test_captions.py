from data.annotations import VideoRecord
from data.captions import pre_caption


def test_captions_equal_golden_values(golden):
    for text, max_words, expected in golden("pre_caption.json"):
        assert pre_caption(text, max_words) == expected


def test_whitespace_and_word_limit():
    assert pre_caption("A  dog\t\truns\n", 10) == "a dog runs"
    assert pre_caption("one\ttwo three", 2) == "one\ttwo three"  # a single tab is not a separator
    assert pre_caption("a b c", None) == "a b c"
    assert pre_caption("...", 3) == ""


def test_sentences_are_joined_without_a_space():
    """QUIRK-6."""
    for tsum, caption in (
        (("A dog runs.", "It stops"), "a dog runs it stops"),
        (("A dog runs", "It stops"), "a dog runsit stops"),
    ):
        assert VideoRecord("v", 0, 1.0, tsum).captions() == [caption]
