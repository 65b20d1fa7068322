"""Who may do what: roles of a tenant, API keys, and the operator of the deployment (contract, section 9)."""

import hashlib
import hmac
import secrets
import zlib
from collections.abc import Collection
from datetime import datetime
from enum import Enum
from typing import Final

from attrs import field, frozen

from duckmesh.domain.errors import PermissionDenied


class Role(Enum):
    """The roles of a tenant; whatever is not granted is denied."""

    INGEST_WRITER = "ingest_writer"
    QUERY_READER = "query_reader"
    TABLE_ADMIN = "table_admin"
    OPS_ADMIN = "ops_admin"


ALL_ROLES: Final = frozenset(Role)

_PREFIX: Final = "dm_live_"
_ALPHABET: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_ID_LENGTH: Final = 16
_SECRET_LENGTH: Final = 40
_CHECK_LENGTH: Final = 6


@frozen
class Principal:
    """A caller that was recognised: whose tenant, with which roles."""

    tenant: str
    roles: frozenset[Role]
    subject: str

    def require(self, *any_of: Role) -> None:
        """Raise `PermissionDenied` unless the caller has one of the roles."""
        if self.roles.isdisjoint(any_of):
            wanted = sorted(role.value for role in any_of)
            raise PermissionDenied(
                f"this call needs the role {' or '.join(wanted)}; use a key that has it",
                required_roles=wanted,
            )


@frozen
class ApiKey:
    """A key as it is stored: its id and the SHA-256 of its secret, never the secret."""

    key_id: str
    tenant: str
    roles: frozenset[Role]
    secret_hash: bytes = field(repr=False)
    created_at: datetime
    name: str = ""
    revoked_at: datetime | None = None


@frozen
class PresentedKey:
    """A key as a caller sent it, well formed but not yet recognised."""

    key_id: str
    secret: str = field(repr=False)


def new_secret_key() -> tuple[str, PresentedKey]:
    """A fresh key as text ``dm_live_<id>_<secret><checksum>``, and its parts."""
    key_id = "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_LENGTH))
    return f"{_PREFIX}{key_id}_{secret}{_checksum(key_id, secret)}", PresentedKey(key_id, secret)


def parse_key(text: str) -> PresentedKey | None:
    """The parts of a key, or None when it is not one; the checksum catches typing errors without a look-up."""
    body = text.removeprefix(_PREFIX)
    key_id, _, rest = body.partition("_")
    secret, check = rest[:_SECRET_LENGTH], rest[_SECRET_LENGTH:]
    wellformed = text.startswith(_PREFIX) and len(key_id) == _ID_LENGTH and len(secret) == _SECRET_LENGTH
    if (
        not wellformed
        or not set(key_id + secret).issubset(_ALPHABET)
        or not check.isascii()
        or not hmac.compare_digest(check, _checksum(key_id, secret))
    ):
        return None
    return PresentedKey(key_id, secret)


def hash_secret(secret: str) -> bytes:
    """What is stored of a secret. It has 200 bits of entropy, so a plain digest cannot be searched."""
    return hashlib.sha256(secret.encode()).digest()


#: Compared on a miss, so that an unknown id takes as long as a wrong secret.
_NO_HASH: Final = hash_secret("")


def recognise(presented: PresentedKey, stored: ApiKey | None) -> Principal | None:
    """The principal of a key, or None when it is unknown, wrong or revoked; in constant time."""
    expected = stored.secret_hash if stored is not None else _NO_HASH
    matches = hmac.compare_digest(hash_secret(presented.secret), expected)
    if stored is None or not matches or stored.revoked_at is not None:
        return None
    return Principal(stored.tenant, stored.roles, f"key:{stored.key_id}")


def parse_roles(names: Collection[str]) -> frozenset[Role]:
    """Roles by their names; raises ValueError that lists the known ones."""
    known = {role.value: role for role in Role}
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"unknown role {unknown[0]!r}; the roles are {', '.join(known)}")
    return frozenset(known[name] for name in names)


def _checksum(key_id: str, secret: str) -> str:
    number = zlib.crc32(f"{key_id}_{secret}".encode())
    digits = []
    for _ in range(_CHECK_LENGTH):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(digits)
