"""Reads the settings from their sources and says in one line what is wrong with them."""

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import typed_settings as ts
import typed_settings.exceptions
from typed_settings.dict_utils import set_path
from typed_settings.types import LoadedSettings, LoaderMeta, OptionList

from duckmesh.app.settings.kinds import PREFIX, Declaration, declaration, refusal, shorten
from duckmesh.app.settings.tree import PROFILE_DEFAULTS, Profile, Settings
from duckmesh.domain.errors import ConfigurationError
from duckmesh.ports import faults

CONFIG_VARIABLE: Final = "DUCKMESH_CONFIG"
TABLE: Final = "duckmesh"

ELSEWHERE: Final[Mapping[str, str]] = {
    CONFIG_VARIABLE: "TOML file with a table `[duckmesh]`; the option `--config` wins.",
    "DUCKMESH_URL": "Server that clients and the command line call.",
    "DUCKMESH_API_KEY": "Key with which clients and the command line call it.",
    "DUCKMESH_TENANT": "Tenant that the command line means where a server without authentication has several.",
    faults.VARIABLE: "For tests of recovery: the place where the process kills itself.",
}
"""Variables that are not settings of a server, and what they are for."""

_DATA_HOME: Final = Path("~/.local/share")
_SYSTEM_DATA: Final = Path("/var/lib")

_FILE: Final = "_file"
_ORCHESTRATED: Final = re.compile(r"(_SERVICE_(HOST|PORT)(_\w+)?|_PORT_\d+_(TCP|UDP)(_\w+)?)$")
"""Variables that Kubernetes and container links make for a service that is called duckmesh."""


def declarations() -> dict[str, tuple[str, Declaration]]:
    """Every setting's path in the tree and declaration, by its key, in the order of the classes."""
    return {declared.key: (path, declared) for path, declared in _walk(Settings)}


