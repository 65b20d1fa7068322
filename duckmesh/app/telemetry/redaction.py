"""Keeps secrets out of logs, wherever in a line they stand: API keys, passwords in DSNs, and values of settings."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import date
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import attrs
import typed_settings as ts

MASK: Final = "***"

_SHORTEST_SECRET: Final = 4
"""Shorter values are not searched for: masking every ``a`` tells more than it hides."""

_OUR_OWN_WORDS: Final = frozenset({"duckmesh", "postgres", "postgresql"})
"""Whoever takes one of these for a password would have every line masked; inside a DSN it is masked all the same."""

_DEEPEST: Final = 8

_SECRET_NAMES: Final = frozenset(
    {
        "access_token",
        "api_key",
        "authorization",
        "client_secret",
        "cookie",
        "passwd",
        "password",
        "s3_secret_access_key",
        "secret",
        "secret_access_key",
        "x-api-key",
    }
)
"""Fields whose value is a secret whatever it looks like. Visibility tokens and idempotency keys are none."""

_PATTERNS: Final = (
    # The id of a key is no secret, and says whose it was.
    (("dm_live_",), re.compile(r"dm_live_([0-9a-z]{16}_)?\w*"), rf"dm_live_\1{MASK}"),
    # Greedy, since a password that nobody quoted may hold an @ itself.
    (("@",), re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s:/@]*):[^\s\"']*@"), rf"\1:{MASK}@"),
    (("bearer ", "basic "), re.compile(r"(?i)\b(bearer|basic) +[\w.~+/=-]{8,}"), rf"\1 {MASK}"),
    (
        ("passw", "secret_access_key", "api_key"),
        re.compile(r"(?i)((?:password|passwd|secret_access_key|api_key)[\"']?\s*[=:]\s*[\"']?)[^\s\"'&,;)}]+"),
        rf"\1{MASK}",
    ),
)
"""What secrets look like: words without which a text has none, the pattern, and what is left of it."""


class Redactor:
    """Masks secrets in text and in nested values; ``known`` are secrets of this deployment."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        searched = {value for value in known if len(value) >= _SHORTEST_SECRET} - _OUR_OWN_WORDS
        longest_first = sorted(searched, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def text(self, text: str) -> str:
        """The text with every secret masked."""
        if self._known is not None:
            text = self._known.sub(MASK, text)
        lowered = text.lower()
        for hints, pattern, replacement in _PATTERNS:
            if any(hint in lowered for hint in hints):
                text = pattern.sub(replacement, text)
        return text

    def value(self, value: Any, depth: int = 0) -> Any:
        """The value with every secret masked. What JSON does not know becomes text, so that it is masked too."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, date):
            return value.isoformat()
        if depth < _DEEPEST and isinstance(value, Mapping):
            return {self.text(str(name)): self.field(str(name), item, depth + 1) for name, item in value.items()}
        if depth < _DEEPEST and isinstance(value, list | tuple | set | frozenset):
            return [self.value(item, depth + 1) for item in value]
        return self.text(_described(value))

    def field(self, name: str, value: Any, depth: int = 0) -> Any:
        """The value of a named field: masked as a whole where the name says that it is a secret."""
        if value and name.lower() in _SECRET_NAMES:
            return MASK
        return self.value(value, depth)


def secret_values(settings: Any) -> Iterator[str]:
    """Every secret in a tree of settings, and the passwords in its DSNs, quoted and not."""
    for attribute in attrs.fields(type(settings)):
        value = getattr(settings, attribute.name)
        if attrs.has(type(value)):
            yield from secret_values(value)
        elif isinstance(value, ts.Secret):
            yield from _forms(str(value.get_secret_value()))


def _forms(secret: str) -> Collection[str]:
    try:
        password = urlsplit(secret).password or ""
    except ValueError:
        password = ""
    return {secret, password, unquote(password)}


def _described(value: Any) -> str:
    """What an object says of itself; one that cannot must not cost the line."""
    try:
        return str(value) if isinstance(value, BaseException) else repr(value)
    except Exception:  # noqa: BLE001 - any class may come here
        return f"<{type(value).__name__}>"
