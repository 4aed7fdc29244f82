"""Command lines: one-line errors, and flags generated from the fields of `Settings`."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Generic, NoReturn, TypeVar

from pydantic.fields import FieldInfo

from utils.settings import InvalidSetting, Settings, choices, flag_type, is_list, read_layers, suggest_setting

S = TypeVar("S", bound=Settings)


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


@dataclasses.dataclass(frozen=True)
class CommandLine(Generic[S]):
    """A parsed command line with its YAML files.

    Attributes:
        settings: defaults < YAML < flags.
        notes: lines for the log: flags that override the YAML, ignored obsolete keys.
        arguments: the arguments that the script added.
    """

    settings: S
    notes: tuple[str, ...]
    arguments: argparse.Namespace


def load_settings(
    cls: type[S],
    argv: Sequence[str] | None = None,
    description: str | None = None,
    add_arguments: Callable[[argparse.ArgumentParser], None] | None = None,
) -> CommandLine[S]:
    """Build the settings of a command line.

    Args:
        cls: class of the settings.
        argv: arguments without the program's name; None is `sys.argv[1:]`.
        description: first line of `--help`.
        add_arguments: adds further arguments to the parser.
    Raises:
        FileNotFoundError, ValueError: see `read_layers` and `Settings`.
    """
    parser = _parser(cls, description)
    if add_arguments is not None:
        add_arguments(parser)
    parsed, unknown = parser.parse_known_args(argv)
    for argument in unknown:
        if argument.startswith("--"):
            raise ValueError(f"{argument}: unknown flag{suggest_setting(argument[2:].split('=')[0], cls, '--')}")
        raise ValueError(f"unknown argument {argument!r}")
    flags = {name: value for name, value in vars(parsed).items() if name in cls.model_fields}
    layers = read_layers(parsed.config, cls)
    notes = [
        f"{path}: {key}: a setting of an earlier version, ignored"
        for path, layer in layers
        for key in sorted(layer.keys() & cls.obsolete)
    ]
    values = {key: value for _, layer in layers for key, value in layer.items() if key not in cls.obsolete}
    try:
        cls(**values)  # report a wrong value with its file, even if a flag overrides it
    except InvalidSetting as error:
        if error.name not in flags:
            source = next((path for path, layer in reversed(layers) if error.name in layer), parsed.config)
            raise ValueError(f"{source}: {error}") from None
    for name, value in flags.items():
        if name in values and values[name] != value:
            notes.append(f"{name}: the flag's {value!r} overrides the config's {values[name]!r}")
    return CommandLine(cls(**(values | flags)), tuple(notes), parsed)


def _parser(cls: type[Settings], description: str | None) -> OneLineParser:
    parser = OneLineParser(description=description, argument_default=argparse.SUPPRESS, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="YAML file of settings; flags override it")
    for name, field in cls.model_fields.items():
        help_text = f"{_help(field)} (default: {field.default!r})".replace("%", "%%")
        arguments: dict[str, Any]
        if field.annotation is bool:
            arguments = dict(type=_bool, nargs="?", const=True, metavar="BOOL")
        elif is_list(field):
            arguments = dict(nargs="+", metavar="NAME")
        else:
            value_type = flag_type(field)
            arguments = dict(type=value_type, metavar="NAME" if choices(field) else value_type.__name__.upper())
        parser.add_argument(f"--{name}", help=help_text, **arguments)
    return parser


def _help(field: FieldInfo) -> str:
    """Help text with the allowed values."""
    return f"{field.description}" + (f" (one of {', '.join(choices(field))})" if choices(field) else "")


def _bool(text: str) -> bool:
    """Parse the value of a boolean flag."""
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected true or false")
    return words[text.lower()]


def reference_table(cls: type[Settings]) -> str:
    """Return the documentation's table of settings, one row per field."""
    rows = [f"| `{name}` | `{field.default!r}` | {_help(field)} |" for name, field in cls.model_fields.items()]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows])
