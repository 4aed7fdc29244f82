"""pydantic's errors as this project's one-line messages."""

import re
from typing import Any

import pydantic


def first_problem(error: pydantic.ValidationError) -> str:
    """Describe the first problem of a validation: `field: found X, expected Y`.

    A validator of the project that raises a `ValueError` writes the part after the field itself.
    """
    problem = error.errors(include_url=False)[0]
    if problem["type"] == "missing":
        text = "missing"
    elif problem["type"] == "value_error":
        text = str(problem["ctx"]["error"])
    else:
        is_object = problem["type"] == "model_type"
        expected = "an object" if is_object else re.sub(r"^\w+ should (be|have) ", "", problem["msg"])
        text = f"found {brief(problem['input'])}, expected {expected}"
    return ": ".join([*map(str, problem["loc"]), text])


def brief(value: Any) -> str:
    """Write a value for a message, in at most 60 printable characters."""
    if isinstance(value, (list, tuple, dict)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    return ascii(value)[:60]
