"""Requests and records: their parts, names, operations, identities and errors."""

import json
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from ingest_bodies import NOW, body_of, decoded, decoder_of, refusal, table

from duckmesh.app.ingest.decoder import RecordDecoder, check_default, split_tables
from duckmesh.domain.errors import InvalidRequest, InvalidSchema, PrimaryKeyRequired, ValidationFailed
from duckmesh.domain.idempotency import key_ids
from duckmesh.domain.schema import CompatibilityMode, SchemaMode, grown_schema, parse_specs
from duckmesh.domain.tables import TableDefinition
from duckmesh.ports.columns import log_schema

PLAIN = {"id": "BIGINT", "name": "VARCHAR"}


def test_a_body_gives_rows_keys_and_digests_in_order() -> None:
    found = decoded(PLAIN, '{"id":1,"name":"a"}', '{"id":2}')
    assert (found.rows, found.keys) == (2, ["k0", "k1"])
    assert found.key_ids == key_ids("acme", "t1", ["k0", "k1"])
    assert {len(digest) for digest in found.content_ids} == {16}


@pytest.mark.parametrize(
    ("members", "wait", "timeout"),
    [
        ("", False, None),
        (',"wait_for_visibility":true', True, None),
        (',"wait_for_visibility":false,"visibility_timeout_ms":0', False, 0),
        (',"wait_for_visibility":true,"visibility_timeout_ms":250', True, 250),
        (',"visibility_timeout_ms":null', False, None),
    ],
)
def test_a_body_says_whether_to_wait_and_for_how_long(members: str, wait: bool, timeout: Any) -> None:
    body = body_of('{"id":1}')[:-1] + members.encode() + b"}"
    request = decoder_of(PLAIN).decode(body)
    assert (request.wait_for_visibility, request.visibility_timeout_ms) == (wait, timeout)


def test_the_rows_of_several_requests_become_one_batch_in_the_logs_schema() -> None:
    decoder = decoder_of(PLAIN)
    parts = [
        decoder.decode(body_of('{"id":1}', '{"id":2,"name":"b"}')).records,
        decoder.decode(body_of('{"id":3}', event_time="2024-01-01T00:00:00+01:00")).records,
    ]
    batch = decoder.batch(parts, NOW)
    assert batch.schema.equals(log_schema(table(PLAIN).schema), check_metadata=True)
    assert batch.to_pydict() == {
        "id": [1, 2, 3],
        "name": [None, "b", None],
        "_event_time": [NOW, NOW, datetime(2023, 12, 31, 23, tzinfo=UTC)],
    }


def test_a_table_without_columns_takes_empty_payloads() -> None:
    decoder = decoder_of({}, mode=SchemaMode.AUTO)
    assert decoder.batch([decoder.decode(body_of("{}", "{}")).records], NOW).num_rows == 2


@pytest.mark.parametrize("name", ["class", "_x", "None", "self", "c0", "from", "__class__"])
def test_a_column_may_be_called_as_python_calls_something_else(name: str) -> None:
    decoder = decoder_of({name: "BIGINT", "other": "BIGINT"})
    records = decoder.decode(body_of(f'{{"{name}":7}}')).records
    assert decoder.batch([records], NOW).column(0).to_pylist() == [7]


# Names.


@pytest.mark.parametrize("spelling", ["ID", "Id", "iD", "id"])
def test_column_names_are_matched_in_any_case(spelling: str) -> None:
    assert decoded({"Id": "BIGINT"}, f'{{"{spelling}":1}}').columns == ((1,),)


def test_a_name_in_another_case_is_the_same_content() -> None:
    assert decoded(PLAIN, '{"ID":1,"Name":"a"}').content_ids == decoded(PLAIN, '{"id":1,"name":"a"}').content_ids


def test_a_value_keeps_every_digit_when_its_name_is_in_another_case() -> None:
    assert (
        decoded({"d": "DECIMAL(38,20)"}, '{"D":1.10000000000000000001}').columns
        == decoded({"d": "DECIMAL(38,20)"}, '{"d":1.10000000000000000001}').columns
    )


