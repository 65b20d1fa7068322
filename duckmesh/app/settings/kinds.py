"""How the value of a setting is read: its type for the reader, what is allowed, and the refusal in one line.

A setting is declared once, with `setting`; its name is the one of the environment, its help is the documentation.
Values are checked wherever they come from: environment, file, keyword or constructor.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import typed_settings as ts
from attrs import Attribute, frozen

from duckmesh.domain.errors import ConfigurationError

METADATA: Final = "duckmesh"
PREFIX: Final = "DUCKMESH_"
_LONGEST_SHOWN: Final = 60
_TRUE: Final = frozenset({"on", "true", "yes", "1"})
_FALSE: Final = frozenset({"off", "false", "no", "0"})


class NotAllowed(ValueError):
    """What is wrong with a value, as the rest of a sentence that begins with it."""


@frozen
class Kind:
    """What a setting's value is. ``read`` takes text or a value and raises `NotAllowed`."""

    name: str
    allowed: str
    read: Callable[[Any], Any]
    secret: bool = False


@frozen
class Declaration:
    """What `setting` keeps beside the field: the name in the environment, the kind, and the meaning."""

    env: str
    kind: Kind
    help: str
    optional: bool

    @property
    def key(self) -> str:
        """The name in a file and as a keyword: the one of the environment without prefix, in lower case."""
        return self.env.removeprefix(PREFIX).lower()

    def value(self, raw: Any, source: str = "", shown_as: str = "") -> Any:
        """The typed value of what a source says; raises `ConfigurationError` that names setting and source."""
        if raw is None and self.optional:
            return None
        try:
            return self.kind.read(raw)
        except NotAllowed as problem:
            shown = "the value" if self.kind.secret else shorten(raw)
            raise refusal(shown_as or self.env, f"{shown} {problem}{source}", self.kind.allowed) from None


def setting(env: str, kind: Kind, *, default: Any, help: str) -> Any:  # noqa: A002 - typed-settings' own name
    """A field of a settings class, checked whenever it is made."""
    declared = Declaration(env, kind, help, optional=default is None)
    return ts.option(default=default, converter=declared.value, help=help, metadata={METADATA: declared})


def declaration(attribute: "Attribute[Any]") -> Declaration:
    """What `setting` declared for a field."""
    found: Declaration = attribute.metadata[METADATA]
    return found


def refusal(env: str, problem: str, allowed: str) -> ConfigurationError:
    """The one line about a setting: its name, what is wrong with it, and what is allowed."""
    line = " ".join(f"{env}: {problem}; allowed: {allowed}".split())
    return ConfigurationError(line, setting=env)


def shorten(raw: Any) -> str:
    """A value as an error may show it: quoted, on one line, not longer than a name should be."""
    shown = repr(str(raw) if isinstance(raw, Path) else raw)
    return shown if len(shown) <= _LONGEST_SHOWN else f"{shown[: _LONGEST_SHOWN - 1]}…"


def integer(low: int, high: int) -> Kind:
    """A whole number; digits may be grouped with underscores."""

    def read(raw: Any) -> int:
        if isinstance(raw, str) and re.fullmatch(r"[+-]?\d{1,3}(_?\d){0,30}", raw.strip(), re.ASCII):
            raw = int(raw)
        if not isinstance(raw, int) or isinstance(raw, bool):
            raise NotAllowed("is not a whole number")
        _require_within(raw, low, high)
        return raw

    return Kind("integer", f"a whole number from {low} to {high}", read)


def number(low: float, high: float) -> Kind:
    """A number with an optional fraction."""

    def read(raw: Any) -> float:
        if isinstance(raw, str) and re.fullmatch(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)\s*", raw, re.ASCII):
            raw = float(raw)
        if not isinstance(raw, int | float) or isinstance(raw, bool):
            raise NotAllowed("is not a number")
        _require_within(raw, low, high)
        return float(raw)

    return Kind("number", f"a number from {low:g} to {high:g}", read)


def switch() -> Kind:
    """On or off."""

    def read(raw: Any) -> bool:
        if isinstance(raw, bool):
            return raw
        word = str(raw).strip().lower()
        if word not in _TRUE | _FALSE:
            raise NotAllowed("is neither on nor off")
        return word in _TRUE

    return Kind("switch", "on or off (also true or false)", read)


def choice(*names: str) -> Kind:
    """One of several names."""

    def read(raw: Any) -> str:
        name = str(raw).strip().lower()
        if name not in names:
            raise NotAllowed("is not known")
        return name

    return Kind("choice", _alternatives(names), read)


def choices(*names: str) -> Kind:
    """Some of several names, separated by commas; kept in the order of their declaration."""

    def read(raw: Any) -> tuple[str, ...]:
        given = {word.lower() for word in _words(raw)}
        unknown = sorted(given - set(names))
        if unknown:
            raise NotAllowed(f"has the unknown name {shorten(unknown[0])}")
        if not given:
            raise NotAllowed("is empty")
        return tuple(name for name in names if name in given)

    return Kind("list", f"one or more of {', '.join(names)}, separated by commas", read)


def words() -> Kind:
    """Any words, separated by commas."""
    return Kind("list", "words separated by commas, or nothing", _words)


def text(pattern: str = r"\S.*", allowed: str = "any text") -> Kind:
    """Text on one line that matches ``pattern``."""

    def read(raw: Any) -> str:
        if not isinstance(raw, str) or not re.fullmatch(pattern, raw.strip()):
            raise NotAllowed("is not valid")
        return raw.strip()

    return Kind("text", allowed, read)


def path() -> Kind:
    """A file or folder; ``~`` is the user's home, and a relative path starts where the setting was found."""

    def read(raw: Any) -> Path:
        if not isinstance(raw, str | Path) or not str(raw).strip() or "\0" in str(raw):
            raise NotAllowed("is not a path")
        try:
            return Path(raw).expanduser()
        except RuntimeError:
            raise NotAllowed("names a home directory that does not exist") from None

    return Kind("path", "a path", read)


def secret(inner: Kind) -> Kind:
    """A value that no message, log line or repr may show."""

    def read(raw: Any) -> ts.Secret[Any]:
        return ts.Secret(inner.read(raw.get_secret_value() if isinstance(raw, ts.Secret) else raw))

    return Kind(f"secret {inner.name}", inner.allowed, read, secret=True)


def _require_within(value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # not-a-number fails as well
        raise NotAllowed("is out of range")


def _words(raw: Any) -> tuple[str, ...]:
    if isinstance(raw, str):
        raw = raw.split(",")
    if not isinstance(raw, list | tuple | set | frozenset) or not all(isinstance(word, str) for word in raw):
        raise NotAllowed("is not a list of words")
    return tuple(word.strip() for word in raw if word.strip())


def _alternatives(names: tuple[str, ...]) -> str:
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
