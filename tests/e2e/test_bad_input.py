"""Whatever a caller sends wrongly is a 4xx with a stable code that says where it is wrong, and nothing is stored."""

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from attrs import frozen
from caller import Caller, new_name, record
from planes import UpServer

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
HUGE = 10**400
COLUMNS = {
    "id": "BIGINT",
    "tiny": "TINYINT",
    "amount": "DECIMAL(6,2)",
    "ratio": "DOUBLE",
    "day": "DATE",
    "at": "TIMESTAMPTZ",
    "uid": "UUID",
    "flag": "BOOLEAN",
    "name": {"type": "VARCHAR", "nullable": False},
    "tags": "VARCHAR[]",
}
GOOD = {"id": 1, "name": "a"}


@frozen
class Target:
    """A table with one row, and a way to send anything to it."""

    caller: Caller
    table: str
    token: int

    def send(self, method: str, path: str, body: bytes | None, kind: str = JSON, **headers: str) -> tuple[int, Any]:
        """Send bytes as they are; status and JSON body."""
        path = path.replace("{table}", self.table)
        sent = {"content-type": kind} | {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.caller.http.request(method, path, content=body, headers=sent)
        return answer.status_code, answer.json()


@pytest.fixture(scope="module")
def target(live_server: UpServer) -> Iterator[Target]:
    with live_server.caller() as caller:
        table = new_name()
        caller.create(table, COLUMNS)
        receipt = caller.put(table, record(GOOD, "taken"), wait=True)
        target = Target(caller, table, receipt["max_visibility_token"])
        yield target
        rows = caller.rows(f"SELECT id, name FROM {table}")
        assert rows == [[1, "a"]], "nothing of what was refused is there"


def assert_refused(found: tuple[int, Any], status: int, code: str, *words: str) -> dict[str, Any]:
    answered, body = found
    assert (answered, body["error_code"]) == (status, code), body
    assert set(body) == {"error_code", "message", "retryable", "context", "trace_id"}
    said = json.dumps(body)
    for word in words:
        assert word in said, body
    assert "Traceback" not in said
    result: dict[str, Any] = body
    return result


def records(*payloads: Any) -> bytes:
    return json.dumps(
        {"records": [{"idempotency_key": new_name(), "payload": payload} for payload in payloads]}
    ).encode()


def one(key: Any = "k-new", payload: Any = GOOD, **more: Any) -> bytes:
    return json.dumps({"records": [{"idempotency_key": key, "payload": payload} | more]}).encode()


# Ingest: the body.


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", ["body"]),
        (b"{", ["body"]),
        (b"[]", ["array"]),
        (b"null", ["null"]),
        (b'"records"', ["str"]),
        (b'{"records": [}', ["byte"]),
        (b'{"records": []} x', ["byte"]),
        (b"{}", ["records"]),
        (b'{"records": {}}', ["records"]),
        (b'{"records": [], "recordz": 1}', ["recordz"]),
        (b'{"records": [{"idempotency_key": "k", "payload": {"id": NaN, "name": "a"}}]}', ["byte"]),
        (b'{"records": [{"idempotency_key": "k", "payload": {"id": 1, "name": "a"}}], "wait_for_visibility": 1}',
         ["wait_for_visibility"]),
        (b'{"records": [{"idempotency_key": "k", "payload": {"id": 1, "name": "a"}}], "visibility_timeout_ms": -1}',
         ["visibility_timeout_ms"]),
        (b'{"records": [{"idempotency_key": "k", "payload": {"id": 1, "name": "a"}}], "visibility_timeout_ms": 1e99}',
         ["visibility_timeout_ms"]),
        (b'{"records": [{"idempotency_key": "k", "payload": {"id": 1, "name": "a"}}], "visibility_timeout_ms": '
         + b"9" * 5000 + b"}", ["body"]),
        (b'\xff{"records": []}', ["body"]),
        (b'{"rec\xffords": []}', ["body"]),
        (b'{"records": [{"idempotency_key": "\\ud800", "payload": {"id": 1, "name": "a"}}]}', ["body"]),
        (b"[" * 100_000, ["body"]),
        (b'{"records":' + b"[" * 100_000 + b"]" * 100_000 + b"}", []),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, []),
        ("{}".encode("utf-16"), ["body"]),
        (b"\xef\xbb\xbf" + b'{"records": []}', ["body"]),
        (b"\x00", ["body"]),
    ],
)  # fmt: skip
def test_a_body_that_is_no_request_is_refused(target: Target, body: bytes, words: list[str]) -> None:
    status, answer = target.send("POST", "/v1/ingest/{table}", body)
    assert status == 400, answer
    assert answer["error_code"] in {"INVALID_REQUEST", "VALIDATION_FAILED"}
    assert all(word in answer["message"] for word in words), answer


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"records": []}', ["empty"]),
        (b'{"records": [1]}', ["record 0"]),
        (b'{"records": [{"payload": {"id": 1, "name": "a"}}]}', ["record 0", "idempotency_key"]),
        (one(key=""), ["record 0", "idempotency_key"]),
        (one(key=7), ["record 0", "idempotency_key"]),
        (one(key=None), ["record 0", "idempotency_key"]),
        (one(key="k" * 256), ["record 0", "idempotency_key"]),
        (b'{"records": [{"idempotency_key": "k"}]}', ["record 0", "payload"]),
        (one(payload=[]), ["record 0", "object"]),
        (one(payload=None), ["record 0", "object"]),
        (one(op="merge"), ["record 0", "op", "insert"]),
        (one(event_time="yesterday"), ["record 0", "event_time"]),
        (one(event_time="2026-01-01T00:00:00"), ["record 0", "event_time"]),
        (one(event_time=17), ["record 0", "event_time"]),
        (one(extra=1), ["record 0", "extra"]),
        (records(GOOD, GOOD | {"nope": 1}), ["record 1", "nope"]),
        (records(GOOD, {"id": 1}), ["record 1", "name"]),
        (records(GOOD | {"name": None}), ["record 0", "name", "null"]),
        (records(GOOD | {"id": "1"}), ["record 0", "id"]),
        (records(GOOD | {"id": 1.5}), ["record 0", "id"]),
        (records(GOOD | {"id": True}), ["record 0", "id"]),
        (records(GOOD | {"id": 2**63}), ["record 0", "id", "overflow"]),
        (records(GOOD | {"id": HUGE}), ["record 0", "id"]),
        (records(GOOD | {"tiny": 128}), ["record 0", "tiny", "overflow"]),
        (records(GOOD | {"tiny": -129}), ["record 0", "tiny", "overflow"]),
        (records(GOOD | {"amount": "10000.00"}), ["record 0", "amount"]),
        (records(GOOD | {"amount": "1.001"}), ["record 0", "amount"]),
        (records(GOOD | {"amount": "NaN"}), ["record 0", "amount"]),
        (records(GOOD | {"ratio": "fast"}), ["record 0", "ratio"]),
        (b'{"records": [{"idempotency_key": "k", "payload": {"name": "a", "ratio": 1e999}}]}', ["ratio"]),
        (records(GOOD | {"day": "2026-02-30"}), ["record 0", "day"]),
        (records(GOOD | {"at": "2026-01-01T00:00:00"}), ["record 0", "at"]),
        (records(GOOD | {"at": "2026-01-01T00:00:00.1234567Z"}), ["record 0", "at"]),
        (records(GOOD | {"uid": "not-a-uuid"}), ["record 0", "uid"]),
        (records(GOOD | {"flag": 1}), ["record 0", "flag"]),
        (records(GOOD | {"tags": "a"}), ["record 0", "tags"]),
        (records(GOOD | {"tags": ["a", 1]}), ["record 0", "tags"]),
        (records(GOOD | {"_token": 1}), ["record 0", "_token"]),
        (records(GOOD | {"na\x00me": 1}), ["record 0"]),
        (b'{"records": [{"idempotency_key": "k", "payload": {"name": "\xff"}}]}', ["record 0", "name", "UTF-8"]),
        (b'{"records": [{"idempotency_key": "k", "payload": {"name": "a", "name": "b"}}]}', ["record 0", "name"]),
        (b'{"records": [{"idempotency_key": "k", "payload": {"name": "a", "NAME": "b"}}]}', ["record 0", "name"]),
    ],
)  # fmt: skip
def test_a_record_that_does_not_fit_is_refused_with_its_place(target: Target, body: bytes, words: list[str]) -> None:
    found = assert_refused(target.send("POST", "/v1/ingest/{table}", body), 400, "VALIDATION_FAILED")
    assert all(word in found["message"] for word in words), found
    assert found["context"]["table"] == target.table
    assert found["context"]["reason"]


