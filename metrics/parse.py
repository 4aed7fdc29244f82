r"""Convert answers of language models to predictions: `python -m metrics.parse ANSWERS --out PREDICTIONS`.

ANSWERS has one JSON object per line: `{"video_id": ..., "answer": ...}`, optionally `"token": {"<f0>": second, ...}`.
An answer is read as entries, a bracket with times and the text up to the next bracket:

    [12] A man walks.            key-frame; also [<f3>], [0:12], [1:00:12.5], [1, 5, 9]
    [0:05 - 0:12] He runs.       segment; also [5 - 12], [5 to 12], [<f3>–<f9>], [0:05] - [0:12]

Introductions, remarks, Markdown, code fences, quoting and thinking blocks around them are dropped. A line without a
bracket directly below an entry is part of its text if another bracket follows or the entry has no other text. Parts of
entries that cannot be read are reported, never guessed.
"""

import argparse
import dataclasses
import html
import json
import os
import pathlib
import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import pydantic

from engine.predictions import parse_video_line
from utils.command_line import OneLineParser
from utils.files import atomic_write, make_folder, parse_json, read_text
from utils.log import run_main
from utils.text import printable
from utils.validation import abbreviate, describe_first_error, suggest_name

UNREAD_SUFFIX = ".unread.jsonl"

