"""Parts of long videos."""

import pytest

from summary.parts import check_chunk, join_captions, split_seconds


@pytest.mark.parametrize(
    ("T", "chunk", "expected"),
    [
        (10, None, [(0, 10)]),
        (10, 10, [(0, 10)]),
        (10, 99, [(0, 10)]),
        (10, 9, [(0, 5), (5, 10)]),
        (11, 4, [(0, 3), (3, 7), (7, 11)]),
        (3, 1, [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_split_into_parts(T, chunk, expected):
    assert split_seconds(T, chunk) == expected


def test_parts_have_nearly_equal_lengths():
    for T in range(1, 60):
        for chunk in range(1, 61):
            parts = split_seconds(T, chunk)
            lengths = [stop - first for first, stop in parts]
            assert max(lengths) <= chunk and max(lengths) - min(lengths) <= 1 and len(parts) == -(-T // chunk)
            assert [second for part in parts for second in range(*part)] == list(range(T))


def test_captions_are_joined_as_sentences():
    assert join_captions(["a dog runs"]) == "a dog runs"
    assert join_captions(["a dog runs", "it stops. why?", ""]) == "a dog runs. it stops. why?"
    assert join_captions([None]) is None and join_captions([None, None]) is None


def test_invalid_chunks_raise():
    check_chunk(None)
    check_chunk(1)
    for chunk in (0, -1, 1.5, "30s"):
        with pytest.raises(ValueError, match="chunk: found .*, expected whole seconds, at least 1"):
            check_chunk(chunk)
