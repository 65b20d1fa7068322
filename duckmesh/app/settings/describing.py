"""The reference of all settings, written from their declarations."""

from collections.abc import Iterable
from itertools import groupby
from typing import Any, Final

import attrs
import typed_settings as ts
from attrs import frozen

from duckmesh.app.settings.kinds import METADATA, Declaration
from duckmesh.app.settings.loading import ELSEWHERE
from duckmesh.app.settings.tree import PROFILE_DEFAULTS, PROFILES, Profile, Settings

_INTRODUCTION: Final = """\
# Settings

<!-- Written by `python -m duckmesh.app.settings > docs/settings.md`; a test compares it with the code. -->

Later sources win:

1. the defaults of the profile (`DUCKMESH_PROFILE`; profiles differ in defaults only),
2. the table `[duckmesh]` of a TOML file (`--config`, or `DUCKMESH_CONFIG`),
3. environment variables.

A setting has one name everywhere: `DUCKMESH_PORT` is `port` in the file. A variable that is empty counts as unset.
A secret can also come from a file: `DUCKMESH_POSTGRES_DSN_FILE=/run/secrets/dsn`. A relative path starts in the
folder of the file that names it, or in the working directory. A setting that is wrong or unknown stops the start
with one line that names it.
"""


@frozen
class Description:
    """One setting as the reference shows it: values are text in the form in which a user writes them."""

    env: str
    type: str
    default: str
    help: str
    allowed: str
    secret: bool
    group: str
    other_defaults: dict[Profile, str]
    """Defaults of profiles that differ from ``default``, which is the one of ``dev``."""


def describe() -> list[Description]:
    """All settings, in the order and the groups of their classes."""
    general = "General: what runs, and where"
    described = [_description(attribute, general) for attribute in _own(Settings)]
    for group in attrs.fields(Settings):
        if group.type is not None and attrs.has(group.type):
            title = (group.type.__doc__ or "").partition("\n")[0].rstrip(".")
            described += [_description(attribute, title) for attribute in _own(group.type)]
    return described


def render() -> str:
    """The reference as Markdown."""
    sections = [_section(title, list(settings)) for title, settings in groupby(describe(), lambda each: each.group)]
    elsewhere = [
        "| variable | meaning |",
        "|---|---|",
        *(f"| `{name}` | {use} |" for name, use in ELSEWHERE.items()),
    ]
    return "\n".join([_INTRODUCTION, *sections, "## Other variables", "", *elsewhere, ""])


def _own(cls: type) -> Iterable[Any]:
    return (attribute for attribute in attrs.fields(cls) if METADATA in attribute.metadata)


def _description(attribute: Any, group: str) -> Description:
    declared: Declaration = attribute.metadata[METADATA]
    others = {
        profile: _shown(PROFILE_DEFAULTS[profile][declared.key])
        for profile in PROFILES
        if declared.key in PROFILE_DEFAULTS[profile]
    }
    return Description(
        env=declared.env,
        type=declared.kind.name,
        default=_shown(attribute.default),
        help=declared.help,
        allowed=declared.kind.allowed,
        secret=declared.kind.secret,
        group=group,
        other_defaults=others,
    )


def _section(title: str, settings: list[Description]) -> str:
    rows = [f"| {_name(each)} | {_defaults(each)} | {each.allowed} | {each.help} |" for each in settings]
    return "\n".join([f"## {title}", "", "| setting | default | allowed | meaning |", "|---|---|---|---|", *rows, ""])


def _name(described: Description) -> str:
    """The name, and for a secret that it may come as a file."""
    return f"`{described.env}`" + (" (or `…_FILE`)" if described.secret else "")


def _defaults(described: Description) -> str:
    first = f"`{described.default}`" if described.default else "none"
    others = [f"{profile}: `{value}`" for profile, value in described.other_defaults.items()]
    return "<br>".join([first, *others])


def _shown(value: Any) -> str:
    """A value in the form in which a user writes it."""
    if value is None or isinstance(value, ts.Secret):
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