_THINKING_NAMES = r"(?:think|thinking|thoughts?|reasoning|reflection)"
# Without an end tag it is the rest of the text; without a start tag (it is in the prompt), the text up to the end tag.
_THINKING = re.compile(rf"[<◁]({_THINKING_NAMES})[>▷].*?(?:[<◁]/\1[>▷]|\Z)", re.DOTALL | re.IGNORECASE)
_END_OF_THINKING = re.compile(
    rf"\A.*(?:[<◁]/{_THINKING_NAMES}[>▷]|<\|channel\|>final<\|message\|>)", re.DOTALL | re.IGNORECASE
)
_FENCED = re.compile(r"^[ \t]*```\w*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)
_TAG = re.compile(r"</?[A-Za-z_|]+\s*/?>")  # such as </answer>, <br/>, <|im_end|>
_MARKDOWN_ESCAPE = re.compile(r"\\([\[\]<>(){}*_~`#.+!|:-])")
_LINK = re.compile(r"\[([^\[\]\d]*)\]\((?:https?:|#)[^()\s]*\)")  # without a time
_CHECKBOX = re.compile(r"^(\s*[-*+]\s+)\[[ xX]\]\s")
_ASCII_BRACKETS = str.maketrans("［］【】〔〕", "[][][]")

_RANGE = r"(?:-{1,2}>?|[–—−~～→]|to|until|through)"
_BRACKET = re.compile(r"\[([^\[\]]*)\](?:\((?:https?:|#)[^()\s]*\))?")  # also as a Markdown link
_TWO_BRACKETS = re.compile(rf"\[([^\[\],;]+)\][*_`]*\s*{_RANGE}\s*[*_`]*\[([^\[\],;]+)\]")
_ITEM_END = re.compile(r"(?<!:\d\d),|(?<=:\d\d),(?!\d{3}\b)|[;&、]|\band\b|(?<=>)\s*(?=<)")  # not 00:12,500
_LABEL = re.compile(r"^(?:from|at|time(?:stamp)?|t|seconds?|secs?)\b\s*[:=]?\s*(?=[\d<])", re.IGNORECASE)
_TOKEN = re.compile(r"<\D*(\d{1,9})\D*>")
_UNIT = r"\s*(?:s|secs?|seconds?)?"
_CLOCK = re.compile(rf"(?:(\d{{1,9}}):)?(\d{{1,9}}):(\d{{1,2}}(?:\.\d+|,\d{{3}})?){_UNIT}", re.IGNORECASE)
_SECONDS = re.compile(rf"(\d{{1,9}}(?:\.\d+)?){_UNIT}", re.IGNORECASE)

# What precedes a bracket: nothing, bullets, numbering or a short word; `Scene 3`; or a label that ends in a colon.
_DECORATION = re.compile(r"[\W_]*(?:\w{1,3}|[^\W\d]+\s*\d+)?[\W_]*|.*[:：][\W_]*")
_NUMBERING = re.compile(r"[\W_]*\d+[.)]")
_NEXT_NUMBER = re.compile(r"(?:^|\s)\(?\d+[.)][\s*_]*$")


class Answer(pydantic.BaseModel):
    """A line of ANSWERS.

    Attributes:
        video_id: id of the video.
        answer: text of the model.
        token: token of a frame, such as `<f0>` -> its time in seconds; None if the number in a token is its second.
    """

    model_config = pydantic.ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    video_id: str
    answer: str
    token: dict[str, Annotated[float, pydantic.Field(ge=0)]] | None = None

    @pydantic.field_validator("video_id")
    @classmethod
    def _require_printable(cls, video_id: str) -> str:
        if not video_id or not video_id.isprintable():
            raise ValueError(f"found {abbreviate(video_id)}, expected a name")
        return video_id


@dataclasses.dataclass(frozen=True)
class UnreadPart:
    """A part of an answer that is not in the prediction.

    Attributes:
        line: line of the answer, from 1.
        text: the part.
        reason: why it is not read.
    """

    line: int
    text: str
    reason: str


@dataclasses.dataclass
class ParsedAnswer:
    """What was read from an answer.

    Attributes:
        keyframes: seconds.
        segments: (start, end) in seconds.
        texts: text of each entry, "" if it has none.
        unread: what was not read.
    """

    keyframes: list[float] = dataclasses.field(default_factory=list)
    segments: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    texts: list[str] = dataclasses.field(default_factory=list)
    unread: list[UnreadPart] = dataclasses.field(default_factory=list)

    @property
    def caption(self) -> str:
        return " ".join(text for text in self.texts if text)

    def to_prediction(self, video_id: str) -> dict[str, Any]:
        """Return a line of PREDICTIONS: `keyframes` and `segments` if there are any, and `keyframes` if neither."""
        prediction: dict[str, Any] = dict(video_id=video_id)
        if self.keyframes or not self.segments:
            prediction["keyframes"] = self.keyframes
        if self.segments:
            prediction["segments"] = self.segments
        return prediction | dict(caption=self.caption)


def read_answers(path: str | os.PathLike) -> dict[int, Answer]:
    """Read ANSWERS: number of the line -> answer.

    Raises:
        FileNotFoundError, ValueError: the message names file, line, video, field, found and expected.
    """
    answers: dict[int, Answer] = {}
    line_of: dict[str, int] = {}
    for number, line in enumerate(read_text(path, "answers").split("\n"), 1):
        if not line.strip():
            continue
        answer = _parse_line(line, f"{path}: line {number}")
        first = line_of.setdefault(answer.video_id, number)
        if first != number:
            raise ValueError(
                f"{path}: line {number}: video {answer.video_id}: found again, expected each video once; "
                f"the first is in line {first}"
            )
        answers[number] = answer
    if not answers:
        raise ValueError(f"{path}: answers: found none, expected at least one video")
    return answers


def _parse_line(line: str, source: str) -> Answer:
    entry, source = parse_video_line(line, source)
    unknown = ""
    if isinstance(entry, dict):
        fields = [field for field in entry if field not in Answer.model_fields]
        unknown = "".join(f"; {printable(f)}: unknown field{suggest_name(f, Answer.model_fields)}" for f in fields)
    try:
        return Answer.model_validate(entry)  # ignores unknown fields
    except pydantic.ValidationError as error:
        raise ValueError(f"{source}: {describe_first_error(error)}{unknown}") from None


def parse_answer(answer: str, token: Mapping[str, float] | None = None) -> ParsedAnswer:
    """Read key-frames, segments and the caption from the text of a model.

    Args:
        answer: the text.
        token: see `Answer`.
    """
    parsed = ParsedAnswer()
    below: list[str] = []  # lines directly below the last entry
    free: list[tuple[int, str]] = []  # lines that belong to no entry
    is_below = False
    for number, line in enumerate(_drop_quoting(_drop_thinking(answer)).splitlines(), 1):
        line = html.unescape(_MARKDOWN_ESCAPE.sub(r"\1", line)).translate(_ASCII_BRACKETS)
        line = _TWO_BRACKETS.sub(r"[\1 - \2]", _CHECKBOX.sub(r"\1", _LINK.sub(r"\1", line)))
        if _BRACKET.search(line):
            parsed.texts += map(_clean_text, below)
            below = []
            is_below = _parse_entries(line, number, token, parsed)
        elif is_below and _is_text(line):
            below.append(line)
        else:
            is_below = False
            if _is_text(line):
                free.append((number, line.strip()))
    if below and not parsed.texts[-1]:
        parsed.texts += map(_clean_text, below)
    has_times = parsed.keyframes or parsed.segments
    if (free and not parsed.caption) or not (has_times or parsed.unread):
        text = "\n".join(line for _, line in free)
        parsed.unread.append(UnreadPart(free[0][0] if free else 1, text, "found no bracket, expected [time] text"))
    return parsed


def _drop_thinking(text: str) -> str:
    """Replace thinking blocks by as many empty lines."""
    for pattern in (_THINKING, _END_OF_THINKING):
        text = pattern.sub(lambda match: "\n" * match[0].count("\n"), text)
    return text


def _drop_quoting(text: str) -> str:
    """Replace JSON, the whole answer or a code fence in it, by its strings and lists of numbers, one per line."""
    return _FENCED.sub(lambda match: _expand_json(match[1]) or match[0], _expand_json(text) or text)


def _expand_json(text: str) -> str:
    """Return the lines of a JSON text, "" for other texts."""
    try:
        return "".join(f"{line}\n" for line in _iter_lines(parse_json(text)))
    except ValueError:
        return ""


def _iter_lines(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif _is_number_list(value):
        yield json.dumps(value)
    elif isinstance(value, list):
        for item in value:
            if _is_number_list(item) and len(item) == 2:
                yield f"[{item[0]} - {item[1]}]"
            else:
                yield from _iter_lines(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from [key] if "[" in key else []
            yield from _iter_lines(item)


def _is_number_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) in (int, float) for item in value)


def _is_text(line: str) -> bool:
    """Whether a line has words and is no heading, code fence or label."""
    line = line.strip()
    return bool(re.search(r"\w", _TAG.sub("", line))) and not line.startswith(("#", "```")) and not line.endswith(":")


def _parse_entries(line: str, number: int, token: Mapping[str, float] | None, parsed: ParsedAnswer) -> bool:
    """Add the entries of a line to `parsed`; return whether the last one could be read."""
    brackets = list(_BRACKET.finditer(line))
    prefix = _TAG.sub("", line[: brackets[0].start()]).strip()
    has_numbering = _NUMBERING.match(prefix) is not None
    if _DECORATION.fullmatch(prefix):
        prefix = ""
    is_read = False
    for bracket, following in zip(brackets, [*brackets[1:], None]):
        text = line[bracket.end() : following.start() if following else None]
        if has_numbering and following:
            text = _NEXT_NUMBER.sub("", text)
        quote = line[: bracket.start()].rstrip("*_`")[-1:]
        if quote and quote in "\"'":  # JSON or Python that is not complete
            text = re.sub(rf"{quote}[\s,\]}})]*{quote}?\s*$", "", text)
        times, problems = _parse_bracket(bracket[1], token)
        is_read = bool(times)
        if is_read:
            if prefix:
                reason = "found text before a bracket, expected it after the bracket"
                parsed.unread.append(UnreadPart(number, prefix, reason))
            parsed.unread += [UnreadPart(number, item, reason) for item, reason in problems.items()]
            parsed.keyframes += [time for time, *end in times if not end]
            parsed.segments += [(item[0], item[1]) for item in times if len(item) == 2]
            parsed.texts.append(_clean_text(text))
        else:
            (reason, *_) = problems.values()
            parsed.unread.append(UnreadPart(number, f"{prefix} {bracket[0]}{text}".strip(), reason))
        prefix = ""
    return is_read


def _parse_bracket(content: str, token: Mapping[str, float] | None) -> tuple[list[list[float]], dict[str, str]]:
    """Parse a list of times and ranges: one or two seconds for each, and item -> reason for what cannot be read."""
    items = [item.strip() for item in _ITEM_END.split(unicodedata.normalize("NFKC", content))]
    times, problems = [], {}
    for item in [item for item in items if item] or [""]:
        try:
            times.append(_parse_times(item, token))
        except ValueError as error:
            problems[item] = str(error)
    return times, problems


def _parse_times(item: str, token: Mapping[str, float] | None) -> list[float]:
    """Parse `time` or `start - end`: one or two seconds.

    Raises:
        ValueError: it is neither.
    """
    item = _LABEL.sub("", item)
    match = re.fullmatch(rf"(.+?)\s*{_RANGE}\s*(.+)", item)
    times = [_parse_time(part, token) for part in (match.groups() if match else [item])]
    if times[0] > times[-1]:
        raise ValueError("found an end before the start, expected start - end")
    return times


def _parse_time(text: str, token: Mapping[str, float] | None) -> float:
    if token is not None and text.startswith("<"):
        if text not in token:
            raise ValueError(f"found {abbreviate(text)}, expected a key of token")
        return float(token[text])
    if match := _CLOCK.fullmatch(text):
        hours, minutes, seconds = match[1], int(match[2]), float(match[3].replace(",", "."))
        if seconds < 60 and (minutes < 60 or hours is None):
            return 3600 * int(hours or 0) + 60 * minutes + seconds
    elif match := _TOKEN.fullmatch(text) or _SECONDS.fullmatch(text):
        return float(match[1])
    raise ValueError(f"found {abbreviate(text)}, expected a time")


def _clean_text(text: str) -> str:
    """Remove Markdown, tags and the punctuation around the text of an entry."""
    text = re.sub(r"^[\s*+•:-]*\*\*[^*]{1,40}(?::\*\*|\*\*:)", "", text)  # a label such as **Description:**
    text = re.sub(r"\*\*|__|~~|`", "", _TAG.sub(" ", text))
    text = re.sub(r"(?<!\w)[*_](?=\w)|(?<=[\w.!?,])[*_](?!\w)", "", text)  # emphasis
    text = " ".join(text.split()).lstrip(" ]:：-–—|=>.,;*_").rstrip(" [|\\-–—•*_")
    quoted = re.fullmatch(r"[\"“]([^\"“”]*)[\"”]", text)
    return quoted[1] if quoted else text


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(prog="python -m metrics.parse", description=__doc__.split(":")[0])
    parser.add_argument("answers", metavar="ANSWERS", help='lines {"video_id": ..., "answer": ...}')
    parser.add_argument(
        "--out",
        required=True,
        type=pathlib.Path,
        metavar="PREDICTIONS",
        help=f"file to write, for python -m metrics; what cannot be read is in PREDICTIONS{UNREAD_SUFFIX}",
    )
    args = parser.parse_args(argv)
    if args.out.resolve() == pathlib.Path(args.answers).resolve():
        raise ValueError(f"out: found {args.out}, expected another file than ANSWERS")
    return args


def main(argv: list[str] | None = None) -> None:
    args = _parse_arguments(argv)
    answers = read_answers(args.answers)
    parsed_answers = {number: parse_answer(answer.answer, answer.token) for number, answer in answers.items()}
    make_folder(args.out.parent, "out")
    with atomic_write(args.out) as file:
        for number, parsed in parsed_answers.items():
            file.write(json.dumps(parsed.to_prediction(answers[number].video_id)) + "\n")
    unread = [
        (number, answers[number].video_id, part) for number, parsed in parsed_answers.items() for part in parsed.unread
    ]
    unread_path = args.out.with_name(args.out.name + UNREAD_SUFFIX)
    if unread:
        with atomic_write(unread_path) as file:
            for _, video_id, part in unread:
                file.write(json.dumps(dict(video_id=video_id) | dataclasses.asdict(part)) + "\n")
    else:
        unread_path.unlink(missing_ok=True)  # of an earlier run
    for number, video_id, part in unread:
        text = " ".join(part.text.split())[:100]
        source = f"{args.answers}: line {number}: video {video_id}: answer line {part.line}"
        print(f"{source}: {part.reason}: {text!r}", file=sys.stderr)
    counts = {
        "answers": len(answers),
        "key-frames": sum(len(parsed.keyframes) for parsed in parsed_answers.values()),
        "segments": sum(len(parsed.segments) for parsed in parsed_answers.values()),
        "captions": sum(bool(parsed.caption) for parsed in parsed_answers.values()),
        "unread parts": len(unread),
    }
    summary = ", ".join(f"{name} {count}" for name, count in counts.items())
    print(f"{args.out}: {summary}" + (f", see {unread_path}" if unread else ""))


if __name__ == "__main__":
    run_main(main)
