"""One-line messages for pydantic's errors: `field: found X, expected Y`."""

import difflib
import re
from collections.abc import Iterable
from typing import Any

import pydantic
from pydantic_core import ErrorDetails

# Error type -> expected value, formatted with the error's context. For other types, pydantic's message is used.
EXPECTED = {
    "bool_type": "true or false",
    "string_type": "text",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a finite number",
    "finite_number": "a finite number",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "too_short": "at least {min_length} item",
}


def describe_first_error(error: pydantic.ValidationError) -> str:
    """Describe the first error of a validation, with the path of its field."""
    location, text = locate_first_error(error)
    return ": ".join([*map(str, location), text])


def locate_first_error(error: pydantic.ValidationError) -> tuple[tuple[int | str, ...], str]:
    """Return the path of the field of a validation's first error, and its description.

    The description of a `ValueError` that a validator raises is its message.
    """
    problem = error.errors(include_url=False)[0]
    return problem["loc"], _describe(problem)


def _describe(problem: ErrorDetails) -> str:
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "missing":
        return "missing"
    if kind == "extra_forbidden":
        return "unknown key"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        expected = f"one of {context['expected']}".replace("'", "").replace(" or ", ", ")
    elif kind in EXPECTED:
        expected = EXPECTED[kind].format_map(context)
    else:
        expected = re.sub(r"^\w+ should (be|have) ", "", problem["msg"])
    return f"found {abbreviate(problem['input'])}, expected {expected}"


def abbreviate(value: Any) -> str:
    """Represent a value in at most 60 printable characters, for a message."""
    if isinstance(value, (list, tuple, dict)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    return ascii(value)[:60]


def suggest_name(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return "; did you mean NAME?" with the known name that a misspelled one stands for; "" if none is similar enough.

    Similar is a name that differs in a few letters, or the only one that begins with the words of `name`.
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
    beginning = [candidate for candidate in names if candidate.startswith(f"{name}_")]
    if not near and len(beginning) == 1:
        near = beginning
    return f"; did you mean {prefix}{near[0]}?" if near else ""