def test_errors_in_another_case_name_the_record() -> None:
    error = refusal(decoder_of(PLAIN).decode, body_of('{"ID":1}', '{"ID":"x"}'))
    assert (error.context["record"], error.context["column"]) == (1, "id")


def test_two_spellings_of_a_column_in_one_payload_are_refused() -> None:
    error = refusal(decoder_of(PLAIN).decode, body_of('{"id":1,"ID":1}'))
    assert (error.context["record"], error.context["column"]) == (0, "id")
    assert "named twice" in error.context["reason"]


@pytest.mark.parametrize(
    "payload",
    [
        '{"id":1,"id":2}',
        '{"id" : 1, "id" : 2}',
        '{"id": 1, "id": 1}',
        r'{"id":1,"\u0069d":2}',
        '{"name":"\\":","id":1,"id":2}',
    ],
)
def test_a_member_named_twice_is_refused(payload: str) -> None:
    error = refusal(decoder_of(PLAIN).decode, body_of('{"id":1,"name":null}', payload))
    assert (error.context["record"], error.context["column"]) == (1, "id")


@pytest.mark.parametrize(
    "body",
    [
        b'{"records":[],"records":[{"idempotency_key":"k","payload":{"id":1}}]}',
        b'{"records":[{"idempotency_key":"k","idempotency_key":"l","payload":{"id":1}}]}',
        b'{"wait_for_visibility":true,"records":[{"idempotency_key":"k","payload":{"id":1}}],"wait_for_visibility":true}',
    ],
)
def test_a_member_of_a_record_or_of_the_body_named_twice_is_refused(body: bytes) -> None:
    assert isinstance(refusal(decoder_of(PLAIN).decode, body), InvalidRequest)


@pytest.mark.parametrize("text", ['a\\":b', ":", '\\":\\":', "https://x"])
def test_a_text_that_looks_like_names_is_no_name(text: str) -> None:
    assert decoded(PLAIN, f'{{"id":1,"name":"{text}"}}').rows == 1


def test_objects_inside_json_are_no_columns() -> None:
    payload = '{"c":{"a":1,"b":[{"a":2},{"a":"x\\":"}]},"d":null}'
    assert decoded({"c": "JSON", "d": "JSON"}, payload, payload).rows == 2


# Refused bodies.


@pytest.mark.parametrize(
    ("payload", "column", "reason"),
    [
        ('{"nope":1}', "nope", "unknown column"),
        ('{"id":1,"nope":null}', "nope", "unknown column"),
        ('{"_token":1}', "_token", "unknown column"),
        ("{}", "id", "missing"),
        ('{"id":null}', "id", "null in a column that is not nullable"),
        ("[]", None, "expected object"),
        ("null", None, "null"),
    ],
)
def test_a_payload_that_does_not_fit_is_refused(payload: str, column: str, reason: str) -> None:
    decoder = decoder_of({"id": {"type": "BIGINT", "nullable": False}, "name": "VARCHAR"})
    error = refusal(decoder.decode, body_of('{"id":1}', payload))
    assert isinstance(error, ValidationFailed)
    assert (error.context["record"], error.context["column"]) == (1, column)
    assert reason in error.context["reason"]


def test_json_null_is_no_value_for_a_column_that_is_not_nullable() -> None:
    decoder = decoder_of({"c": {"type": "JSON", "nullable": False}})
    error = refusal(decoder.decode, body_of('{"c":1}', '{"c":null}'))
    assert (error.context["record"], error.context["column"]) == (1, "c")


