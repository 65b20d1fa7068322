import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from duckmesh.domain.errors import TokenScopeMismatch, VisibilityTokenInvalid
from duckmesh.domain.tokens import (
    INCARNATION_STRIDE,
    MAX_TOKEN,
    LogHead,
    LogRange,
    check_requirement,
    visibility_scope,
)

HEAD = LogHead("acme", 10)
RESTORED = LogHead("acme", INCARNATION_STRIDE + 3, incarnation=1, skipped=((8, INCARNATION_STRIDE),))


@pytest.mark.parametrize("token", [1, 9, 10])
def test_a_token_up_to_the_head_can_be_required_with_or_without_its_scope(token: int) -> None:
    check_requirement(HEAD, token, None)
    check_requirement(HEAD, token, HEAD.scope)


@pytest.mark.parametrize("token", [0, -1, -(2**63), MAX_TOKEN + 1, 11, MAX_TOKEN])
def test_a_token_that_no_write_can_have_is_invalid(token: int) -> None:
    with pytest.raises(VisibilityTokenInvalid) as refused:
        check_requirement(HEAD, token, None)
    assert refused.value.context["requested_token"] == token


def test_a_token_beyond_the_head_names_the_head() -> None:
    with pytest.raises(VisibilityTokenInvalid) as refused:
        check_requirement(HEAD, 11, HEAD.scope)
    assert refused.value.context["head"] == 10


def test_no_token_is_valid_on_an_empty_log() -> None:
    with pytest.raises(VisibilityTokenInvalid):
        check_requirement(LogHead("acme", 0), 1, None)


@pytest.mark.parametrize("scope", ["", "vs_other", visibility_scope("globex", 0), visibility_scope("acme", 1)])
def test_another_scope_is_a_mismatch_before_the_token_is_looked_at(scope: str) -> None:
    for token in (5, 0, 99):
        with pytest.raises(TokenScopeMismatch) as refused:
            check_requirement(HEAD, token, scope)
        assert refused.value.context == {"visibility_scope": scope, "current_scope": HEAD.scope}


@pytest.mark.parametrize("token", [8, 9, INCARNATION_STRIDE])
def test_a_token_that_a_restore_skipped_is_a_mismatch_with_and_without_a_scope(token: int) -> None:
    for scope in (None, RESTORED.scope):
        with pytest.raises(TokenScopeMismatch):
            check_requirement(RESTORED, token, scope)


@pytest.mark.parametrize("token", [1, 7, INCARNATION_STRIDE + 1, INCARNATION_STRIDE + 3])
def test_tokens_outside_of_the_skipped_range_stay_valid(token: int) -> None:
    check_requirement(RESTORED, token, None)


@given(st.integers(), st.integers(0, 50))
def test_a_requirement_that_passes_can_be_reached_by_waiting(token: int, head: int) -> None:
    try:
        check_requirement(LogHead("acme", head, skipped=((3, 5),)), token, None)
    except (VisibilityTokenInvalid, TokenScopeMismatch):
        return
    assert 0 < token <= head
    assert not 3 <= token <= 5


def test_a_scope_tells_tenants_and_incarnations_apart() -> None:
    heads = [HEAD, evolve(HEAD, incarnation=1), evolve(HEAD, tenant="globex"), evolve(HEAD, tenant="acme\x001")]
    assert len({head.scope for head in heads}) == len(heads)
    assert evolve(HEAD, token=11).scope == HEAD.scope
    assert "acme" not in HEAD.scope


def test_a_head_is_not_negative_and_a_range_does_not_end_before_it_starts() -> None:
    with pytest.raises(ValueError, match="-1"):
        LogHead("acme", -1)
    with pytest.raises(ValueError, match="before its start"):
        LogRange(5, 4)
    assert LogRange(5, 5).through == 5
