"""pydantic's errors as one line: what was found and what was expected."""

from typing import Any

import pydantic
from pydantic_core import ErrorDetails

# Kind of an error -> what was expected; the fields are those of its context.
EXPECTED = {
    "bool_type": "true or false",
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a finite number",
    "finite_number": "a finite number",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "tuple_type": "a list of names",
    "too_short": "at least {min_length}",
    "string_too_short": "at least {min_length} characters",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "literal_error": "one of {expected}",
}


def describe(error: pydantic.ValidationError) -> tuple[tuple[int | str, ...], str]:
    """The first problem of a `ValidationError`: path of the field, and "found X, expected Y"."""
    details = error.errors(include_url=False)[0]
    return details["loc"], describe_details(details)


def describe_details(details: ErrorDetails) -> str:
    """One problem in words: "missing", "unknown key", or "found X, expected Y"."""
    kind, context = details["type"], details.get("ctx", {})
    if kind == "missing":
        return "missing"
    if kind == "extra_forbidden":
        return "unknown key"
    if kind == "value_error":
        return str(context["error"])
    expected = EXPECTED.get(kind, "").format_map(context) or details["msg"]
    return f"found {brief(details['input'])}, expected {expected.replace(chr(39), '').replace(' or ', ', ')}"


def brief(value: Any) -> str:
    """A value of a file in a few characters."""
    if isinstance(value, list | dict) and len(repr(value)) > 60:
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    return repr(value)[:60]
