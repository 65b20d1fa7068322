from datetime import UTC, datetime
from typing import Any

import pytest

from duckmesh.app.settings import load_settings
from duckmesh.app.telemetry.redaction import Redactor, secret_values
from duckmesh.domain.access import new_secret_key


def test_an_api_key_loses_its_secret_and_keeps_its_id() -> None:
    key, presented = new_secret_key()
    masked = Redactor().text(f"call with {key}, please")
    assert masked == f"call with dm_live_{presented.key_id}_***, please"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("dm_live_broken", "dm_live_***"),
        ("connect postgresql://u:pw@host:5432/db failed", "connect postgresql://u:***@host:5432/db failed"),
        ("postgres://u:p@ss/w:rd@host/db", "postgres://u:***@host/db"),
        ("'redis://:pw@h'", "'redis://:***@h'"),
        ("Authorization: Bearer abcdefgh.ijkl-mn", "Authorization: Bearer ***"),
        ("host=h password=pw user=u", "host=h password=*** user=u"),
        ("postgresql://h/db?user=u&password=pw&ssl=on", "postgresql://h/db?user=u&password=***&ssl=on"),
        ('{"password": "pw", "user": "u"}', '{"password": "***", "user": "u"}'),
        ("AWS_SECRET_ACCESS_KEY=abc", "AWS_SECRET_ACCESS_KEY=***"),
    ],
)
def test_secrets_are_masked_where_they_stand_in_text(text: str, masked: str) -> None:
    assert Redactor().text(text) == masked


@pytest.mark.parametrize(
    "text", ["http://127.0.0.1:8080/v1/query", "a@b.example", "token 17 is visible", "SELECT 'a:b' FROM t", ""]
)
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert Redactor().text(text) == text


def test_values_of_settings_are_masked_with_the_passwords_inside_them_in_both_forms() -> None:
    settings = load_settings(
        env={
            "DUCKMESH_POSTGRES_DSN": "postgresql://u:qu%40ck%21@h/db",
            "DUCKMESH_S3_ACCESS_KEY_ID": "id",
            "DUCKMESH_S3_SECRET_ACCESS_KEY": "operator-token-123",
        }
    )
    redactor = Redactor(secret_values(settings))
    assert redactor.text("auth with qu@ck! or qu%40ck%21, operator-token-123") == "auth with *** or ***, ***"


def test_nested_values_and_objects_are_masked() -> None:
    class Loud:
        def __repr__(self) -> str:
            return "Loud(postgresql://u:pw@h)"

    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    value: dict[str, Any] = {
        "list": ["postgresql://u:pw@h", {"password": "pw", "token": 7}],
        "object": Loud(),
        "broken": Broken(),
        "error": ValueError("Bearer abcdefghijk"),
        "bytes": b"dm_live_x",
        "when": datetime(2026, 1, 2, tzinfo=UTC),
        "nothing": None,
        "postgresql://u:pw@h": 1,
    }
    assert Redactor().value(value) == {
        "list": ["postgresql://u:***@h", {"password": "***", "token": 7}],
        "object": "Loud(postgresql://u:***@h)",
        "broken": "<Broken>",
        "error": "Bearer ***",
        "bytes": "b'dm_live_***'",
        "when": "2026-01-02T00:00:00+00:00",
        "nothing": None,
        "postgresql://u:***@h": 1,
    }


def test_a_value_that_contains_itself_ends() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert "[...]" in str(Redactor().value(endless))


def test_visibility_tokens_and_idempotency_keys_are_no_secrets() -> None:
    fields = {"visibility_token": 17, "idempotency_key": "order-1", "max_visibility_token": 3}
    assert Redactor().value(fields) == fields