@pytest.mark.parametrize(
    "record",
    [
        '{"payload":{}}',
        '{"idempotency_key":"","payload":{}}',
        '{"idempotency_key":5,"payload":{}}',
        '{"idempotency_key":"%s","payload":{}}' % ("x" * 256),
        '{"idempotency_key":"k"}',
        '{"idempotency_key":"k","payload":{},"op":"replace"}',
        '{"idempotency_key":"k","payload":{},"op":null}',
        '{"idempotency_key":"k","payload":{},"extra":1}',
        '{"idempotency_key":"k","payload":{},"event_time":"yesterday"}',
        '{"idempotency_key":"k","payload":{},"event_time":"2024-01-01T00:00:00"}',
        '{"idempotency_key":"k","payload":{},"event_time":"2024-01-01T00:00:00.1234567Z"}',
        '{"idempotency_key":"k","payload":{},"event_time":"0001-01-01T00:00:00+10:00"}',
        '{"idempotency_key":"k","payload":{},"event_time":1700000000}',
        "5",
    ],
)
def test_a_record_that_is_not_as_described_is_refused_by_number(record: str) -> None:
    error = refusal(decoder_of(PLAIN).decode, f'{{"records":[{record}]}}'.encode())
    assert isinstance(error, ValidationFailed)
    assert error.context["record"] == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xef\xbb\xbf{}",
        b'{"records":5}',
        b'{"records":[]}',
        b'{"records":[NaN]}',
        b'{"records":[{"idempotency_key":"k","payload":{"id":NaN}}]}',
        b'{"records":[{"idempotency_key":"k","payload":{"id":01}}]}',
        b'{"records":[{"idempotency_key":"k","payload":{"id":1}}]} x',
        b'{"records":[{"idempotency_key":"k","payload":{"id":1}}],"other":1}',
        b'{"records":[{"idempotency_key":"k","payload":{"id":1}}],"visibility_timeout_ms":-1}',
        b'{"records":[{"idempotency_key":"k","payload":{"id":1}}],"visibility_timeout_ms":"5"}',
        b'{"records":[{"idempotency_key":"\xff","payload":{"id":1}}]}',
        b'{"records":' + b"[" * 100_000,
        b'{"records":[{"idempotency_key":"k","payload":' + b'{"id":' * 50_000,
        b'{"records":[{"idempotency_key":"k","payload":{"id":' + b"9" * 10_000 + b"}}]}",
    ],
)
def test_a_body_that_cannot_be_read_is_a_clean_error(body: bytes) -> None:
    assert isinstance(refusal(decoder_of(PLAIN).decode, body), InvalidRequest)


def test_nesting_without_end_in_json_is_a_clean_error() -> None:
    deep = "[" * 100_000 + "]" * 100_000
    assert isinstance(refusal(decoder_of({"c": "JSON"}).decode, body_of(f'{{"c":{deep}}}')), InvalidRequest)


def test_a_malformed_body_says_at_which_byte() -> None:
    error = refusal(decoder_of(PLAIN).decode, b'{"records":[!]}')
    assert error.code == "INVALID_REQUEST"
    assert error.context["byte"] == 12


# Contents.


def test_neither_order_nor_white_space_nor_escapes_nor_the_key_change_the_content() -> None:
    one = b'{"records":[{"idempotency_key":"k","op":"insert","payload":{"id":1,"name":"a"}}]}'
    other = rb' {"records": [ {"payload" : {"name":"a", "id":1 } , "idempotency_key":"other"} ] } '
    decoder = decoder_of(PLAIN)
    assert decoder.decode(one).records.content_ids == decoder.decode(other).records.content_ids


def test_an_absent_column_is_the_same_content_as_its_null() -> None:
    assert decoded(PLAIN, '{"id":1}').content_ids == decoded(PLAIN, '{"name":null,"id":1}').content_ids


def test_an_event_time_is_content_whatever_its_zone() -> None:
    first, second, third = (
        decoded(PLAIN, '{"id":1}', event_time=text).content_ids
        for text in ("2024-01-01T00:00:00Z", "2024-01-01T01:00:00+01:00", "2024-01-01T00:00:01Z")
    )
    assert first == second != third
    assert decoded(PLAIN, '{"id":1}').content_ids == decoded(PLAIN, '{"id":1}', event_time=None).content_ids != first


DEFAULTED = {"id": "BIGINT", "kind": {"type": "VARCHAR", "default": "x"}}


