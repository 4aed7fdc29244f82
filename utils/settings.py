"""Frozen settings: fields with limits, checked on creation; read from YAML, which may start from another file's.

Each field's comment line below it is its help text and its row in the README.
"""

import dataclasses
import difflib
import os
import pathlib
import sys
import types
import typing

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

from utils.files import atomic_write, read_text

MOST_DEPTH = 32


def option(default, help, choices=None, least=None, above=None, most=None, free=False):
    """Declare a field with its help text and its limits; `free`: it may change when a run goes on."""
    return dataclasses.field(
        default=default, metadata=dict(help=help, choices=choices, least=least, above=above, most=most, free=free)
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base of configurations: each field is checked on creation.

    Raises:
        ValueError: a value is of the wrong type or outside its limits; the message names the field.
    """

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _checked(field, getattr(self, field.name)))

    def decisive(self):
        """Names of the settings that training depends on: with others, a run is another run."""
        return [field.name for field in dataclasses.fields(self) if not field.metadata["free"]]

    def as_dict(self):
        """Plain values by name, in the order of the fields."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}


def fields_of(cls):
    """The settings of a configuration class: name -> field."""
    return {field.name: field for field in dataclasses.fields(cls)}


def is_list(field):
    return typing.get_origin(field.type) is tuple


def _type_name(field):
    if is_list(field):
        return "a list of names"
    return {bool: "true or false", str: "text", int: "a whole number", float: "a number"}[field.type]


def _checked(field, value):
    """Return the value in the field's type, or raise a ValueError that names the field."""
    expected, kind = _type_name(field), field.type
    if is_list(field):
        value = (value,) if isinstance(value, str) else value
        if not isinstance(value, (list, tuple)) or not value or not all(isinstance(v, str) for v in value):
            raise ValueError(f"{field.name}: found {value!r}, expected {expected}")
        value = tuple(value)
    elif kind is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
            raise ValueError(f"{field.name}: found {repr(value)[:60]}, expected a finite number")
        value = float(value)
    elif value is None and kind is str:
        value = ""  # `key:` without a value
    elif not isinstance(value, kind) or (kind is int and (isinstance(value, bool) or abs(value) > 2**31)):
        raise ValueError(f"{field.name}: found {repr(value)[:60]}, expected {expected}")
    limits = types.SimpleNamespace(**field.metadata)
    for single in value if is_list(field) else (value,):
        if limits.choices and single not in limits.choices:
            raise ValueError(f"{field.name}: found {single!r}, expected one of {', '.join(limits.choices)}")
    if is_list(field) and len(set(value)) != len(value):
        raise ValueError(f"{field.name}: found {', '.join(value)}, expected each name once")
    for bound, wrong, words in (
        (limits.least, lambda b: value < b, "at least"),
        (limits.above, lambda b: value <= b, "more than"),
        (limits.most, lambda b: value > b, "at most"),
    ):
        if bound is not None and wrong(bound):
            raise ValueError(f"{field.name}: found {value!r}, expected {words} {bound}")
    return value


def read_yaml(path, cls):
    """The settings that a YAML file gives, with those of the file it starts from: a dictionary; see `read_layers`."""
    return {name: value for _, layer in read_layers(path, cls) for name, value in layer.items()}


def read_layers(path, cls):
    """Read a YAML file of a class's settings and, where it says `base: other.yaml`, those it starts from.

    Args:
        path: the file; what `base` names is relative to its folder.
        cls: class of the settings.
    Returns:
        list of (path, values), the file itself last: what comes later counts.
    Raises:
        FileNotFoundError, ValueError: no such file; not a mapping; an unknown key (the nearest known one is named);
            files that start from each other.
    """
    layers, seen = [], set()
    while path is not None:
        seen.add(os.path.realpath(path))
        values = _read_one(path, cls)
        layers.insert(0, (path, values))
        path = _base(path, values.pop("base", None), seen)
    return layers


def _base(path, base, seen):
    """Path of the file that `path` starts from by its key `base`, None without."""
    if base is None:
        return None
    found = pathlib.Path(path).parent / base if isinstance(base, str) and base else None
    if found is None:
        raise ValueError(f"{path}: base: found {repr(base)[:200]}, expected another YAML file's path")
    if not found.is_file():
        raise ValueError(f"{path}: base: {found}: no such file (a path is from the folder of the file that names it)")
    if os.path.realpath(found) in seen:
        raise ValueError(f"{path}: base: found {base!r}, which itself starts from this file")
    return str(found)  # not made shorter: .. may follow a link


def _read_one(path, cls):
    """Read one YAML file (YAML 1.2, safe loader): a dictionary of settings, perhaps with `base`."""
    text = read_text(path, "config")
    try:
        _require_plain(text)
        values = YAML(typ="safe", pure=True).load(text)
    except Exception as error:  # ruamel raises KeyError, OverflowError and RecursionError too
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        reason = error.problem if isinstance(error, MarkedYAMLError) else " ".join(str(error).split())
        raise ValueError(f"{path}: config: {place}not valid YAML ({reason})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: config: found {type(values).__name__}, expected keys and values")
    for key in values:
        if key != "base" and key not in fields_of(cls):
            raise ValueError(f"{path}: {key}: unknown key{nearest(str(key), cls)}")
    return values


def _require_plain(text):
    """Raise an error where YAML text has tags, aliases (which may unfold without end) or nests too deep."""
    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        problem = None
        if isinstance(event, AliasEvent):
            problem = "found an alias, expected plain values"
        elif getattr(event, "ctag", None) is not None:
            problem = f"found a tag, {str(event.ctag)[:60]!r}, expected plain values"
        elif depth > MOST_DEPTH:
            problem = f"nested deeper than {MOST_DEPTH} levels"
        if problem:
            raise MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def nearest(name, cls, prefix=""):
    near = difflib.get_close_matches(name, fields_of(cls), n=1, cutoff=0.5)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


def write_config(config, path):
    """Write the resolved configuration as YAML that `load_config` reads back to the same values."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    with atomic_write(path) as file:
        yaml.dump(config.as_dict(), file)
