import zlib

import pytest
from attrs import evolve

from duckmesh.domain.access import (
    ALL_ROLES,
    ApiKey,
    Principal,
    Role,
    hash_secret,
    new_secret_key,
    parse_key,
    parse_roles,
    recognise,
)
from duckmesh.domain.access import _checksum as checksum
from duckmesh.domain.errors import PermissionDenied
from duckmesh.testing.builders import NOON


def test_a_new_key_is_read_back_and_no_two_are_equal() -> None:
    made = [new_secret_key() for _ in range(20)]
    assert all(parse_key(text) == presented for text, presented in made)
    assert len({text for text, _ in made}) == len({presented.key_id for _, presented in made}) == 20


def test_a_key_with_any_character_changed_is_none() -> None:
    text, _ = new_secret_key()
    for at in range(len(text)):
        other = "x" if text[at] != "x" else "y"
        assert parse_key(text[:at] + other + text[at + 1 :]) is None


def test_what_is_no_key_is_none() -> None:
    text, _ = new_secret_key()
    for wrong in (
        "",
        "dm_live_",
        text[:-1],
        text + "0",
        text.upper(),
        f" {text}",
        text.replace("dm_live_", ""),
        "é" * 71,
    ):
        assert parse_key(wrong) is None


@pytest.mark.parametrize("bad", ["\x00", "'", "A", "\n"])
def test_a_key_of_other_characters_is_none_although_its_checksum_fits(bad: str) -> None:
    for key_id, secret in ((bad * 16, "a" * 40), ("a" * 16, bad * 40)):
        assert parse_key(f"dm_live_{key_id}_{secret}{checksum(key_id, secret)}") is None


def test_the_checksum_is_that_of_id_and_secret() -> None:
    assert len(checksum("a", "b")) == 6
    assert checksum("a", "b") != checksum("b", "a")
    assert zlib.crc32(b"a_b") != 0


def test_a_key_is_recognised_by_its_secret_until_it_is_revoked() -> None:
    _, presented = new_secret_key()
    stored = ApiKey(presented.key_id, "acme", ALL_ROLES, hash_secret(presented.secret), NOON)
    assert recognise(presented, stored) == Principal("acme", ALL_ROLES, f"key:{presented.key_id}")
    assert recognise(evolve(presented, secret="other"), stored) is None
    assert recognise(presented, evolve(stored, revoked_at=NOON)) is None
    assert recognise(presented, None) is None
    assert recognise(evolve(presented, secret=""), None) is None


def test_secrets_are_not_shown() -> None:
    text, presented = new_secret_key()
    stored = ApiKey(presented.key_id, "acme", ALL_ROLES, hash_secret(presented.secret), NOON)
    assert presented.secret not in f"{presented!r}{stored!r}"
    assert repr(stored.secret_hash) not in repr(stored)
    assert presented.secret in text


def test_a_role_that_was_not_granted_is_denied() -> None:
    reader = Principal("acme", frozenset({Role.QUERY_READER}), "key:k")
    reader.require(Role.QUERY_READER)
    reader.require(Role.TABLE_ADMIN, Role.QUERY_READER)
    with pytest.raises(PermissionDenied) as denied:
        reader.require(Role.TABLE_ADMIN, Role.OPS_ADMIN)
    assert denied.value.context == {"required_roles": ["ops_admin", "table_admin"]}
    with pytest.raises(PermissionDenied):
        Principal("acme", frozenset(), "key:k").require(*ALL_ROLES)


def test_roles_are_read_by_name() -> None:
    assert parse_roles(["query_reader", "ops_admin"]) == {Role.QUERY_READER, Role.OPS_ADMIN}
    assert parse_roles([]) == frozenset()
    with pytest.raises(ValueError, match="unknown role 'root'"):
        parse_roles(["query_reader", "root"])
