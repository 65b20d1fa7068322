import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from duckmesh.app.cli.discovery import default_data_dir
from duckmesh.app.settings import (
    MAX_CONSISTENCY_TIMEOUT_MS,
    PROFILES,
    QuerySettings,
    ServerSettings,
    Settings,
    describe,
    load_settings,
    render,
)
from duckmesh.app.settings.kinds import METADATA
from duckmesh.app.settings.loading import ELSEWHERE, declarations, placed
from duckmesh.app.settings.tree import PROFILE_DEFAULTS
from duckmesh.domain.errors import ConfigurationError

DSN = "postgresql://duck:quack@db.internal/mesh"
REFERENCE = Path(__file__).parents[2] / "docs" / "settings.md"


def refused(config_file: Path | None = None, /, **env: str) -> str:
    """The line with which an environment is refused."""
    with pytest.raises(ConfigurationError) as caught:
        load_settings(config_file, env)
    assert "\n" not in caught.value.message
    assert caught.value.message.startswith(caught.value.context["setting"])
    return caught.value.message


@pytest.fixture
def toml(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "duckmesh.toml"
        path.write_text(text)
        return path

    return write


def test_without_any_source_the_defaults_are_those_of_one_machine() -> None:
    settings = load_settings(env={})
    assert settings.profile == "dev"
    assert settings.server.host == "127.0.0.1"
    assert settings.server.auth
    assert settings.roles == ("api", "coordinator", "maintenance")
    assert settings.embedded_postgres
    assert settings.object_store_url == (settings.data_dir / "objects").as_uri()
    assert settings.coordinator.flush_interval_ms == 250
    assert settings.coordinator.lease_ttl_s == 5.0
    assert settings.server.max_body_bytes == 64 * 1024 * 1024
    assert settings.query.consistency_timeout_ms == 10_000


def test_later_sources_win_over_earlier_ones(toml: Any) -> None:
    path = toml("[duckmesh]\nport = 1000\nhost = '127.0.0.2'\nlog_level = 'error'\nallowed_hosts = ['a', 'b']")
    env = {"DUCKMESH_PROFILE": "test", "DUCKMESH_PORT": "2000", "DUCKMESH_HOST": "127.0.0.3"}
    settings = load_settings(path, env, port=3000)
    assert (settings.server.port, settings.server.host) == (3000, "127.0.0.3")
    assert settings.telemetry.log_level == "error"
    assert settings.server.allowed_hosts == ("a", "b")
    assert settings.postgres.pool_size == 4


def test_the_file_may_be_named_by_the_environment_and_its_relative_paths_start_beside_it(toml: Any) -> None:
    path = toml("[other]\nx = 1\n[duckmesh]\ndata_dir = 'data'\nprofile = 'production'")
    settings = load_settings(env={"DUCKMESH_CONFIG": str(path)})
    assert settings.data_dir == path.parent / "data"
    assert settings.profile == "production"
    assert settings.server.auth


def test_a_keyword_that_is_none_leaves_the_setting_to_other_sources() -> None:
    assert load_settings(env={"DUCKMESH_PORT": "7"}, port=None).server.port == 7


def test_an_empty_variable_counts_as_unset() -> None:
    assert load_settings(env={"DUCKMESH_S3_ENDPOINT": "", "DUCKMESH_PORT": ""}).object_store.s3_endpoint is None


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_differ_in_defaults_only(profile: str) -> None:
    same = {"DUCKMESH_AUTH": "on", "DUCKMESH_PORT": "99", "DUCKMESH_DATA_DIR": "/d", "DUCKMESH_HOST": "h"}
    same |= {"DUCKMESH_LOG_LEVEL": "info", "DUCKMESH_LOG_FORMAT": "json", "DUCKMESH_POSTGRES_POOL_SIZE": "5"}
    settings = load_settings(env=same | {"DUCKMESH_PROFILE": profile})
    assert repr(attrs.evolve(settings, profile="dev")) == repr(load_settings(env=same))


def test_profile_defaults_are_of_settings_that_exist() -> None:
    for defaults in PROFILE_DEFAULTS.values():
        assert defaults.keys() <= declarations().keys()


def test_root_does_not_keep_data_in_its_home_where_the_embedded_postgres_cannot_reach_it() -> None:
    folder = Path("~/.local/share/duckmesh-test")
    assert placed(folder, root=True, data_home="/x") == Path("/var/lib/duckmesh-test")
    assert placed(folder, root=False, data_home="") == folder


def test_the_default_folder_is_where_the_user_keeps_data() -> None:
    folder = Path("~/.local/share/duckmesh")
    assert placed(folder, root=False, data_home="/data") == Path("/data/duckmesh")
    assert placed(folder, root=False, data_home="relative") == folder
    assert placed(Path("/var/lib/duckmesh"), root=False, data_home="/data") == Path("/var/lib/duckmesh")


def test_the_command_line_looks_for_a_server_where_the_settings_put_it() -> None:
    for env in ({}, {"XDG_DATA_HOME": "/data"}):
        assert load_settings(env=env).data_dir == default_data_dir(env)


@pytest.mark.parametrize(
    ("env", "parts"),
    [
        ({"DUCKMESH_PORT": "http"}, ["DUCKMESH_PORT: 'http' is not a whole number", "from 0 to 65535"]),
        ({"DUCKMESH_PORT": "65536"}, ["DUCKMESH_PORT: '65536' is out of range", "from 0 to 65535"]),
        ({"DUCKMESH_PORT": "9" * 5000}, ["DUCKMESH_PORT: '999", "is not a whole number"]),
        ({"DUCKMESH_PORT": "8\n0"}, ["DUCKMESH_PORT: '8\\n0' is not"]),
        ({"DUCKMESH_LEASE_TTL_S": "nan"}, ["DUCKMESH_LEASE_TTL_S: 'nan' is not a number", "from 0.1 to 3600"]),
        ({"DUCKMESH_AUTH": "maybe"}, ["DUCKMESH_AUTH: 'maybe'", "on or off"]),
        ({"DUCKMESH_PROFILE": "prod"}, ["DUCKMESH_PROFILE: 'prod'", "dev, test or production"]),
        ({"DUCKMESH_ROLES": "api,cook"}, ["DUCKMESH_ROLES:", "'cook'", "api, coordinator, maintenance"]),
        ({"DUCKMESH_ROLES": ","}, ["DUCKMESH_ROLES: ',' is empty"]),
        ({"DUCKMESH_OBJECT_STORE_URL": "ftp://x"}, ["DUCKMESH_OBJECT_STORE_URL: 'ftp://x'", "s3://bucket"]),
        ({"DUCKMESH_CONSISTENCY_TIMEOUT_MS": "300001"}, ["DUCKMESH_CONSISTENCY_TIMEOUT_MS:", "300000"]),
        ({"DUCKMESH_DATA_DIR": "~no-such-user-at-all/x"}, ["DUCKMESH_DATA_DIR:", "home directory"]),
        ({"DUCKMESH_CRASH_AT": "nowhere"}, ["DUCKMESH_CRASH_AT: 'nowhere'", "coordinator.after_upload"]),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_with_what_is_allowed(env: dict[str, str], parts: list[str]) -> None:
    line = refused(**env)
    assert all(part in line for part in parts), line
    assert len(line) < 400


def test_an_unknown_variable_is_refused_with_the_name_that_was_meant() -> None:
    assert "did you mean DUCKMESH_FLUSH_INTERVAL_MS?" in refused(DUCKMESH_FLUSH_INTERVALL_MS="1")
    assert "did you mean DUCKMESH_POSTGRES_DSN_FILE?" in refused(DUCKMESH_POSTGRES_DNS_FILE="x")
    assert "DUCKMESH_XYZZY: is not a setting; allowed" in refused(DUCKMESH_XYZZY="1")


def test_variables_that_are_used_elsewhere_are_known() -> None:
    values = dict.fromkeys(ELSEWHERE, "x") | {"DUCKMESH_CRASH_AT": "", "DUCKMESH_CONFIG": ""}
    assert load_settings(env=values | {"PATH": "/bin"}).server.port == 8080


def test_what_kubernetes_sets_for_a_service_called_duckmesh_is_not_taken_for_settings() -> None:
    env = {
        "DUCKMESH_SERVICE_HOST": "10.0.0.7",
        "DUCKMESH_SERVICE_PORT": "8080",
        "DUCKMESH_SERVICE_PORT_HTTP": "8080",
        "DUCKMESH_PORT": "tcp://10.0.0.7:8080",
        "DUCKMESH_PORT_8080_TCP": "tcp://10.0.0.7:8080",
        "DUCKMESH_PORT_8080_TCP_PROTO": "tcp",
        "DUCKMESH_API_SERVICE_HOST": "10.0.0.8",
    }
    assert load_settings(env=env).server.port == 8080


def test_an_error_in_the_file_names_the_setting_and_the_file(toml: Any) -> None:
    path = toml("[duckmesh]\nport = 'x'")
    assert refused(path) == (
        f"DUCKMESH_PORT: 'x' is not a whole number (in {path}); allowed: a whole number from 0 to 65535"
    )
    assert "did you mean DUCKMESH_PORT?" in refused(toml("[duckmesh]\nporrt = 1"))
    assert "DUCKMESH_PORT: True is not a whole number" in refused(toml("[duckmesh]\nport = true"))


def test_a_file_that_cannot_be_used_is_refused(toml: Any, tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "none.toml")
    assert "not valid TOML" in refused(toml("[duckmesh"))
    assert "no table [duckmesh]" in refused(toml("port = 1"))


def test_a_secret_can_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "dsn").write_text(f"{DSN}\n")
    settings = load_settings(env={"DUCKMESH_POSTGRES_DSN_FILE": str(tmp_path / "dsn")})
    assert settings.postgres.dsn is not None
    assert settings.postgres.dsn.get_secret_value() == DSN


def test_every_secret_and_nothing_else_can_come_from_a_file(tmp_path: Path) -> None:
    for setting in describe():
        line = refused(**{f"{setting.env}_FILE": str(tmp_path / "none")})
        assert ("cannot be read" in line) == setting.secret, line


def test_a_secret_given_in_two_ways_is_refused(tmp_path: Path) -> None:
    line = refused(DUCKMESH_POSTGRES_DSN=DSN, DUCKMESH_POSTGRES_DSN_FILE=str(tmp_path / "dsn"))
    assert "DUCKMESH_POSTGRES_DSN_FILE: is set together with DUCKMESH_POSTGRES_DSN" in line


def test_no_secret_is_in_a_repr_or_an_error() -> None:
    token = "operator-token-123456"
    settings = load_settings(
        env={"DUCKMESH_POSTGRES_DSN": DSN, "DUCKMESH_S3_ACCESS_KEY_ID": "id", "DUCKMESH_S3_SECRET_ACCESS_KEY": token}
    )
    assert "quack" not in f"{settings!r} {settings}"
    assert token not in f"{settings!r} {settings}"
    assert "hunter2" not in refused(DUCKMESH_POSTGRES_DSN="mysql://root:hunter2@db/x")
    assert "hunter2" not in refused(DUCKMESH_S3_SECRET_ACCESS_KEY="hunter2")
    assert "hunter2" not in refused(DUCKMESH_S3_SECRET_ACCESS_KEY_FILE="hunter2")


def test_planes_that_run_apart_need_a_postgres_that_they_share() -> None:
    assert refused(DUCKMESH_ROLES="api").startswith("DUCKMESH_POSTGRES_DSN: is missing")
    assert load_settings(env={"DUCKMESH_ROLES": "api", "DUCKMESH_POSTGRES_DSN": DSN}).roles == ("api",)


def test_half_of_a_pair_is_refused() -> None:
    assert refused(DUCKMESH_S3_ACCESS_KEY_ID="id").startswith("DUCKMESH_S3_SECRET_ACCESS_KEY: is missing")
    assert refused(DUCKMESH_S3_SECRET_ACCESS_KEY="x").startswith("DUCKMESH_S3_ACCESS_KEY_ID: is missing")
    assert refused(DUCKMESH_POSTGRES_LISTEN_DSN=DSN).startswith("DUCKMESH_POSTGRES_DSN: is missing")


def test_without_authentication_no_network_is_served() -> None:
    assert refused(DUCKMESH_HOST="0.0.0.0", DUCKMESH_AUTH="off").startswith("DUCKMESH_AUTH: is off")
    assert refused(DUCKMESH_PROFILE="production", DUCKMESH_AUTH="off").startswith("DUCKMESH_AUTH")


def test_with_authentication_any_host_name_is_served_unless_some_were_given() -> None:
    assert load_settings(env={}).server.host_names is None
    assert load_settings(env={"DUCKMESH_ALLOWED_HOSTS": "Mesh, localhost"}).server.host_names == {"mesh", "localhost"}
    assert load_settings(env={"DUCKMESH_AUTH": "off"}).server.host_names == {"localhost", "127.0.0.1", "::1"}


def test_values_are_checked_when_they_are_made_in_code_as_well() -> None:
    with pytest.raises(ConfigurationError, match=r"DUCKMESH_PORT: -1 is out of range"):
        ServerSettings(port=-1)
    with pytest.raises(ConfigurationError, match="DUCKMESH_CONSISTENCY_TIMEOUT_MS"):
        QuerySettings(consistency_timeout_ms=MAX_CONSISTENCY_TIMEOUT_MS + 1)
    assert Settings().query.memory_bytes == 1024**3


def test_every_setting_has_a_unique_name_and_a_help_and_shows_units_in_names_of_quantities() -> None:
    settings = describe()
    assert len({each.env for each in settings}) == len(settings)
    for each in settings:
        assert each.help.endswith("."), each.env
        if "millisecond" in each.help:
            assert each.env.endswith("_MS"), each.env


def test_every_option_of_the_tree_is_declared_with_its_meaning() -> None:
    for group in (Settings, *(each.type for each in attrs.fields(Settings) if attrs.has(each.type))):
        for option in attrs.fields(group):
            assert METADATA in option.metadata or attrs.has(option.type), option.name


def test_the_defaults_as_described_are_accepted_as_values() -> None:
    for each in describe():
        for default in (each.default, *each.other_defaults.values()):
            if default:
                load_settings(env={"DUCKMESH_AUTH": "on", each.env: default})


def test_the_reference_in_the_documentation_is_the_one_that_the_code_writes() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == render(), "run: python -m duckmesh.app.settings > docs/settings.md"


def test_the_module_writes_the_reference() -> None:
    written = subprocess.run(
        [sys.executable, "-m", "duckmesh.app.settings"], check=True, capture_output=True, text=True
    )
    assert written.stdout == render()
    assert not written.stderr
