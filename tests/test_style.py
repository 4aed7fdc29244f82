"""The checks of names and spelling, on the repository and on files that violate them."""

import pytest

from tests import style


def test_repository_has_no_problems():
    assert style.check_repository() == []


@pytest.mark.parametrize(
    "text", ["how = 1", "f(how=1)", "def f(how): ...", "self.how = 1", "for how in x: ...", "lambda how: 1"]
)
def test_meaningless_names(text):
    assert style.check_meaningless_names({"a.py": text}) == ["a.py:1: how: a name that explains itself is expected"]


def test_repeated_public_names():
    files = {"a.py": "def read(): ...\ndef _read(): ...", "b.py": "read = 1\n_read = 2", "c.py": "def main(): ..."}
    assert style.check_repeated_names(files) == ["a.py, b.py: read: defined more than once"]
    assert style.check_repeated_names({"a.py": "def main(): ...", "b.py": "def main(): ..."}) == []


@pytest.mark.parametrize("word", ["colour", "Neighbours", "tokeniser", "summarise", "behaviour", "centre", "analysed"])
def test_british_spelling(word):
    assert style.check_spelling({"a.md": f"a\nthe {word} of"}) == [f"a.md:2: {word}: American spelling is expected"]
    american = "color Neighbors tokenizer summarize behavior center centered analyzed analysis"
    assert style.check_spelling({"a.md": american}) == []