def test_a_default_fills_an_absent_column_and_only_that() -> None:
    decoder = decoder_of(DEFAULTED)
    records = decoder.decode(body_of('{"id":1}', '{"id":1,"kind":"x"}', '{"id":1,"kind":null}')).records
    assert decoder.batch([records], NOW).column(1).to_pylist() == ["x", "x", None]


def test_a_default_that_is_spelled_out_is_the_same_content_and_a_null_is_not() -> None:
    absent, spelled, null = decoded(DEFAULTED, '{"id":1}', '{"id":1,"kind":"x"}', '{"id":1,"kind":null}').content_ids
    assert absent == spelled != null


@pytest.mark.parametrize("added", ["VARCHAR", {"type": "VARCHAR", "default": "x"}])
def test_a_retry_after_a_column_was_added_is_the_same_content(added: Any) -> None:
    old = table(PLAIN, ["id"])
    schema = grown_schema(
        old.schema,
        parse_specs({"id": {"type": "BIGINT", "nullable": False}, "name": "VARCHAR", "new": added}),
        CompatibilityMode.BACKWARD,
    )
    new = TableDefinition("t1", "events", schema)
    for op, payload in (("upsert", '{"id":1,"name":"a"}'), ("upsert", '{"id":1}'), ("delete", '{"id":1}')):
        before, after = (
            RecordDecoder(definition, "acme").decode(body_of(payload, op=op)).records for definition in (old, new)
        )
        assert before.content_ids == after.content_ids


# Operations.

KEYED = {
    "id": "BIGINT",
    "name": {"type": "VARCHAR", "nullable": False},
    "note": "VARCHAR",
    "n": {"type": "INTEGER", "default": 3},
}


@pytest.mark.parametrize("op", ["upsert", "delete"])
def test_a_table_without_a_key_takes_only_inserts(op: str) -> None:
    error = refusal(decoder_of(PLAIN).decode, body_of('{"id":1}', op=op))
    assert isinstance(error, PrimaryKeyRequired)
    assert error.context["record"] == 0


def test_on_a_keyed_table_an_insert_acts_as_an_upsert() -> None:
    decoder = decoder_of(KEYED, ["id"])
    payload = '{"id":1,"name":"a"}'
    default, insert, upsert = (
        decoder.decode(body_of(payload, **record)).records for record in ({}, {"op": "insert"}, {"op": "upsert"})
    )
    assert default.content_ids == insert.content_ids == upsert.content_ids
    assert decoder.batch([default, insert, upsert], NOW).column("_dm_op").to_pylist() == [1, 1, 1]


def test_a_delete_names_the_key_and_leaves_all_else_null() -> None:
    decoder = decoder_of(KEYED, ["id"])
    body = (
        b'{"records":[{"idempotency_key":"a","op":"delete","payload":{"id":1}},'
        b'{"idempotency_key":"b","op":"upsert","payload":{"id":2,"name":"x"}}]}'
    )
    rows = decoder.batch([decoder.decode(body).records], NOW).to_pydict()
    assert rows == {
        "id": [1, 2],
        "name": [None, "x"],
        "note": [None, None],
        "n": [None, 3],
        "_event_time": [NOW, NOW],
        "_dm_op": [2, 1],
    }


def test_a_delete_and_an_upsert_are_two_contents() -> None:
    decoder = decoder_of({"id": "BIGINT", "name": "VARCHAR"}, ["id"])
    delete, upsert = (decoder.decode(body_of('{"id":1}', op=op)).records for op in ("delete", "upsert"))
    assert delete.content_ids != upsert.content_ids


@pytest.mark.parametrize(
    ("op", "payload", "column"),
    [
        ("delete", '{"id":1,"note":null}', "note"),
        ("delete", '{"id":1,"name":"x"}', "name"),
        ("delete", "{}", "id"),
        ("delete", '{"id":null}', "id"),
        ("upsert", '{"id":1}', "name"),
        ("upsert", '{"id":1,"name":null}', "name"),
        ("upsert", '{"name":"x"}', "id"),
    ],
)
def test_operations_on_a_keyed_table_name_what_they_need(op: str, payload: str, column: str) -> None:
    error = refusal(decoder_of(KEYED, ["id"]).decode, body_of(payload, op=op))
    assert isinstance(error, ValidationFailed)
    assert (error.context["record"], error.context["column"]) == (0, column)


