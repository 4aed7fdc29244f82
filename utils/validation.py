"""pydantic's errors as one line: `field: found X, expected Y`."""

import re
from typing import Any

import pydantic
from pydantic_core import ErrorDetails

# Kind of a problem -> what was expected; the fields are those of its context. Others: pydantic's own words.
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
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
}


def first_problem(error: pydantic.ValidationError) -> str:
    """The first problem of a validation, with the path of its field."""
    location, text = locate_first_problem(error)
    return ": ".join([*map(str, location), text])


def locate_first_problem(error: pydantic.ValidationError) -> tuple[tuple[int | str, ...], str]:
    """The first problem of a validation: path of its field, and the text for it.

    A validator that raises a `ValueError` writes that text itself.
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
    return f"found {brief(problem['input'])}, expected {expected}"


def brief(value: Any) -> str:
    """Write a value for a message, in at most 60 printable characters."""
    if isinstance(value, (list, tuple, dict)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    return ascii(value)[:60]
