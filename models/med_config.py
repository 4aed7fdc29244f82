"""Sizes of the caption decoder, from a `med_config.json`."""

import os
import pathlib
from typing import Annotated, Literal, Self

import pydantic

from utils.files import read_json
from utils.validation import locate_first_error

Size = Annotated[int, pydantic.Field(ge=1, le=2**24)]
Fraction = Annotated[float, pydantic.Field(ge=0, le=1)]


class TextDecoderConfig(pydantic.BaseModel):
    """Sizes of the decoder under the keys of `med_config.json`; other keys are ignored, defaults are BERT's."""

    model_config = pydantic.ConfigDict(frozen=True, strict=True)

    hidden_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    intermediate_size: Size
    vocab_size: Size
    pad_token_id: int = pydantic.Field(0, ge=0)
    max_position_embeddings: Size = 512
    layer_norm_eps: Fraction = 1e-12
    hidden_dropout_prob: Fraction = 0.1
    attention_probs_dropout_prob: Fraction = 0.1
    initializer_range: Fraction = 0.02
    hidden_act: Literal["gelu"] = "gelu"

    @pydantic.model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size: found {self.hidden_size}, "
                f"expected a multiple of num_attention_heads ({self.num_attention_heads})"
            )
        if self.pad_token_id >= self.vocab_size:
            raise ValueError(f"pad_token_id: found {self.pad_token_id}, expected less than vocab_size")
        return self

    @classmethod
    def from_json(cls, path: str | os.PathLike) -> Self:
        """Read a `med_config.json`.

        Args:
            path: the file; a relative path that does not exist is resolved against the repository.
        Raises:
            FileNotFoundError: no such file.
            ValueError: not JSON, a key is missing, or a value that the decoder does not support.
        """
        path = pathlib.Path(path)
        if not path.is_absolute() and not path.is_file():
            path = pathlib.Path(__file__).resolve().parent.parent / path
        try:
            return cls.model_validate(read_json(path, "med_config"))
        except pydantic.ValidationError as error:
            location, problem = locate_first_error(error)
            raise ValueError(": ".join(map(str, (path, *location, problem)))) from None