def test_one_wrong_record_of_many_stores_none(target: Target) -> None:
    good = [GOOD | {"id": number} for number in range(100)]
    found = assert_refused(
        target.send("POST", "/v1/ingest/{table}", records(*good, GOOD | {"tiny": 1000})), 400, "VALIDATION_FAILED"
    )
    assert (found["context"]["record"], found["context"]["column"]) == (100, "tiny")


@pytest.mark.parametrize("op", ["upsert", "delete"])
def test_a_table_without_a_key_takes_inserts_only(target: Target, op: str) -> None:
    assert_refused(target.send("POST", "/v1/ingest/{table}", one(op=op)), 400, "PRIMARY_KEY_REQUIRED", "record 0")


def test_the_same_key_with_other_content_is_a_conflict_that_stores_nothing(target: Target) -> None:
    body = json.dumps({"records": [record(GOOD, "beside"), record(GOOD | {"id": 2}, "taken")]}).encode()
    found = assert_refused(target.send("POST", "/v1/ingest/{table}", body), 409, "IDEMPOTENCY_CONFLICT")
    assert found["context"] == {
        "table": target.table, "record": 1, "idempotency_key": "taken", "original_token": target.token,
    }  # fmt: skip
    twice = json.dumps({"records": [record(GOOD, "same"), record(GOOD | {"id": 2}, "same")]}).encode()
    assert_refused(target.send("POST", "/v1/ingest/{table}", twice), 409, "IDEMPOTENCY_CONFLICT", "same")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"tables": {}}', 400, "INVALID_REQUEST"),
        (b'{"tables": []}', 400, "INVALID_REQUEST"),
        (b'{"tables": {"T": 1}}', 400, "INVALID_REQUEST"),
        (b'{"tables": {"T": {}}}', 400, "INVALID_REQUEST"),
        (b'{"tables": {"T": {"records": []}}}', 400, "VALIDATION_FAILED"),
        (b'{"tables": {"T": {"records": [], "more": 1}}}', 400, "INVALID_REQUEST"),
        (b'{"tables": {"no_such_table": {"records": [{"idempotency_key": "k", "payload": {}}]}}}', 404,
         "TABLE_NOT_FOUND"),
        (b'{"tables": {"\\u0000": {"records": [{"idempotency_key": "k", "payload": {}}]}}}', 404, "TABLE_NOT_FOUND"),
        ((b'{"tables": {"T": {"records": [{"idempotency_key": "k", "payload": {"id": 1, "name": "a"}}]},'
         b' "no_such_table": {"records": [{"idempotency_key": "k", "payload": {}}]}}}'), 404, "TABLE_NOT_FOUND"),
        ((b'{"tables": {"T": {"records": [{"idempotency_key": "k1", "payload": {"id": 1, "name": "a"}}]},'
         b' "T ": {"records": []}}}'), 404, "TABLE_NOT_FOUND"),
    ],
)  # fmt: skip
def test_a_write_of_several_tables_is_refused_as_a_whole(target: Target, body: bytes, status: int, code: str) -> None:
    assert_refused(target.send("POST", "/v1/ingest", body.replace(b'"T', f'"{target.table}'.encode())), status, code)


