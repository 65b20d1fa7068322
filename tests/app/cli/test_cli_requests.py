"""What the commands send and how they print, against a stub (see conftest)."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from duckmesh.app.cli.client import ApiClient
from duckmesh.app.cli.discovery import Target
from duckmesh.app.cli.exit_codes import ServerAnswered, ServerUnreachable
from duckmesh.app.cli.output import cell_text, error_line, is_numeric
from duckmesh.app.cli.query import parse_params
from duckmesh.app.cli.tables import parse_columns

QUERY = "POST /v1/query"
RESULT = {
    "columns": ["name", "n"],
    "column_types": ["VARCHAR", "BIGINT"],
    "rows": [["NULL", 1], [None, None]],
    "snapshot_id": 7,
    "snapshot_time": "2026-01-01T00:00:00Z",
    "max_visibility_token": 42,
    "visibility_scope": "s",
    "stats": {"duration_ms": 1.5},
}
SHED = {"error_code": "OVERLOADED", "message": "later", "retryable": True, "context": {}, "trace_id": None}


def client_of(stub: Any, pauses: list[float], **settings: Any) -> ApiClient:
    return ApiClient(Target(stub.url, "secret"), sleep=pauses.append, **settings)


def test_the_credential_is_sent_as_a_bearer_token(stub: Any, cli: Callable[..., Any]) -> None:
    stub.answer("GET /v1/lag", (200, {}))
    assert cli("lag", "--api-key", "dm_live_x", "--tenant", "acme").code == 0
    assert stub.seen[0].headers["authorization"] == "Bearer dm_live_x"
    assert stub.seen[0].headers["x-tenant-id"] == "acme"


def test_a_shed_request_is_sent_again_with_the_same_key(stub: Any) -> None:
    stub.answer("POST /v1/ingest/t", (503, SHED), (429, SHED), (200, {"accepted_count": 1}))
    pauses: list[float] = []
    with client_of(stub, pauses) as client:
        client.post_bytes("/v1/ingest/t", b"x", "text/csv", idempotency_key="k")
    assert [request.headers["idempotency-key"] for request in stub.seen] == ["k", "k", "k"]
    assert len(pauses) == 2


def test_a_503_that_says_it_will_not_get_better_is_not_sent_again(stub: Any) -> None:
    stub.answer("GET /v1/lag", (503, SHED | {"retryable": False}))
    pauses: list[float] = []
    with client_of(stub, pauses) as client, pytest.raises(ServerAnswered):
        client.get("/v1/lag")
    assert (len(stub.seen), pauses) == (1, [])


def test_a_refused_connection_is_tried_again_until_the_time_is_over() -> None:
    pauses: list[float] = []
    gone = ApiClient(Target("http://127.0.0.1:9"), retry_seconds=0.3, sleep=pauses.append)
    with gone as client, pytest.raises(ServerUnreachable):
        client.get("/v1/lag")
    assert pauses


def test_all_selectors_of_a_query_are_passed_on(stub: Any, cli: Callable[..., Any]) -> None:
    stub.answer(QUERY, (200, RESULT))
    options = [
        "--min-token",
        "5",
        "--row-limit",
        "9",
        "--timeout-ms",
        "100",
        "--allow-parked",
        "-p",
        "x=1",
        "--json",
    ]
    assert cli("query", "SELECT 1", *options).code == 0
    assert stub.seen[0].json == {
        "sql": "SELECT 1", "params": {"x": 1}, "min_visibility_token": 5, "allow_parked": True,
        "row_limit": 9, "timeout_ms": 100, "consistency_timeout_ms": 100,
    }  # fmt: skip


def test_json_is_the_answer_of_the_server(stub: Any, cli: Callable[..., Any]) -> None:
    stub.answer(QUERY, (200, RESULT))
    assert json.loads(cli("query", "SELECT 1", "--json").out) == RESULT
    assert json.loads(cli("query", "SELECT 1", "--format", "json").out) == RESULT


def test_a_table_shows_types_and_nulls_and_where_it_was_read(stub: Any, cli: Callable[..., Any]) -> None:
    stub.answer(QUERY, (200, RESULT))
    out = cli("query", "SELECT 1", "--format", "table").out
    assert "VARCHAR" in out
    assert "BIGINT" in out
    assert out.count("NULL") == 3
    assert "2 rows" in out
    assert "snapshot 7, token 42" in out


@pytest.mark.parametrize(("form", "accept"), [("csv", "text/csv"), ("ndjson", "application/x-ndjson")])
def test_rows_for_programs_are_what_the_server_formats(
    stub: Any, cli: Callable[..., Any], form: str, accept: str
) -> None:
    stub.answer(QUERY, (200, b"a,b\n1,2\n"))
    ran = cli("query", "SELECT 1", "--format", form)
    assert (ran.code, ran.out) == (0, "a,b\n1,2\n")
    assert stub.seen[0].headers["accept"] == accept


def test_an_error_of_a_streamed_query_is_reported_like_any_other(stub: Any, cli: Callable[..., Any]) -> None:
    stub.answer(QUERY, (504, SHED | {"error_code": "CONSISTENCY_TIMEOUT"}))
    ran = cli("query", "SELECT 1", "--format", "csv")
    assert (ran.code, ran.out) == (4, "")
    assert ran.err.startswith("error: CONSISTENCY_TIMEOUT")


def test_a_table_is_created_from_its_columns(stub: Any, cli: Callable[..., Any]) -> None:
    info = {"table_name": "t", "table_id": 1, "schema_version": 1, "schema_json": {"id": "BIGINT"}}
    stub.answer("POST /v1/tables", (201, info))
    columns = ["-c", "id BIGINT not null", "-c", "amount DECIMAL(18, 2)", "-k", "id"]
    assert cli("tables", "create", "t", *columns).code == 0
    assert stub.seen[0].json == {
        "table_name": "t",
        "schema_json": {"id": {"type": "BIGINT", "nullable": False}, "amount": "DECIMAL(18, 2)"},
        "primary_key_cols": ["id"],
    }


@pytest.mark.parametrize("whole", [True, False])
def test_a_table_is_created_from_a_file(stub: Any, cli: Callable[..., Any], tmp_path: Any, whole: bool) -> None:
    schema = {"id": "BIGINT"}
    file = tmp_path / "schema.json"
    file.write_text(json.dumps({"schema_json": schema, "primary_key_cols": ["id"]} if whole else schema))
    stub.answer("POST /v1/tables", (201, {"table_name": "t", "schema_json": schema}))
    assert cli("tables", "create", "t", "--schema", str(file)).code == 0
    assert stub.seen[0].json["schema_json"] == schema
    assert ("primary_key_cols" in stub.seen[0].json) is whole


def test_all_pages_of_tables_are_listed(stub: Any, cli: Callable[..., Any]) -> None:
    def page(name: str, cursor: str | None) -> tuple[int, Any]:
        info = {"table_name": name, "schema_version": 1, "schema_json": {"id": "BIGINT"}}
        return 200, {"tables": [info], "next_cursor": cursor}

    stub.answer("GET /v1/tables", page("first", "c"), page("second", None))
    out = cli("tables", "list").out
    assert "first" in out
    assert "second" in out
    assert stub.seen[1].params == {"cursor": "c"}


def test_dropping_needs_a_yes_where_nobody_can_be_asked(stub: Any, cli: Callable[..., Any]) -> None:
    stub.answer("DELETE /v1/tables/t", (200, {}))
    assert cli("tables", "drop", "t").code == 2
    assert stub.seen == []
    assert cli("tables", "drop", "t", "--yes").code == 0


def test_snapshots_are_listed_page_by_page(stub: Any, cli: Callable[..., Any]) -> None:
    entry = {"snapshot_id": 3, "parent_id": None, "watermark": 9, "published_at": "2026", "author": "coordinator"}
    stub.answer("GET /v1/snapshots", (200, {"snapshots": [entry], "next_cursor": "abc"}))
    out = cli("snapshots", "list", "-n", "1").out
    assert "coordinator" in out
    assert "--cursor abc" in out
    assert stub.seen[0].params == {"limit": "1"}


def test_parameters_are_json_where_they_can_be_and_text_elsewhere() -> None:
    given = ["a=1", "b=1.5", "c=null", "d=JFK", 'e="1"', "f=x=y", "g=[1, 2]", "h="]
    expected = {"a": 1, "b": 1.5, "c": None, "d": "JFK", "e": "1", "f": "x=y", "g": [1, 2], "h": ""}
    assert parse_params(given) == expected


def test_a_column_may_have_a_type_of_several_words() -> None:
    assert parse_columns(["at TIMESTAMP WITH TIME ZONE", "p  STRUCT(a INTEGER)"]) == {
        "at": "TIMESTAMP WITH TIME ZONE",
        "p": "STRUCT(a INTEGER)",
    }


def test_data_cannot_steer_the_terminal() -> None:
    assert cell_text("a\x1b[31mb\n") == "a\\x1b[31mb\\n"
    assert cell_text("Zürich 東京") == "Zürich 東京"


def test_only_numbers_stand_on_the_right() -> None:
    assert all(map(is_numeric, ["BIGINT", "UTINYINT", "DECIMAL(18,3)", "DOUBLE"]))
    assert not any(map(is_numeric, ["VARCHAR", "INTEGER[]", "TIMESTAMPTZ", "UUID"]))


def test_an_error_is_one_line_and_does_not_say_things_twice() -> None:
    failure = ServerAnswered(
        400, {"error_code": "X", "message": "column 'a'\nis wrong", "context": {"column": "a", "record": 3}}
    )
    assert error_line(failure) == "error: X: column 'a' is wrong (record=3)"
