"""Reader of Instruct-V2Xum's annotation files (Hua et al., AAAI 2025; `hhua2/Instruct-V2Xum` on the Hugging Face hub).

A file is a JSON list; the answer of a record consists of lines that cite key-frames by token: `[<f0>]sentence`, or
`[<f0>, <f3>]sentence` or `[<f0>][<f3>]sentence` for several.

Axis: T frames at 1 fps, `sampled_frames` in the file.
"""

import itertools
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, NamedTuple, Self

import numpy as np
import pydantic

from data.annotations import (
    DatasetReader,
    Duration,
    Keyframes,
    VideoId,
    VideoRecord,
    as_rows,
    read_entries,
    validate_entries,
)
from utils.validation import abbreviate

logger = logging.getLogger(__name__)

_TOKEN = re.compile(r"<[^<>\s]+>")
_BRACKET = rf"\[\s*{_TOKEN.pattern}(?:\s*,\s*{_TOKEN.pattern})*\s*\]"
_CITATION = re.compile(rf"((?:{_BRACKET}[^\S\n]*)+)")


class _Sentence(NamedTuple):
    """A sentence of an answer, and the seconds of the key-frames that it cites."""

    text: str
    seconds: list[float]


class _Meta(pydantic.BaseModel):
    """`meta` of a record."""

    model_config = pydantic.ConfigDict(strict=True)

    duration: Duration
    sampled_frames: Annotated[int, pydantic.Field(ge=1)]
    token: dict[str, Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]]


class _Turn(pydantic.BaseModel):
    """A turn of `conversations`."""

    model_config = pydantic.ConfigDict(strict=True)

    speaker: Annotated[str, pydantic.Field(alias="from")]
    value: str


class _ConversationRecord(pydantic.BaseModel):
    """One record of the file; further keys are ignored."""

    model_config = pydantic.ConfigDict(strict=True, arbitrary_types_allowed=True)

    id: VideoId
    meta: _Meta
    conversations: list[_Turn]
    vsum_onehot: Annotated[Keyframes, pydantic.BeforeValidator(as_rows)]  # (1, T)

    @pydantic.model_validator(mode="after")
    def _check_length(self) -> Self:
        R, T = self.vsum_onehot.shape
        if R != 1 or self.meta.sampled_frames != T:
            raise ValueError(
                f"vsum_onehot: found {R} rows of {T} values, expected one of {abbreviate(self.meta.sampled_frames)}, "
                "as in sampled_frames"
            )
        return self


def _parse_answer(conversations: Sequence[_Turn], seconds_of_token: Mapping[str, float]) -> list[_Sentence]:
    """Split the answer into sentences.

    Raises:
        ValueError: there is no answer, or it is not in the format.
    """
    answer = next((turn.value for turn in conversations if turn.speaker == "gpt"), None)
    if answer is None:
        raise ValueError("found no answer, expected a turn from gpt")
    introduction, *parts = _CITATION.split(answer)
    unread = introduction.strip() or next((text.strip() for text in parts[1::2] if "[<" in text), "")
    if unread or not parts:
        raise ValueError(f"found {abbreviate(unread or answer)}, expected lines such as [<f0>]sentence")
    sentences = []
    for citation, text in zip(parts[::2], parts[1::2]):
        tokens = _TOKEN.findall(citation)
        unknown = [token for token in tokens if token not in seconds_of_token]
        if unknown:
            raise ValueError(f"found {abbreviate(unknown[0])}, expected a key of token")
        if not text.strip():
            raise ValueError(f"found {abbreviate(citation.strip())} without a sentence, expected [<f0>]sentence")
        sentences.append(_Sentence(" ".join(text.split()), [float(seconds_of_token[token]) for token in tokens]))
    return sentences


def build_spans(keyframes: Sequence[Sequence[float]], duration: float) -> tuple[tuple[float, float], ...]:
    """Extend the key-frames of sentences to spans.

    A span reaches from the midpoint between the sentence's first key-frame and the previous key-frame to the midpoint
    between its last key-frame and the next one; the first begins at 0, and the last ends with the video.

    Args:
        keyframes: seconds of the key-frames of each sentence.
        duration: of the video, in seconds.
    Returns:
        (start, end) in seconds of each sentence.
    """
    clipped = [[min(second, duration) for second in seconds] for seconds in keyframes]
    ordered = sorted({second for seconds in clipped for second in seconds})
    middles = [(a + b) / 2 for a, b in itertools.pairwise(ordered)]
    start_of = dict(zip(ordered, [0.0, *middles]))
    end_of = dict(zip(ordered, [*middles, duration]))
    return tuple((start_of[min(seconds)], end_of[max(seconds)]) for seconds in clipped)


def read_instruct_v2xum(path: str | os.PathLike) -> Iterator[VideoRecord]:
    """Read a JSON list of records with the fields of `_ConversationRecord`; see `DatasetReader.read`.

    The key-frames are those that the answer cites, of one annotator. Videos whose `vsum_onehot` differs from them are
    one warning for the file.
    """
    warnings: list[str] = []
    for fields in validate_entries(path, read_entries(path), _ConversationRecord, "id"):
        try:
            sentences = _parse_answer(fields.conversations, fields.meta.token)
        except ValueError as error:
            raise ValueError(f"{path}: video {fields.id}: conversations: {error}") from None
        T = fields.meta.sampled_frames
        keyframes = np.zeros((1, T), np.uint8)
        for sentence in sentences:
            keyframes[0, [min(round(second), T - 1) for second in sentence.seconds]] = 1
        different = np.flatnonzero(keyframes[0] != fields.vsum_onehot[0])
        if len(different):
            t = different[0]
            warnings.append(
                f"video {fields.id}: vsum_onehot: frame {t}: found {fields.vsum_onehot[0, t]}, expected "
                f"{keyframes[0, t]}"
            )
        texts = tuple(sentence.text for sentence in sentences)
        yield VideoRecord(
            video_id=fields.id,
            index=-1,
            duration=fields.meta.duration,
            tsum=texts,
            references=(" ".join(texts),),
            vsum_onehot=keyframes,
            spans=build_spans([sentence.seconds for sentence in sentences], fields.meta.duration),
        )
    if warnings:
        logger.warning(
            "%s: in %d videos, vsum_onehot differs from the key-frames of the answer, which are used; the first: %s",
            path,
            len(warnings),
            warnings[0],
        )


INSTRUCT_V2XUM = DatasetReader(read_instruct_v2xum, title="Instruct-V2Xum", repository="hhua2/Instruct-V2Xum")
