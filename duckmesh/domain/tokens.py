"""Visibility tokens: what a caller may ask for, and what each token means (contract, section 3)."""

import hashlib
from typing import Final

from attrs import field, frozen, validators

from duckmesh.domain.errors import TokenScopeMismatch, VisibilityTokenInvalid

MAX_TOKEN: Final = 2**63 - 1
#: A restore lets the head jump to the next multiple of this, so that tokens of two incarnations never meet.
INCARNATION_STRIDE: Final = 2**40


@frozen
class LogHead:
    """The end of a tenant's log: the last token, and which ranges a restore skipped (both ends inclusive).

    ``control_token`` is the token of the last control write, 0 before the first. ``log_id`` tells this log from
    one of an equally named tenant in another deployment.
    """

    tenant: str
    token: int = field(validator=validators.ge(0))
    incarnation: int = 0
    control_token: int = 0
    skipped: tuple[tuple[int, int], ...] = ()
    log_id: str = ""

    @property
    def scope(self) -> str:
        """The opaque id of tenant and incarnation that receipts carry."""
        return visibility_scope(self.tenant, self.incarnation, self.log_id)


def visibility_scope(tenant: str, incarnation: int, log_id: str = "") -> str:
    """An opaque, stable id; equal exactly when tenant, incarnation and log are."""
    digest = hashlib.blake2b(f"{tenant}\x00{incarnation}\x00{log_id}".encode(), digest_size=12, person=b"dm-scope")
    return f"vs_{digest.hexdigest()}"


def check_requirement(head: LogHead, token: int, scope: str | None) -> None:
    """Refuse a token that no waiting can satisfy on this log.

    Raises `VisibilityTokenInvalid` for a token that is not positive or beyond the head, and
    `TokenScopeMismatch` for one of another scope or in a range that a restore skipped.
    """
    if scope is not None and scope != head.scope:
        raise TokenScopeMismatch(
            "the visibility token belongs to another tenant or to the log before a restore; "
            "read without it, or with a token of this scope",
            visibility_scope=scope,
            current_scope=head.scope,
        )
    if token <= 0 or token > MAX_TOKEN:
        raise VisibilityTokenInvalid(
            "a visibility token is a positive integer that an ingest receipt carried", requested_token=token
        )
    if any(first <= token <= last for first, last in head.skipped):
        raise TokenScopeMismatch(
            "the token is from before the log was restored to an older state; the write may be lost: send it again",
            requested_token=token,
            current_scope=head.scope,
        )
    if token > head.token:
        raise VisibilityTokenInvalid(
            f"token {token} is beyond the head {head.token} of this tenant's log; no write has it",
            requested_token=token,
            head=head.token,
        )


@frozen
class LogRange:
    """A half-open interval of positions: after ``after``, up to and including ``through``."""

    after: int
    through: int = field()

    @through.validator
    def _not_before(self, _: object, value: int) -> None:
        if value < self.after:
            raise ValueError(f"range ends at {value}, before its start {self.after}")