@pytest.mark.parametrize(
    ("path", "body", "kind", "headers", "status", "code"),
    [
        ("/v1/ingest/no_such_table", one(), JSON, {}, 404, "TABLE_NOT_FOUND"),
        ("/v1/ingest/%00", one(), JSON, {}, 404, "TABLE_NOT_FOUND"),
        ("/v1/ingest/%ff", one(), JSON, {}, 404, "TABLE_NOT_FOUND"),
        ("/v1/ingest/" + "x" * 5000, one(), JSON, {}, 404, "TABLE_NOT_FOUND"),
        ("/v1/ingest/{table}/more", one(), JSON, {}, 404, "NOT_FOUND"),
        ("/v1/ingest/{table}", one(), "text/plain", {}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        ("/v1/ingest/{table}", one(), "", {}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        ("/v1/ingest/{table}", one(), "application/x-www-form-urlencoded", {}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        ("/v1/ingest/{table}", b"garbage", ARROW, {"idempotency_key": "k"}, 400, "INVALID_REQUEST"),
        ("/v1/ingest/{table}", b"", ARROW, {"idempotency_key": "k"}, 400, "INVALID_REQUEST"),
        ("/v1/ingest/{table}", b"garbage", ARROW, {}, 400, "INVALID_REQUEST"),
        ("/v1/ingest/{table}?op=merge", b"garbage", ARROW, {"idempotency_key": "k"}, 400, "INVALID_REQUEST"),
        ("/v1/ingest/{table}?wait_for_visibility=perhaps", b"", ARROW, {"idempotency_key": "k"}, 400,
         "INVALID_REQUEST"),
        ("/v1/ingest/{table}?visibility_timeout_ms=-1", one(), JSON, {}, 400, "INVALID_REQUEST"),
        ("/v1/ingest/{table}?visibility_timeout_ms=" + "9" * 5000, one(), JSON, {}, 400, "INVALID_REQUEST"),
        ("/v1/ingest/{table}?visibility_timeout_ms=soon", one(), JSON, {}, 400, "INVALID_REQUEST"),
    ],
)  # fmt: skip
def test_a_write_to_the_wrong_place_or_of_the_wrong_kind_is_refused(
    target: Target, path: str, body: bytes, kind: str, headers: dict[str, str], status: int, code: str
) -> None:
    assert_refused(target.send("POST", path, body, kind, **headers), status, code)


def test_a_body_over_the_limit_is_refused_by_its_declared_length(live_server: UpServer) -> None:
    address = urlsplit(live_server.url)
    head = (
        f"POST /v1/ingest/t HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {live_server.api_key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {10**9}\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(head.encode())
        answer = connection.recv(65536)
    assert b" 413 " in answer.partition(b"\r\n")[0]
    assert b"PAYLOAD_TOO_LARGE" in answer


def test_a_query_over_the_limit_is_refused(target: Target) -> None:
    sql = json.dumps({"sql": "SELECT '" + "x" * (5 * 2**20) + "'"}).encode()
    assert_refused(target.send("POST", "/v1/query", sql), 413, "PAYLOAD_TOO_LARGE", "limit")


# Queries.


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        (b"", 400, "INVALID_REQUEST", []),
        (b"{}", 400, "INVALID_REQUEST", ["sql"]),
        (b'{"sql": 1}', 400, "INVALID_REQUEST", ["sql"]),
        (b'{"sql": "SELECT 1", "sqll": 1}', 400, "INVALID_REQUEST", ["sqll"]),
        (b'{"sql": "SELECT 1", "row_limit": -1}', 400, "INVALID_REQUEST", ["row_limit"]),
        (b'{"sql": "SELECT 1", "row_limit": "9"}', 400, "INVALID_REQUEST", ["row_limit"]),
        (b'{"sql": "SELECT 1", "timeout_ms": -1}', 400, "INVALID_REQUEST", ["timeout_ms"]),
        (b'{"sql": "SELECT 1", "consistency_timeout_ms": -1}', 400, "INVALID_REQUEST", ["consistency_timeout_ms"]),
        (b'{"sql": "SELECT 1", "params": 7}', 400, "INVALID_REQUEST", ["params"]),
        (b'{"sql": "SELECT 1", "allow_parked": "yes"}', 400, "INVALID_REQUEST", ["allow_parked"]),
        (b'{"sql": "SELECT \xff"}', 400, "INVALID_REQUEST", []),
        (b'{"sql": "SELECT \\ud800"}', 400, "INVALID_REQUEST", []),
        (b'{"sql": "SELECT 1", "params": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", 400, None, []),
        (b'{"sql": ""}', 400, None, []),
        (b'{"sql": "-- nothing"}', 400, None, []),
        (b'{"sql": "SELEC 1"}', 400, "SQL_INVALID", []),
        (b'{"sql": "SELECT 1 \\u0000"}', 400, "SQL_INVALID", ["NUL"]),
        (b'{"sql": "SELECT nope FROM {table}"}', 400, "SQL_INVALID", ["nope"]),
        (b'{"sql": "SELECT * FROM no_such_table"}', 400, "SQL_INVALID", ["no_such_table"]),
        (b'{"sql": "SELECT 1; SELECT 2"}', 400, "SQL_NOT_ALLOWED", []),
        (b'{"sql": "INSERT INTO {table} VALUES (1)"}', 400, "SQL_NOT_ALLOWED", []),
        (b'{"sql": "CREATE TABLE x (i INT)"}', 400, "SQL_NOT_ALLOWED", []),
        (b'{"sql": "DROP TABLE {table}"}', 400, "SQL_NOT_ALLOWED", []),
        (b'{"sql": "ATTACH \'x.db\'"}', 400, "SQL_NOT_ALLOWED", []),
        (b'{"sql": "COPY {table} TO \'/tmp/x\'"}', 400, "SQL_NOT_ALLOWED", []),
        (b'{"sql": "SET memory_limit=\'1TB\'"}', 400, "SQL_NOT_ALLOWED", []),
        (b'{"sql": "PRAGMA database_list"}', 400, "SQL_NOT_ALLOWED", []),
        (b'{"sql": "INSTALL httpfs"}', 400, "SQL_NOT_ALLOWED", []),
        (b'{"sql": "CALL pragma_version()"}', 400, "SQL_NOT_ALLOWED", []),
        (b'{"sql": "SELECT * FROM read_csv(\'/etc/passwd\')"}', 400, "SQL_NOT_ALLOWED", []),
        (b'{"sql": "SELECT * FROM \'/etc/passwd\'"}', 400, None, []),
        (b'{"sql": "SELECT getenv(\'PATH\')"}', 400, None, []),
        (b'{"sql": "SELECT ?"}', 400, "SQL_INVALID", ["parameter"]),
        (b'{"sql": "SELECT ?", "params": []}', 400, "SQL_INVALID", ["parameter"]),
        (b'{"sql": "SELECT ?", "params": [1, 2]}', 400, "SQL_INVALID", ["parameter"]),
        (b'{"sql": "SELECT 1", "params": [1]}', 400, "SQL_INVALID", ["parameter"]),
        (b'{"sql": "SELECT $a", "params": {"b": 1}}', 400, "SQL_INVALID", ["parameter"]),
        (b'{"sql": "SELECT $a", "params": {"a": 1, "b": 1}}', 400, "SQL_INVALID", ["parameter"]),
        (b'{"sql": "SELECT $a", "params": [1]}', 400, "SQL_INVALID", ["parameter"]),
        (b'{"sql": "SELECT ?", "params": {"a": 1}}', 400, "SQL_INVALID", ["parameter"]),
        (b'{"sql": "SELECT ?", "params": [' + str(HUGE).encode() + b"]}", 400, "SQL_INVALID", ["parameter 1"]),
        (b'{"sql": "SELECT CAST(\'x\' AS INTEGER)"}', 400, "SQL_EXECUTION_FAILED", []),
        (b'{"sql": "SELECT 9223372036854775807 + 1"}', 400, "SQL_EXECUTION_FAILED", []),
        (b'{"sql": "SELECT ' + b"-(" * 100_000 + b"1" + b")" * 100_000 + b'"}', 400, None, []),
        (b'{"sql": "SELECT 1", "timeout_ms": 0}', 408, "QUERY_TIMEOUT", []),
    ],
)  # fmt: skip
def test_a_query_that_cannot_run_is_refused(
    target: Target, body: bytes, status: int, code: str | None, words: list[str]
) -> None:
    answered, found = target.send("POST", "/v1/query", body.replace(b"{table}", target.table.encode()))
    assert answered == status, found
    assert code is None or found["error_code"] == code, found
    assert found["error_code"] != "INTERNAL_ERROR"
    assert all(word in found["message"] for word in words), found


def test_a_huge_time_limit_is_cut_to_the_servers_own(target: Target) -> None:
    body = f'{{"sql": "SELECT 1", "timeout_ms": {HUGE}, "consistency_timeout_ms": {HUGE}, "row_limit": {HUGE}}}'
    status, answer = target.send("POST", "/v1/query", body.encode())
    assert (status, answer["rows"]) == (200, [[1]])


@pytest.mark.parametrize(
    ("selectors", "status", "code"),
    [
        ({"min_visibility_token": 0}, 400, "VISIBILITY_TOKEN_INVALID"),
        ({"min_visibility_token": -1}, 400, "VISIBILITY_TOKEN_INVALID"),
        ({"min_visibility_token": 2**62}, 400, "VISIBILITY_TOKEN_INVALID"),
        ({"min_visibility_token": 2**63}, 400, "VISIBILITY_TOKEN_INVALID"),
        ({"min_visibility_token": HUGE}, 400, "VISIBILITY_TOKEN_INVALID"),
        ({"min_visibility_token": -HUGE}, 400, "VISIBILITY_TOKEN_INVALID"),
        ({"min_visibility_token": "1"}, 400, "INVALID_REQUEST"),
        ({"min_visibility_token": 1.5}, 400, "INVALID_REQUEST"),
        ({"min_visibility_token": 1, "visibility_scope": "vs_other"}, 409, "TOKEN_SCOPE_MISMATCH"),
        ({"visibility_scope": "vs_other"}, 409, "TOKEN_SCOPE_MISMATCH"),
        ({"visibility_scope": "\x00"}, 409, "TOKEN_SCOPE_MISMATCH"),
        ({"snapshot_id": 0}, 400, "INVALID_REQUEST"),
        ({"snapshot_id": -1}, 400, "INVALID_REQUEST"),
        ({"snapshot_id": 2**62}, 404, "SNAPSHOT_NOT_FOUND"),
        ({"snapshot_id": HUGE}, 400, "INVALID_REQUEST"),
        ({"snapshot_id": "1"}, 400, "INVALID_REQUEST"),
        ({"snapshot_time": "yesterday"}, 400, "INVALID_REQUEST"),
        ({"snapshot_time": "2026-01-01T00:00:00"}, 400, "INVALID_REQUEST"),
        ({"snapshot_time": "1970-01-01T00:00:00Z"}, 404, "SNAPSHOT_NOT_FOUND"),
        ({"snapshot_time": "0001-01-01T00:00:00+23:59"}, 400, "INVALID_REQUEST"),
        ({"snapshot_time": "9999-12-31T23:59:59-23:59"}, 400, "INVALID_REQUEST"),
        ({"snapshot_time": "\x00"}, 400, "INVALID_REQUEST"),
        ({"snapshot_time": 7}, 400, "INVALID_REQUEST"),
        ({"snapshot_id": 1, "min_visibility_token": 1}, 400, "INVALID_REQUEST"),
        ({"snapshot_id": 1, "snapshot_time": "2026-01-01T00:00:00Z"}, 400, "INVALID_REQUEST"),
        ({"min_visibility_token": 1, "snapshot_time": "2026-01-01T00:00:00Z"}, 400, "INVALID_REQUEST"),
    ],
)  # fmt: skip
def test_a_snapshot_that_cannot_be_meant_is_refused(
    target: Target, selectors: dict[str, Any], status: int, code: str
) -> None:
    body = json.dumps({"sql": "SELECT 1"} | selectors).encode()
    assert_refused(target.send("POST", "/v1/query", body), status, code)


def test_a_token_of_another_tenants_log_is_refused_by_its_scope(target: Target, open_server: UpServer) -> None:
    with open_server.caller(new_name("tenant")) as other:
        other.create("t", {"n": "BIGINT"})
        receipt = other.put_row("t", {"n": 1})
    asked = {"min_visibility_token": receipt["max_visibility_token"], "visibility_scope": receipt["visibility_scope"]}
    body = json.dumps({"sql": "SELECT 1"} | asked).encode()
    found = assert_refused(target.send("POST", "/v1/query", body), 409, "TOKEN_SCOPE_MISMATCH")
    assert found["context"]["visibility_scope"] == receipt["visibility_scope"]


# Tables, snapshots, keys.


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "INVALID_REQUEST"),
        ({"table_name": 1, "schema_json": {"a": "BIGINT"}}, "INVALID_REQUEST"),
        ({"table_name": "ok", "schema_json": {"a": "BIGINT"}, "more": 1}, "INVALID_REQUEST"),
        ({"table_name": "ok", "schema_json": []}, "INVALID_REQUEST"),
        ({"table_name": "ok", "schema_json": {}}, "INVALID_SCHEMA"),
        ({"table_name": "ok", "schema_json": {"a": "NO_SUCH_TYPE"}}, "INVALID_SCHEMA"),
        ({"table_name": "ok", "schema_json": {"a": 7}}, "INVALID_SCHEMA"),
        ({"table_name": "ok", "schema_json": {"a": None}}, "INVALID_SCHEMA"),
        ({"table_name": "ok", "schema_json": {"a": {}}}, "INVALID_SCHEMA"),
        ({"table_name": "ok", "schema_json": {"a": {"type": "BIGINT", "size": 8}}}, "INVALID_SCHEMA"),
        ({"table_name": "ok", "schema_json": {"a": {"type": "BIGINT", "default": "x"}}}, "INVALID_SCHEMA"),
        ({"table_name": "ok", "schema_json": {"a": {"type": "BIGINT", "default": HUGE}}}, "INVALID_SCHEMA"),
        ({"table_name": "ok", "schema_json": {"a": {"type": "BIGINT", "nullable": "no"}}}, "INVALID_SCHEMA"),
        ({"table_name": "ok", "schema_json": {"a": "BIGINT", "A": "BIGINT"}}, "INVALID_SCHEMA"),
        ({"table_name": "ok", "schema_json": {"a": "DECIMAL(99,1)"}}, "INVALID_SCHEMA"),
        ({"table_name": "ok", "schema_json": {"a": "BIGINT" + "[]" * 5000}}, "INVALID_SCHEMA"),
        ({"table_name": "ok", "schema_json": {"a": "STRUCT(" * 500}}, "INVALID_SCHEMA"),
        ({"table_name": "ok", "schema_json": {"a": "BIGINT\x00"}}, "INVALID_SCHEMA"),
        ({"table_name": "ok", "schema_json": {"_token": "BIGINT"}}, "INVALID_NAME"),
        ({"table_name": "ok", "schema_json": {"_dm_x": "BIGINT"}}, "INVALID_NAME"),
        ({"table_name": "ok", "schema_json": {"a b": "BIGINT"}}, "INVALID_NAME"),
        ({"table_name": "ok", "schema_json": {"": "BIGINT"}}, "INVALID_NAME"),
        ({"table_name": "ok", "schema_json": {"a\x00": "BIGINT"}}, "INVALID_NAME"),
        ({"table_name": "ok", "schema_json": {"é": "BIGINT"}}, "INVALID_NAME"),
        ({"table_name": "ok", "schema_json": {"a": "BIGINT"}, "primary_key_cols": ["b"]}, "INVALID_SCHEMA"),
        ({"table_name": "ok", "schema_json": {"a": "BIGINT"}, "primary_key_cols": ["a", "A"]}, "INVALID_SCHEMA"),
        ({"table_name": "ok", "schema_json": {"a": "BIGINT"}, "compatibility_mode": "some"}, "INVALID_REQUEST"),
        ({"table_name": "ok", "schema_json": {"a": "BIGINT"}, "schema_mode": "some"}, "INVALID_REQUEST"),
        *(
            ({"table_name": name, "schema_json": {"a": "BIGINT"}}, "INVALID_NAME")
            for name in ("", " ", "1a", "a b", "a.b", "a-b", 'a"b', "a;b", "é", "\x00", "a" * 64, "../x",
                         "information_schema", "PG_CATALOG", "duckdb_tables", "_dm_x")
        ),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_is_refused(target: Target, body: dict[str, Any], code: str) -> None:
    assert_refused(target.send("POST", "/v1/tables", json.dumps(body).encode()), 400, code)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/tables", {"table_name": "{table}", "schema_json": {"a": "BIGINT"}}, 409, "TABLE_EXISTS"),
        ("POST", "/v1/tables", {"table_name": "{TABLE}", "schema_json": {"a": "BIGINT"}}, 409, "TABLE_EXISTS"),
        ("PATCH", "/v1/tables/no_such_table", {"schema_json": {"a": "BIGINT"}}, 404, "TABLE_NOT_FOUND"),
        ("PATCH", "/v1/tables/{table}", {"schema_json": {"id": "VARCHAR"}}, 409, "SCHEMA_INCOMPATIBLE"),
        ("PATCH", "/v1/tables/{table}", {}, 400, "INVALID_REQUEST"),
        ("PATCH", "/v1/tables/{table}", {"schema_json": {}}, 409, "SCHEMA_INCOMPATIBLE"),
        ("GET", "/v1/tables/no_such_table", None, 404, "TABLE_NOT_FOUND"),
        ("GET", "/v1/tables/%00", None, 404, "TABLE_NOT_FOUND"),
        ("DELETE", "/v1/tables/no_such_table", None, 404, "TABLE_NOT_FOUND"),
        ("GET", "/v1/snapshots/0", None, 404, "SNAPSHOT_NOT_FOUND"),
        ("GET", "/v1/snapshots/-1", None, 404, "SNAPSHOT_NOT_FOUND"),
        ("GET", "/v1/snapshots/first", None, 404, "SNAPSHOT_NOT_FOUND"),
        ("GET", "/v1/snapshots/%00", None, 404, "SNAPSHOT_NOT_FOUND"),
        ("GET", "/v1/snapshots/9223372036854775807", None, 404, "SNAPSHOT_NOT_FOUND"),
        ("GET", "/v1/snapshots/9223372036854775808", None, 404, "SNAPSHOT_NOT_FOUND"),
        ("GET", "/v1/snapshots/00000000000000000001" + "9" * 30, None, 404, "SNAPSHOT_NOT_FOUND"),
        ("GET", "/v1/snapshots/00000000000000000001" + "9" * 5000, None, 404, "SNAPSHOT_NOT_FOUND"),
        ("GET", "/v1/snapshots?cursor=x", None, 400, "INVALID_REQUEST"),
        ("GET", "/v1/snapshots?cursor=-1", None, 400, "INVALID_REQUEST"),
        ("GET", "/v1/snapshots?cursor=9223372036854775808", None, 400, "INVALID_REQUEST"),
        ("GET", "/v1/snapshots?cursor=" + "9" * 5000, None, 400, "INVALID_REQUEST"),
        ("GET", "/v1/snapshots?cursor=%00", None, 400, "INVALID_REQUEST"),
        ("GET", "/v1/snapshots?limit=0", None, 400, "INVALID_REQUEST"),
        ("GET", "/v1/snapshots?limit=1001", None, 400, "INVALID_REQUEST"),
        ("GET", "/v1/snapshots?limit=many", None, 400, "INVALID_REQUEST"),
        ("GET", "/v1/snapshots?limit=" + "9" * 5000, None, 400, "INVALID_REQUEST"),
        ("POST", "/v1/keys", {}, 400, "INVALID_REQUEST"),
        ("POST", "/v1/keys", {"roles": []}, 400, "INVALID_REQUEST"),
        ("POST", "/v1/keys", {"roles": ["king"]}, 400, "INVALID_REQUEST"),
        ("POST", "/v1/keys", {"roles": ["query_reader"], "name": "x" * 201}, 400, "INVALID_REQUEST"),
        ("POST", "/v1/keys", {"roles": ["query_reader"], "name": "\x00"}, 400, "INVALID_REQUEST"),
        ("DELETE", "/v1/keys/unknown", None, 404, "NOT_FOUND"),
        ("DELETE", "/v1/keys/%00", None, 404, "NOT_FOUND"),
        ("DELETE", "/v1/keys/" + "x" * 5000, None, 404, "NOT_FOUND"),
        ("GET", "/v1/nothing", None, 404, "NOT_FOUND"),
        ("GET", "/", None, 404, "NOT_FOUND"),
        ("GET", "/v1/%00", None, 404, "NOT_FOUND"),
        ("GET", "/v1/%2e%2e/%2e%2e/etc/passwd", None, 404, "NOT_FOUND"),
        ("GET", "/v2/tables", None, 404, "NOT_FOUND"),
        ("GET", "/v1/query", None, 405, "METHOD_NOT_ALLOWED"),
        ("PUT", "/v1/tables", None, 405, "METHOD_NOT_ALLOWED"),
        ("DELETE", "/v1/ingest/{table}", None, 405, "METHOD_NOT_ALLOWED"),
        ("TRACE", "/v1/tables", None, 405, "METHOD_NOT_ALLOWED"),
    ],
)  # fmt: skip
def test_what_is_not_there_or_not_possible_is_said(
    target: Target, method: str, path: str, body: Any, status: int, code: str
) -> None:
    sent = json.dumps(body).replace("{table}", target.table).replace("{TABLE}", target.table.upper())
    answered, found = target.send(method, path, sent.encode() if body is not None else None)
    assert_refused((answered, found), status, code)


