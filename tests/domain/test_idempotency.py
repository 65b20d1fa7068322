from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duckmesh.domain.errors import IdempotencyConflict
from duckmesh.domain.idempotency import (
    DIGEST_SIZE,
    GroupDecision,
    LedgerEntry,
    all_new,
    decide_group,
    distinct,
    key_ids,
)
from duckmesh.domain.tables import DropTable
from duckmesh.domain.writes import Accepted, Refused, TableRef, Write, WriteGroup, WritePart

A, B = TableRef("table-a", 1), TableRef("table-b", 1)


def part(table: TableRef, *records: str, whole: int = 0) -> WritePart:
    """Records as ``key`` or ``key=content``; with ``whole``, one key over that many rows."""
    keys = [record.partition("=")[0] for record in records]
    contents = [(record.partition("=")[2] or "same").encode() for record in records]
    ids = key_ids("acme", table.table_id, keys)
    return WritePart(table, table.table_id[-1], whole or len(keys), keys, ids, contents, bool(whole))


def group(*writes: Sequence[WritePart] | None) -> WriteGroup:
    """Writes of data; None is a control write."""
    made = [Write(control=DropTable("x")) if parts is None else Write(tuple(parts)) for parts in writes]
    return WriteGroup("acme", tuple(made), {}, 0)


def known(token: int, *records: str, table: TableRef = A) -> dict[bytes, LedgerEntry]:
    parts = part(table, *records)
    return {key: LedgerEntry(content, token) for key, content in zip(parts.key_ids, parts.content_ids, strict=True)}


def decide(of: WriteGroup, entries: Mapping[bytes, LedgerEntry] | None = None) -> GroupDecision:
    return decide_group(of, entries or {}, lambda number: 100 + number)


def accepted(decision: GroupDecision) -> list[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    found = []
    for outcome in decision.outcomes:
        assert isinstance(outcome, Accepted)
        found.append((outcome.token, outcome.accepted, outcome.duplicates))
    return found


def test_new_keys_are_accepted_under_consecutive_tokens_and_claimed() -> None:
    decision = decide(group([part(A, "k1", "k2")], None, [part(A, "k3"), part(B, "k1")]))
    assert accepted(decision) == [(100, (2,), (0,)), (101, (), ()), (102, (1, 1), (0, 0))]
    assert [(write.index, write.token, write.rows) for write in decision.stored] == [
        (0, 100, (2,)),
        (1, 101, ()),
        (2, 102, (1, 1)),
    ]
    assert sorted(entry.token for entry in decision.claims.values()) == [100, 100, 102, 102]
    assert decision.kept == {}


def test_a_retry_is_covered_by_its_original_and_takes_no_token() -> None:
    decision = decide(group([part(A, "k1", "k2")], [part(A, "k3")]), known(7, "k1") | known(9, "k2"))
    assert accepted(decision) == [(9, (0,), (2,)), (100, (1,), (0,))]
    assert [write.index for write in decision.stored] == [1]
    assert decision.kept == {A: [2]}


def test_a_partial_duplicate_keeps_its_new_rows_under_a_new_token() -> None:
    decision = decide(group([part(A, "k1", "k2", "k3")]), known(7, "k2"))
    assert accepted(decision) == [(100, (2,), (1,))]
    assert decision.kept == {A: [0, 2]}
    assert set(decision.claims) == set(part(A, "k1", "k3").key_ids)


def test_a_key_twice_in_one_write_counts_once() -> None:
    decision = decide(group([part(A, "k1", "k1", "k2")]))
    assert accepted(decision) == [(100, (2,), (1,))]
    assert decision.kept == {A: [0, 2]}


def test_an_earlier_write_of_the_group_is_known_to_a_later_one() -> None:
    decision = decide(group([part(A, "k1")], [part(A, "k1")], [part(A, "k2", "k1")]))
    assert accepted(decision) == [(100, (1,), (0,)), (100, (0,), (1,)), (101, (1,), (1,))]
    assert decision.kept == {A: [0, 2]}


def test_other_content_refuses_the_whole_write_and_names_the_record() -> None:
    decision = decide(group([part(B, "k9"), part(A, "k0", "k1=other")]), known(7, "k1"))
    [outcome] = decision.outcomes
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.error, IdempotencyConflict)
    assert outcome.error.context == {"table": "a", "record": 1, "idempotency_key": "k1", "original_token": 7}
    assert (decision.stored, dict(decision.claims)) == ((), {})
    assert decision.kept == {A: [], B: []}


