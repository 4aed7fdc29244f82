"""Command lines: one-line errors, and flags generated from the fields of `Settings`."""

import argparse
import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any, Generic, NoReturn, TypeVar

from pydantic.fields import FieldInfo

from utils.settings import (
    InvalidSetting,
    Settings,
    choices,
    flag_type,
    is_list,
    is_mapping,
    make_layer,
    read_layers,
)
from utils.validation import suggest_name

S = TypeVar("S", bound=Settings)

CHECK_PASSED = "check: the settings are valid, and the files exist"


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


@dataclasses.dataclass(frozen=True)
class CommandLine(Generic[S]):
    """A parsed command line with its YAML files.

    Attributes:
        settings: defaults < YAML < flags.
        notes: lines for the log: flags that override the YAML or have no effect, ignored keys, other names of settings.
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
    default_config: str | os.PathLike | None = None,
) -> CommandLine[S]:
    """Build the settings of a command line.

    Args:
        cls: class of the settings.
        argv: arguments without the program's name; None is `sys.argv[1:]`.
        description: first line of `--help`.
        add_arguments: adds arguments of the script, which `--help` lists first.
        default_config: YAML file without `--config`; None requires the flag.
    Raises:
        FileNotFoundError, ValueError: see `read_layers` and `Settings`.
    """
    parser = _parser(cls, description, add_arguments, default_config)
    parsed, unknown = parser.parse_known_args(argv)
    flag_names = [*cls.model_fields, *cls.name_aliases, *(n for n, key in cls.ignored.items() if key.flag_type)]
    for argument in unknown:
        if argument.startswith("--"):
            raise ValueError(f"{argument}: unknown flag{suggest_name(argument[2:].split('=')[0], flag_names, '--')}")
        raise ValueError(f"unknown argument {argument!r}")
    typed = make_layer({name: value for name, value in vars(parsed).items() if name in flag_names}, cls)
    flags = typed.values
    layers = read_layers(parsed.config, cls)
    notes = [note for layer in (*layers, typed) for note in layer.notes]
    values = {key: value for layer in layers for key, value in layer.values.items()}
    try:
        cls(**values)  # report a wrong value with its file, even if a flag overrides it
    except InvalidSetting as error:
        if error.name not in flags:
            source = next((layer.path for layer in reversed(layers) if error.name in layer.values), parsed.config)
            raise ValueError(f"{source}: {error}") from None
    for name, value in flags.items():
        if name in values and values[name] != value:
            notes.append(f"{name}: the flag's {value!r} overrides the config's {values[name]!r}")
    settings = cls(**(values | flags))
    resolved = settings.as_dict()
    for name in flags:
        if (other := cls.find_disabling_setting(name, resolved)) is not None:
            notes.append(f"{name}: the flag has no effect with {other} {resolved[other]}")
    return CommandLine(settings, tuple(notes), parsed)


def _parser(
    cls: type[Settings],
    description: str | None,
    add_arguments: Callable[[argparse.ArgumentParser], None] | None,
    default_config: str | os.PathLike | None,
) -> OneLineParser:
    """Build the parser; arguments as in `load_settings`."""
    parser = OneLineParser(description=description, argument_default=argparse.SUPPRESS, allow_abbrev=False)
    if add_arguments is not None:
        add_arguments(parser)
    settings = parser.add_argument_group("settings", "of the YAML file, or as flags, which override it")
    default = {} if default_config is None else dict(default=str(default_config))
    config_help = "YAML file of settings" + (f" (default: {default_config})" if default else "")
    settings.add_argument("--config", required=not default, help=config_help, **default)
    for name, field in cls.model_fields.items():
        help_text = f"{_help(field)} (default: {field.default!r})".replace("%", "%%")
        arguments = _flag_arguments(flag_type(field))
        if is_list(field):
            arguments = dict(nargs="+", metavar="NAME")
        elif is_mapping(field):
            arguments = dict(nargs="+", metavar="KEY=VALUE", action=StoreMapping)
        if choices(field):
            arguments["metavar"] = "NAME"
        settings.add_argument(f"--{name}", help=help_text, **arguments)
    for alias, name in cls.name_aliases.items():
        arguments = _flag_arguments(flag_type(cls.model_fields[name]))
        settings.add_argument(f"--{alias}", help=f"another name of --{name}", **arguments)
    for name, key in cls.ignored.items():
        if key.flag_type is not None:
            settings.add_argument(f"--{name}", help=f"ignored: {key.reason}", **_flag_arguments(key.flag_type))
    return parser


def _flag_arguments(value_type: type) -> dict[str, Any]:
    """Arguments of `add_argument` for a flag with one value."""
    if value_type is bool:
        return dict(type=parse_bool, nargs="?", const=True, metavar="BOOL")
    return dict(type=value_type, metavar=value_type.__name__.upper())


class StoreMapping(argparse.Action):
    """Store the arguments `KEY=VALUE ...` of a flag as a dictionary."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        mapping: dict[str, str] = {}
        for text in values or ():
            key, separator, value = text.partition("=")
            if not separator or not value or key in mapping:
                raise argparse.ArgumentError(self, f"found {text!r}, expected KEY=VALUE, each key once")
            mapping[key] = value
        setattr(namespace, self.dest, mapping)


def add_check_option(parser: argparse.ArgumentParser) -> None:
    """Add `--check`: only check what a command needs."""
    parser.add_argument(
        "--check",
        action="store_true",
        default=False,
        help="check the settings and that the files exist, and exit; needs no launcher",
    )


def _help(field: FieldInfo) -> str:
    """Help text with the allowed values."""
    return f"{field.description}" + (f" (one of {', '.join(choices(field))})" if choices(field) else "")


def parse_bool(text: str) -> bool:
    """Parse the value of a boolean flag."""
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected true or false")
    return words[text.lower()]


def reference_table(cls: type[Settings]) -> str:
    """Return the documentation's table of settings, one row per field."""
    rows = [f"| `{name}` | `{field.default!r}` | {_help(field)} |" for name, field in cls.model_fields.items()]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows])