@pytest.mark.parametrize(
    "line",
    [b"FOO / HTTP/1.1", b"GET /v1/tables HTTP/9.9", b"GET", b"\x00\x01\x02", b"GET http://[ HTTP/1.1",
     b"GET /v1/tables?\xff=\xfe HTTP/1.1", b"GET /v1/tabl\xffes HTTP/1.1"],
)  # fmt: skip
def test_a_request_that_is_no_http_is_a_4xx(live_server: UpServer, line: bytes) -> None:
    address = urlsplit(live_server.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(line + b"\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = connection.recv(65536)
    assert answer.split(b" ")[1][:1] == b"4", answer


# Who may do what.


ROLES = ("ingest_writer", "query_reader", "table_admin", "ops_admin")
CALLS: list[tuple[str, str, Any, set[str]]] = [
    ("POST", "/v1/ingest/{table}", {"records": []}, {"ingest_writer"}),
    ("POST", "/v1/ingest", {"tables": {}}, {"ingest_writer"}),
    ("POST", "/v1/query", {"sql": "SELECT 1"}, {"query_reader"}),
    ("GET", "/v1/tables", None, {"query_reader", "table_admin"}),
    ("GET", "/v1/tables/{table}", None, {"query_reader", "table_admin"}),
    ("POST", "/v1/tables", {}, {"table_admin"}),
    ("PATCH", "/v1/tables/{table}", {}, {"table_admin"}),
    ("DELETE", "/v1/tables/no_such_table", None, {"table_admin"}),
    ("GET", "/v1/snapshots", None, {"query_reader"}),
    ("GET", "/v1/snapshots/1", None, {"query_reader"}),
    ("GET", "/v1/lag", None, {"ops_admin"}),
    ("GET", "/v1/keys", None, {"ops_admin"}),
    ("POST", "/v1/keys", {}, {"ops_admin"}),
    ("DELETE", "/v1/keys/unknown", None, {"ops_admin"}),
]


@pytest.fixture(scope="module")
def keys(target: Target) -> dict[str, str]:
    """A key for each role."""
    return {role: target.caller.call("POST", "/v1/keys", {"roles": [role]}, expect=201)["key"] for role in ROLES}


@pytest.mark.parametrize(("method", "path", "body", "allowed"), CALLS)
@pytest.mark.parametrize("role", ROLES)
def test_each_role_may_do_what_is_its_own_and_nothing_else(
    target: Target, keys: dict[str, str], role: str, method: str, path: str, body: Any, allowed: set[str]
) -> None:
    sent = json.dumps(body).encode() if body is not None else None
    status, found = target.send(method, path, sent, authorization=f"Bearer {keys[role]}")
    if role in allowed:
        assert status < 500
        assert status not in {401, 403}, found
    else:
        found = assert_refused((status, found), 403, "PERMISSION_DENIED")
        assert set(found["context"]["required_roles"]) == allowed


@pytest.mark.parametrize("call", CALLS)
def test_nothing_is_answered_without_a_key(live_server: UpServer, call: tuple[str, str, Any, set[str]]) -> None:
    with Caller(live_server.url) as nobody:
        nobody.refused(call[0], call[1].replace("{table}", "t"), call[2], 401, "UNAUTHENTICATED")


def test_health_readiness_and_metrics_need_no_key(live_server: UpServer) -> None:
    with Caller(live_server.url) as nobody:
        assert nobody.call("GET", "/v1/health") == {"status": "ok"}
        assert nobody.call("GET", "/v1/ready")["status"] == "ready"
        assert "duckmesh_ingest_requests_total" in nobody.http.get("/v1/metrics").text


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer x", "Basic YTpi", "Bearer dm_live_", "Bearer " + "x" * 5000, "Bearer é",
     "{key}", "Bearer {key}x", "Bearer {key} {key}", "Token {key}", "Bearer {cut}", "Bearer {upper}"],
)  # fmt: skip
def test_a_garbled_key_is_refused(live_server: UpServer, header: str) -> None:
    key = str(live_server.api_key)
    text = header.replace("{key}", key).replace("{cut}", key[:-1]).replace("{upper}", key.upper())
    with Caller(live_server.url) as nobody:
        answer = nobody.http.get("/v1/tables", headers={"authorization": text.encode("latin-1")})
    assert_refused((answer.status_code, answer.json()), 401, "UNAUTHENTICATED")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert key not in answer.text