def test_a_refused_write_leaves_its_keys_its_token_and_its_neighbours_alone() -> None:
    refused = [part(A, "k2", "k1=other"), part(B, "k2")]
    decision = decide(group([part(A, "k0")], refused, [part(A, "k2=new"), part(B, "k2=new")]), known(7, "k1"))
    first, conflict, last = decision.outcomes
    assert isinstance(conflict, Refused)
    assert (first, last) == (Accepted(100, (1,), (0,)), Accepted(101, (1, 1), (0, 0)))
    assert decision.kept == {A: [0, 3], B: [1]}


def test_two_contents_of_one_key_conflict_inside_a_write_and_inside_a_group() -> None:
    inside = decide(group([part(A, "k1", "k1=other")]))
    assert isinstance(inside.outcomes[0], Refused)
    between = decide(group([part(A, "k1")], [part(A, "k1=other")]))
    assert [type(outcome) for outcome in between.outcomes] == [Accepted, Refused]


def test_one_key_of_a_whole_body_keeps_or_drops_all_rows() -> None:
    body = part(A, "b1", whole=5)
    new = decide(group([body], [part(A, "k1")]))
    assert accepted(new) == [(100, (5,), (0,)), (101, (1,), (0,))]
    assert new.kept == {}
    again = decide(group([part(A, "k1")], [body], [part(A, "k2")]), known(7, "b1"))
    assert accepted(again)[1] == (7, (0,), (5,))
    assert again.kept == {A: [0, 6]}
    other = decide(group([part(A, "b1=other", whole=5)]), known(7, "b1"))
    assert isinstance(other.outcomes[0], Refused)


def test_a_control_write_is_always_stored() -> None:
    decision = decide(group(None, [part(A, "k1")], None), known(7, "k1"))
    assert accepted(decision) == [(100, (), ()), (7, (0,), (1,)), (101, (), ())]


def test_a_digest_is_scoped_to_table_and_tenant() -> None:
    digests = [
        *key_ids("acme", "t", ["k", "l"]),
        *key_ids("acme", "u", ["k"]),
        *key_ids("globex", "t", ["k"]),
        *key_ids("acmet", "", ["k"]),
    ]
    assert len(set(digests)) == len(digests)
    assert {len(digest) for digest in digests} == {DIGEST_SIZE}
    assert key_ids("acme", "t", ["k"]) == digests[:1]


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (group([part(A, "k1"), part(B, "k1")], [part(A, "k2")], None), True),
        (group([part(A, "k1", "k1")]), False),
        (group([part(A, "k1")], [part(A, "k1=other")]), False),
    ],
)
def test_a_group_is_distinct_when_no_key_stands_twice(of: WriteGroup, expected: bool) -> None:
    assert distinct(of) is expected


RECORDS = st.lists(st.sampled_from(["k1", "k2", "k3", "k4", "k1=other", "k2=other"]), min_size=1, max_size=4)
GROUPS = st.lists(st.lists(RECORDS, min_size=1, max_size=2), min_size=1, max_size=5)


@given(GROUPS, st.dictionaries(st.sampled_from(["k1", "k3=other"]), st.integers(1, 50)))
def test_what_is_stored_is_what_the_outcomes_say(drafts: list[list[list[str]]], ledger: dict[str, int]) -> None:
    of = group(*([part(table, *found) for table, found in zip((A, B), parts, strict=False)] for parts in drafts))
    entries = {key: entry for record, token in ledger.items() for key, entry in known(token, record).items()}
    decision = decide(of, entries)
    assert [write.token for write in decision.stored] == [100 + n for n in range(len(decision.stored))]
    for write in decision.stored:
        outcome = decision.outcomes[write.index]
        assert isinstance(outcome, Accepted)
        assert (outcome.token, outcome.accepted) == (write.token, write.rows)
        assert sum(write.rows) > 0
    # Every claimed key is claimed once, by a row that is kept.
    assert len(decision.claims) == sum(sum(write.rows) for write in decision.stored)
    assert not decision.claims.keys() & entries.keys()
    sent = {table: sum(p.rows for w in of.writes for p in w.parts if p.table == table) for table in (A, B)}
    stored_rows = sum(len(decision.kept.get(table, range(count))) for table, count in sent.items())
    assert stored_rows == sum(sum(write.rows) for write in decision.stored)
    # Deciding again on what is known by then stores nothing.
    again = decide_group(of, {**entries, **decision.claims}, lambda number: 200 + number)
    assert not again.stored


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_the_short_way_for_new_keys_decides_the_same(sizes: list[int]) -> None:
    of = group(*([part(A, *(f"{n}-{row}" for row in range(size)))] for n, size in enumerate(sizes)))
    long, short = decide(of), all_new(of, 100)
    assert long.outcomes == short.outcomes
    assert [(w.index, w.token, w.rows) for w in long.stored] == [(w.index, w.token, w.rows) for w in short.stored]
