import json
import stat
from pathlib import Path

import pytest

from duckmesh.app.cli.discovery import (
    ServerInfo,
    Target,
    default_data_dir,
    find_target,
    forget_server,
    read_server,
    write_admin_key,
    write_server,
)
from duckmesh.app.cli.exit_codes import UsageProblem

URL = "http://127.0.0.1:8080"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    write_server(tmp_path, ServerInfo(URL))
    write_admin_key(tmp_path, "dm_live_secret")
    return tmp_path


def test_the_server_file_reads_as_it_was_written(data_dir: Path) -> None:
    assert json.loads((data_dir / "server.json").read_text()) == {"url": URL, "auth": "on"}
    assert read_server(data_dir) == ServerInfo(URL)


def test_the_key_is_readable_by_its_owner_only(data_dir: Path) -> None:
    assert stat.S_IMODE((data_dir / "admin.key").stat().st_mode) == 0o600


def test_nothing_but_the_two_files_is_left(data_dir: Path) -> None:
    assert sorted(path.name for path in data_dir.iterdir()) == ["admin.key", "server.json"]


def test_url_and_key_come_from_the_data_directory(data_dir: Path) -> None:
    assert find_target(None, None, data_dir, {}) == Target(URL, "dm_live_secret")
    assert find_target(None, None, None, {"DUCKMESH_DATA_DIR": str(data_dir)}) == Target(URL, "dm_live_secret")


def test_options_come_before_the_environment(data_dir: Path) -> None:
    environ = {"DUCKMESH_URL": "http://elsewhere", "DUCKMESH_API_KEY": "of the environment"}
    assert find_target("http://given/", "given", data_dir, environ) == Target("http://given", "given")
    assert find_target(None, None, None, environ) == Target("http://elsewhere", "of the environment")
    assert find_target(None, None, data_dir, environ).url == URL


def test_the_key_of_a_data_directory_is_never_sent_to_another_server(data_dir: Path) -> None:
    assert find_target("http://elsewhere", None, data_dir, {}) == Target("http://elsewhere", None)
    assert find_target(URL + "/", None, data_dir, {}) == Target(URL, "dm_live_secret")


def test_a_server_without_authentication_gets_no_key(data_dir: Path) -> None:
    write_server(data_dir, ServerInfo(URL, auth=False))
    assert find_target(None, None, data_dir, {}) == Target(URL, None)


def test_a_server_that_stopped_is_not_found(data_dir: Path) -> None:
    forget_server(data_dir)
    forget_server(data_dir)
    with pytest.raises(UsageProblem, match="duckmesh up"):
        find_target(None, None, data_dir, {})


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", "{"])
def test_a_damaged_server_file_is_an_error_that_names_it(data_dir: Path, text: str) -> None:
    (data_dir / "server.json").write_text(text)
    with pytest.raises(UsageProblem, match=r"server\.json"):
        read_server(data_dir)


def test_the_default_folder_of_a_user_respects_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_data_dir({}) == tmp_path / ".local" / "share" / "duckmesh"
    assert default_data_dir({"XDG_DATA_HOME": "/data"}) == Path("/data/duckmesh")
    assert default_data_dir({"XDG_DATA_HOME": "not/absolute"}) == tmp_path / ".local" / "share" / "duckmesh"


def test_the_default_folder_of_root_is_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert default_data_dir({"XDG_DATA_HOME": "/data"}) == Path("/var/lib/duckmesh")
