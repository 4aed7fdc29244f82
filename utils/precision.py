"""Names of the precisions that models compute in; `utils.device` has their dtypes."""

from typing import Literal, get_args

PrecisionName = Literal["fp32", "bf16", "fp16"]
PRECISION_NAMES: tuple[PrecisionName, ...] = get_args(PrecisionName)
# Names of earlier versions, also in their files.
PRECISION_ALIASES = {"float32": "fp32"}


def canonical_precision(name: str) -> str:
    """Replace an alias by its name; other names are unchanged."""
    return PRECISION_ALIASES.get(name, name)