# Several tables, automatic schemas, defaults.


def test_a_body_for_several_tables_is_taken_apart() -> None:
    body = b'{"tables":{"a":%b,"b":{"records":[]}},"wait_for_visibility":true}' % body_of('{"id":1}')
    tables, wait, timeout = split_tables(body)
    assert (list(tables), wait, timeout) == (["a", "b"], True, None)
    assert decoder_of(PLAIN).decode_records(tables["a"]).content_ids == decoded(PLAIN, '{"id":1}').content_ids
    assert isinstance(refusal(decoder_of(PLAIN).decode_records, tables["b"]), ValidationFailed)


def test_misfits_in_a_part_name_its_record() -> None:
    error = refusal(decoder_of(PLAIN).decode_records, body_of('{"id":1}', '{"id":"x"}'))
    assert (error.context["record"], error.context["column"]) == (1, "id")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"tables":[]}',
        b'{"tables":{},"records":[]}',
        b'{"tables":{"a":{"records":[]},"a":{"records":[]}}}',
        b'{"tables":{},"tables":{"a":{"records":[]}},"visibility_timeout_ms":-1}',
        b'{"tables":' + b"[" * 100_000,
    ],
)
def test_a_body_for_several_tables_that_cannot_be_read_is_a_clean_error(body: bytes) -> None:
    assert isinstance(refusal(split_tables, body), InvalidRequest)


def test_an_automatic_table_leaves_out_what_was_only_ever_null() -> None:
    assert decoder_of(PLAIN, mode=SchemaMode.AUTO).decode(body_of('{"id":1,"new":null}')).records.rows == 1
    assert isinstance(
        refusal(decoder_of(PLAIN, mode=SchemaMode.AUTO).decode, body_of('{"id":1,"new":2}')), ValidationFailed
    )


@pytest.mark.parametrize(
    ("type_text", "default"),
    [("BIGINT", 1), ("DECIMAL(4,1)", 1.5), ("DATE", "2024-01-01"), ("JSON", {"a": [1]}), ("INTEGER[]", [1, None])],
)
def test_a_default_that_fits_is_applied(type_text: str, default: Any) -> None:
    schema = {"id": "BIGINT", "c": {"type": type_text, "default": default}}
    (spec,) = parse_specs({"c": schema["c"]})
    check_default(spec)
    decoder = decoder_of(schema)
    absent, spelled = (
        decoder.batch([decoder.decode(body_of(payload)).records], NOW).column(1).to_pylist()
        for payload in ('{"id":1}', json.dumps({"id": 1, "c": default}))
    )
    assert absent == spelled != [None]


@pytest.mark.parametrize(
    ("type_text", "default"),
    [
        ("BIGINT", 1.0),
        ("TINYINT", 128),
        ("DOUBLE", 2**53 + 1),
        ("DECIMAL(4,1)", "1.55"),
        ("DATE", "today"),
        ("VARCHAR", 1),
        ("TIMESTAMPTZ", "0001-01-01T00:00:00+01:00"),
        ('STRUCT("a""b" INTEGER)', {}),
    ],
)
def test_a_default_that_does_not_fit_is_refused(type_text: str, default: Any) -> None:
    (spec,) = parse_specs({"c": {"type": type_text, "default": default}})
    assert isinstance(refusal(check_default, spec), InvalidSchema)


def test_a_batch_of_many_parts_keeps_their_order() -> None:
    decoder = decoder_of(PLAIN)
    parts = [decoder.decode(body_of(f'{{"id":{number}}}')).records for number in range(500)]
    batch = decoder.batch(parts, NOW)
    assert isinstance(batch, pa.RecordBatch)
    assert batch.column(0).to_pylist() == list(range(500))
