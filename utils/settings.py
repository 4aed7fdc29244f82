"""Settings of a run: declared once as fields, layered from YAML files, checked by pydantic.

A field's help text is its flag's help and its row in docs/configuration.md.
"""

import dataclasses
import os
import pathlib
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import pydantic
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from utils.files import atomic_write, read_text
from utils.validation import abbreviate, locate_first_error, suggest_name


def option(
    default: Any,
    help: str,
    *,
    may_change_on_resume: bool = False,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
) -> Any:
    """Declare a field of `Settings`.

    Args:
        default: value if neither a YAML file nor a flag gives one.
        help: one line, also shown by `--help` and in the documentation.
        may_change_on_resume: a run may resume with another value.
        ge, gt, le: limits, as in `pydantic.Field`; integers are at most 2**31 by default.
    """
    return pydantic.Field(
        default,
        description=help,
        json_schema_extra=dict(may_change_on_resume=may_change_on_resume),
        ge=ge,
        gt=gt,
        le=2**31 if type(default) is int and le is None else le,
    )


class InvalidSetting(ValueError):
    """A setting has a wrong type or value.

    Attributes:
        name: name of the setting.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name


@dataclasses.dataclass(frozen=True)
class IgnoredKey:
    """A key of a YAML file that is accepted and ignored.

    Attributes:
        reason: for the log; keys with the same reason are one line.
        flag_type: type of the flag of the same name, which is ignored too; None if there is no flag.
    """

    reason: str
    flag_type: type | None = None


class Settings(pydantic.BaseModel):
    """Base of configurations: frozen, each field checked on creation.

    Raises:
        InvalidSetting: a value is of the wrong type or outside its limits.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    # Key -> reason to ignore it.
    ignored: ClassVar[dict[str, IgnoredKey]] = {}
    # Other name of a setting -> its name.
    name_aliases: ClassVar[dict[str, str]] = {}
    # Name of a setting -> value in an earlier version -> current value.
    aliases: ClassVar[dict[str, dict[str, str]]] = {}
    # Setting -> another setting, and the value of it without which the setting has no effect.
    required_values: ClassVar[dict[str, tuple[str, Any]]] = {}
    # Settings that are compared only if they are set: a default of theirs is not written.
    written_if_set: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except pydantic.ValidationError as error:
            cause = error.errors()[0].get("ctx", {}).get("error")
            if isinstance(cause, InvalidSetting):
                raise cause from None
            location, message = locate_first_error(error)
            raise InvalidSetting(str(location[0]), message) from None

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _accept_yaml_values(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        """Convert null to "" for strings and to {} for mappings, a single name to a list, and aliases of values."""
        assert info.field_name is not None
        field = cls.model_fields[info.field_name]
        value = cls._canonical_value(info.field_name, value)
        if is_mapping(field) and not isinstance(value, dict):
            raise ValueError(f"found {abbreviate(value)}, expected keys and values")
        if is_list(field):
            value = [value] if isinstance(value, str) else value
            if not isinstance(value, list | tuple) or not value:
                raise ValueError(f"found {abbreviate(value)}, expected a list of names")
            if len(set(map(str, value))) < len(value):
                raise ValueError(f"found {', '.join(map(abbreviate, value))}, expected each name once")
            return tuple(value)
        return value

    def replace(self, **changes: Any) -> Self:
        """Return a validated copy with other values; those of the others that were not set stay so."""
        return type(self)(**(self.set_values() | changes))

    def set_values(self) -> dict[str, Any]:
        """Values by name that a YAML file, a flag or an argument has set."""
        return {name: value for name, value in self if name in self.model_fields_set}

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name, in the order of the fields."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self}

    @classmethod
    def _canonical_value(cls, name: str, value: Any) -> Any:
        field = cls.model_fields.get(name)
        if value is None and field is not None and not is_list(field) and flag_type(field) is str:
            return {} if is_mapping(field) else ""
        return cls.aliases.get(name, {}).get(value, value) if isinstance(value, str) else value

    @classmethod
    def canonical(cls, stored: dict[str, Any]) -> dict[str, Any]:
        """Convert a configuration that a file holds to current names and values, without validation."""
        renamed = {cls.name_aliases[name]: value for name, value in stored.items() if name in cls.name_aliases}
        renamed |= {name: value for name, value in stored.items() if name not in cls.name_aliases}
        return {name: cls._canonical_value(name, value) for name, value in renamed.items()}

    @classmethod
    def find_disabling_setting(cls, name: str, values: Mapping[str, Any]) -> str | None:
        """Find the setting whose value leaves another one without effect.

        Args:
            name: name of the setting that may have no effect.
            values: values of all settings by name.
        Returns:
            Name of the other setting, see `required_values`; None if the setting has an effect.
        """
        if name not in cls.required_values:
            return None
        other, required = cls.required_values[name]
        return cls.find_disabling_setting(other, values) or (other if values[other] != required else None)

    @classmethod
    def resume_critical_fields(cls) -> list[str]:
        """Names of the settings that must be the same when a run resumes."""
        return [name for name, field in cls.model_fields.items() if not _may_change_on_resume(field)]


def _may_change_on_resume(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra["may_change_on_resume"])


def is_list(field: FieldInfo) -> bool:
    """Whether a setting is a list of names."""
    return typing.get_origin(field.annotation) is tuple


def is_mapping(field: FieldInfo) -> bool:
    """Whether a setting is a mapping of names to texts."""
    return typing.get_origin(field.annotation) is dict


def choices(field: FieldInfo) -> tuple[str, ...]:
    """The allowed values of a setting; () if any value of its type is allowed."""
    annotation = typing.get_args(field.annotation)[0] if is_list(field) else field.annotation
    return typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()


def flag_type(field: FieldInfo) -> type:
    """Type that a flag's text is converted to."""
    if choices(field) or is_list(field) or is_mapping(field):
        return str
    assert isinstance(field.annotation, type)
    return field.annotation


@dataclasses.dataclass(frozen=True)
class SettingsLayer:
    """The settings of one YAML file or of the flags.

    Attributes:
        values: values by name, without ignored keys.
        notes: lines for the log: ignored keys, and other names of settings.
        path: the file; "" for flags.
    """

    values: dict[str, Any]
    notes: tuple[str, ...] = ()
    path: str = ""


def make_layer(values: dict[str, Any], cls: type[Settings], path: str = "") -> SettingsLayer:
    """Drop the ignored keys of a YAML file or the flags, and replace other names of settings.

    Raises:
        ValueError: a setting has two values under two names.
    """
    source, prefix = (f"{path}: ", "") if path else ("", "--")
    current = {key: value for key, value in values.items() if key not in cls.ignored and key not in cls.name_aliases}
    reasons: dict[str, list[str]] = {}
    for key in values:
        if key in cls.ignored:
            reasons.setdefault(cls.ignored[key].reason, []).append(prefix + key)
    notes = [f"{source}{', '.join(keys)}: {reason}, ignored" for reason, keys in reasons.items()]
    for alias, name in cls.name_aliases.items():
        if alias not in values:
            continue
        if current.setdefault(name, values[alias]) != values[alias]:
            raise ValueError(
                f"{source}{prefix}{alias}: found {values[alias]!r}, expected {current[name]!r}, the value of "
                f"{prefix}{name}: both name the same setting; give one of them"
            )
        notes.append(f"{source}{prefix}{alias}: another name of {prefix}{name}")
    return SettingsLayer(current, tuple(notes), path)


def read_settings(path: str | os.PathLike, cls: type[Settings]) -> dict[str, Any]:
    """Settings of a YAML file and of its base files, by name; see `read_layers`."""
    return {name: value for layer in read_layers(path, cls) for name, value in layer.values.items()}


def read_layers(path: str | os.PathLike, cls: type[Settings]) -> list[SettingsLayer]:
    """Read a YAML file of settings and the chain of its base files (`base: other.yaml`).

    Args:
        path: the file; a path in `base` is relative to the file's folder.
        cls: class of the settings.
    Returns:
        Each file's layer, base files first: later values override earlier ones.
    Raises:
        FileNotFoundError, ValueError: no such file; not a mapping; an unknown key (the message suggests one); a setting
            with two values; a cycle of base files.
    """
    layers: list[SettingsLayer] = []
    visited: set[str] = set()
    current: str | None = str(path)
    while current is not None:
        visited.add(os.path.realpath(current))
        values = _read_one(current, cls)
        base = values.pop("base", None)
        layers.insert(0, make_layer(values, cls, current))
        current = _base_path(current, base, visited)
    return layers


def _base_path(path: str, base: Any, visited: set[str]) -> str | None:
    """Path of the base file of `path`, None if it has none."""
    if base is None:
        return None
    if not isinstance(base, str) or not base:
        raise ValueError(f"{path}: base: found {repr(base)[:200]}, expected another YAML file's path")
    target = pathlib.Path(path).parent / base
    if not target.is_file():
        raise ValueError(f"{path}: base: {target}: no such file (paths are relative to the file that names them)")
    if os.path.realpath(target) in visited:
        raise ValueError(f"{path}: base: found {base!r}, which leads to a cycle of base files")
    return str(target)  # not normalized: .. may follow a link


def _read_one(path: str, cls: type[Settings]) -> dict[str, Any]:
    """Read one YAML file (YAML 1.2, safe loader): settings by name, and `base`."""
    text = read_text(path, "config")
    try:
        values = YAML(typ="safe", pure=True).load(text)
    except Exception as error:  # ruamel raises KeyError, OverflowError and RecursionError too
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        reason = error.problem if isinstance(error, MarkedYAMLError) else " ".join(str(error).split())
        raise ValueError(f"{path}: config: {line}not valid YAML ({reason})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: config: found {type(values).__name__}, expected keys and values")
    known = cls.model_fields.keys() | cls.ignored.keys() | cls.name_aliases.keys() | {"base"}
    for key in values:
        if key not in known:
            raise ValueError(f"{path}: {key}: unknown key{suggest_name(str(key), known)}")
    return values


def write_settings(settings: Settings, path: str | os.PathLike) -> None:
    """Write the resolved settings as YAML that reads back to the same values."""
    values = settings.as_dict()
    for name in settings.written_if_set - settings.model_fields_set:
        del values[name]
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # declared as None
    with atomic_write(path) as file:
        yaml.dump(values, file)