def test_a_key_is_taken_in_its_own_header_too(live_server: UpServer) -> None:
    with Caller(live_server.url) as nobody:
        assert nobody.http.get("/v1/tables", headers={"x-api-key": str(live_server.api_key)}).status_code == 200


def test_a_revoked_key_stops_working_within_seconds(target: Target) -> None:
    made = target.caller.call("POST", "/v1/keys", {"roles": ["query_reader"], "name": "short"}, expect=201)
    bearer = {"authorization": f"Bearer {made['key']}"}
    assert target.send("GET", "/v1/tables", None, **bearer)[0] == 200
    left = target.caller.call("DELETE", f"/v1/keys/{made['key_id']}")["keys"]
    assert [key["revoked_at"] is not None for key in left if key["key_id"] == made["key_id"]] == [True]
    for _ in target.caller.again(10):
        found = target.send("GET", "/v1/tables", None, **bearer)
        if found[0] != 200:
            assert_refused(found, 401, "UNAUTHENTICATED")
            break


@pytest.mark.parametrize("named", ["other", "Default", "", "default,other", "é"])
def test_a_tenant_header_that_disagrees_is_refused(target: Target, named: str) -> None:
    answer = target.caller.http.get("/v1/tables", headers={"x-tenant-id": named.encode("latin-1")})
    assert_refused((answer.status_code, answer.json()), 403, "PERMISSION_DENIED")