def load_settings(config_file: Path | None = None, env: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """The settings of this process.

    ``env`` stands in for the environment of the process. ``overrides`` are settings by their name without prefix,
    in lower case (``port=0``); None leaves one unset. Raises `ConfigurationError`, one line that names the setting.
    """
    env = os.environ if env is None else env
    faults.parse_crash_at(env.get(faults.VARIABLE))
    sources = [
        *_file_source(config_file, env),
        _Source(_environment(env)),
        _Source({key: value for key, value in overrides.items() if value is not None}),
    ]
    tree = _Tree()
    try:
        return ts.load_settings(Settings, [_Source(_profile_defaults(sources, env)), *sources], converter=tree)
    except ts.exceptions.InvalidSettingsError:
        if tree.refused is None:
            raise
        raise tree.refused from None


def _env_name(key: str) -> str:
    return f"{PREFIX}{key.upper()}"


@attrs.frozen
class _Source:
    """A loader of flat settings: reads each value by its declaration, so that an error can name its source."""

    values: Mapping[str, Any]
    note: str = ""
    base_dir: Path = attrs.field(factory=Path.cwd)

    def __call__(self, settings_cls: type, options: OptionList) -> LoadedSettings:
        """Load as typed-settings asks for it."""
        del settings_cls, options  # known from the declarations
        known = declarations()
        loaded: dict[str, Any] = {}
        for key, raw in self.values.items():
            target = self._target(key, known)
            path, declared = known[target]
            set_path(loaded, path, self._value(key, raw, declared))
        return LoadedSettings(loaded, LoaderMeta(self.note or "settings", base_dir=self.base_dir))

    def _target(self, key: str, known: Mapping[str, tuple[str, Declaration]]) -> str:
        """The setting that a key is for; a secret may also come as the path of a file that holds it."""
        if key in known:
            return key
        target = key.removesuffix(_FILE)
        if target == key or target not in known or not known[target][1].kind.secret:
            raise _unknown(key, self.note, known)
        if target in self.values:
            raise refusal(_env_name(key), f"is set together with {_env_name(target)}{self.note}", "one of the two")
        return target

    def _value(self, key: str, raw: Any, declared: Declaration) -> Any:
        if key != declared.key:
            return declared.value(self._content(key, raw), self.note, shown_as=_env_name(key))
        if declared.kind.name == "path" and isinstance(raw, str) and raw.strip() and not raw.startswith("~"):
            raw = self.base_dir / raw
        return declared.value(raw, self.note)

    def _content(self, key: str, raw: Any) -> str:
        """What the file holds. Its name stays out of the error: it may be the secret, in the wrong variable."""
        try:
            return (self.base_dir / Path(raw).expanduser()).read_text(encoding="utf-8").strip()
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a text file"
            problem = f"names a file that cannot be read ({reason}){self.note}"
            raise refusal(_env_name(key), problem, "a readable file that holds the secret") from None


class _Tree:
    """Builds the classes from nested dicts of values that are typed already (a converter of typed-settings)."""

    def __init__(self) -> None:
        self.refused: ConfigurationError | None = None
        """What the classes refused: typed-settings keeps only its text."""

    def structure(self, obj: Any, cl: Any) -> Any:
        """An instance of ``cl`` where it is a settings class, else the value itself."""
        if not (attrs.has(cl) and isinstance(obj, dict)):
            return obj
        fields = attrs.fields_dict(cl)
        try:
            return cl(**{name: self.structure(value, fields[name].type) for name, value in obj.items()})
        except ConfigurationError as refused:
            self.refused = refused
            raise

    def get_structure_hook(self, cl: Any) -> Any:
        """There are no hooks: every value was read by its declaration."""
        raise LookupError(cl)


def _walk(cls: type, prefix: str = "") -> Iterator[tuple[str, Declaration]]:
    for attribute in attrs.fields(cls):
        if attribute.type is not None and attrs.has(attribute.type):
            yield from _walk(attribute.type, f"{prefix}{attribute.name}.")
        else:
            yield f"{prefix}{attribute.name}", declaration(attribute)


def _environment(env: Mapping[str, str]) -> dict[str, str]:
    """The variables that are for us. An empty one counts as unset: that is how Compose passes what it has not."""
    return {
        name.removeprefix(PREFIX).lower(): value
        for name, value in env.items()
        if name.startswith(PREFIX) and value and name not in ELSEWHERE and not _of_orchestrator(name, value)
    }


def _of_orchestrator(name: str, value: str) -> bool:
    return bool(_ORCHESTRATED.search(name)) or value.startswith(("tcp://", "udp://"))


def _file_source(config_file: Path | None, env: Mapping[str, str]) -> Iterator[_Source]:
    chosen = config_file or env.get(CONFIG_VARIABLE)
    if not chosen:
        return
    path = Path(chosen).expanduser().absolute()
    table = _document(path).get(TABLE)
    if not isinstance(table, dict):
        raise refusal(CONFIG_VARIABLE, f"{shorten(path)} has no table [{TABLE}]", f"a TOML file with [{TABLE}]")
    yield _Source({key.lower(): value for key, value in table.items()}, f" (in {path})", path.parent)


def _document(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        problem = f"{shorten(path)} cannot be read ({error.strerror})"
    except ValueError as error:  # the syntax, or bytes that are not UTF-8
        problem = f"{shorten(path)} is not valid TOML ({error})"
    raise refusal(CONFIG_VARIABLE, problem, f"a readable TOML file with a table [{TABLE}]")


def _profile_defaults(sources: list[_Source], env: Mapping[str, str]) -> dict[str, Any]:
    """The defaults of the profile that the last source which knows one names."""
    declared = declarations()["profile"][1]
    profile: Profile = "dev"
    for source in sources:
        if "profile" in source.values:
            profile = declared.value(source.values["profile"], source.note)
    defaults = {"data_dir": attrs.fields(Settings).data_dir.default, **PROFILE_DEFAULTS[profile]}
    data_home = env.get("XDG_DATA_HOME", "")
    defaults["data_dir"] = placed(defaults["data_dir"], root=os.geteuid() == 0, data_home=data_home)
    return defaults


def placed(folder: Path, *, root: bool, data_home: str) -> Path:
    """Where a default folder of the user's data is: for root not in its home, which nobody else can enter.

    A relative ``XDG_DATA_HOME`` is ignored, as its specification says.
    """
    if not folder.is_relative_to(_DATA_HOME):
        return folder
    if root:
        return _SYSTEM_DATA / folder.name
    return Path(data_home) / folder.name if Path(data_home).is_absolute() else folder


def _unknown(key: str, note: str, known: Mapping[str, tuple[str, Declaration]]) -> ConfigurationError:
    files = [name + _FILE for name, (_, declared) in known.items() if declared.kind.secret]
    # Without the prefix, which would make every name resemble every other.
    elsewhere = [name.removeprefix(PREFIX).lower() for name in ELSEWHERE]
    close = difflib.get_close_matches(key, [*known, *files, *elsewhere], n=1)
    hint = f"; did you mean {_env_name(close[0])}?" if close else ""
    return refusal(_env_name(key), f"is not a setting{note}{hint}", "the names in docs/settings.md")
