"""The gate before anything runs: one SELECT, over the tenant's relations and built-in functions only.

DuckDB's own parser gives the statement and its tree; the tree is walked and whatever is not known to be harmless is
refused. This is the first of several walls (the instance that runs the query can reach its files only).
"""

import difflib
import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import duckdb
from attrs import frozen

from duckmesh.adapters.duckdb.errors import translated
from duckmesh.domain.errors import DuckMeshError, SqlExecutionFailed, SqlInvalid, SqlNotAllowed

MAX_SQL_BYTES: Final = 64 * 1024
#: Deeper trees are refused by the parser; a chain of ANDs or ORs is flat, ``1+1+…`` is not.
MAX_EXPRESSION_DEPTH: Final = 250
_REMEMBERED: Final = 256

#: Functions in FROM that make rows from their arguments and read nothing.
TABLE_FUNCTIONS: Final = frozenset({"range", "generate_series", "unnest", "repeat", "json_each", "json_tree"})

#: What a tree may be made of beside expressions.
_NODES: Final = frozenset({
    "SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE",
    "BASE_TABLE", "EMPTY", "EXPRESSION_LIST", "JOIN", "PIVOT", "SHOW_REF", "SUBQUERY", "TABLE_FUNCTION",
    "DISTINCT_MODIFIER", "LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER", "ORDER_MODIFIER",
    "ORDER_DEFAULT", "ASCENDING", "DESCENDING",
    "DECIMAL_TYPE_INFO", "LIST_TYPE_INFO", "STRUCT_TYPE_INFO", "UNBOUND_TYPE_INFO", "STRING_TYPE_INFO",
    "ARRAY_TYPE_INFO", "ENUM_TYPE_INFO", "GENERIC_TYPE_INFO",
})  # fmt: skip
_EXPRESSIONS: Final = frozenset({
    "BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "FUNCTION",
    "LAMBDA", "LAMBDA_REF", "OPERATOR", "PARAMETER", "POSITIONAL_REFERENCE", "STAR", "SUBQUERY", "TYPE", "WINDOW",
})  # fmt: skip

#: Functions that show or change something beside the values given to them.
_LEAKING: Final = frozenset({
    "getenv", "current_setting", "getvariable", "which_secret", "write_log", "parse_duckdb_log_message", "glob",
    "nextval", "currval", "current_query", "current_query_id", "current_connection_id", "current_transaction_id",
    "txid_current", "in_search_path", "sleep_ms", "json_serialize_sql", "json_deserialize_sql",
    "json_serialize_plan", "json_execute_serialized_sql", "query", "query_table", "sniff_csv", "get_block_size",
    "user", "session_user", "current_role", "current_user", "setseed",
})  # fmt: skip
_LEAKING_PREFIXES: Final = ("read_", "duckdb_", "pragma_", "parquet_", "pg_", "inet_", "has_", "__internal")
_HARMLESS: Final = frozenset({"pg_typeof", "pg_size_pretty"})

_CATALOG_NAMES: Final = ("duckdb_", "pragma_", "pg_", "sqlite_")
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

Node = Mapping[str, Any]
Scope = frozenset[str]


@frozen
class CheckedSql:
    """A statement that may run. ``tables`` are folded; parameters are called as in the SQL, or by position."""

    sql: str
    tables: frozenset[str]
    parameters: frozenset[str]


class SqlGuard:
    """Checks statements on a connection that can reach nothing. May be used from several threads."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._checked = functools.lru_cache(_REMEMBERED)(self._check)
        self._check("SELECT 1")  # the first call loads what DuckDB loads lazily

    def check(self, sql: str, relations: Iterable[str]) -> CheckedSql:
        """The statement, when it is one SELECT that names ``relations`` only.

        Raises `SqlInvalid` when it does not parse or names a table that is not there, `SqlNotAllowed` when it is
        anything else than a SELECT or reaches for more.
        """
        checked = self._checked(sql)
        known = {name.lower(): name for name in relations}
        for table in sorted(checked.tables - set(known)):
            raise _unknown_table(table, known)
        return checked

    def _check(self, sql: str) -> CheckedSql:
        _check_size(sql)
        with self._connection.cursor() as cursor:
            try:
                return _checked(cursor, sql)
            except duckdb.Error as error:
                raise _of_the_text(error, sql) from error
            except RecursionError as error:
                raise SqlNotAllowed("the SQL is nested too deeply") from error


def _of_the_text(error: duckdb.Error, sql: str) -> DuckMeshError:
    """Nothing has run yet, so whatever failed lies in the SQL."""
    failure = translated(error, sql=sql)
    return SqlInvalid(failure.message) if isinstance(failure, SqlExecutionFailed) else failure


def _check_size(sql: str) -> None:
    try:
        size = len(sql.encode())
    except UnicodeEncodeError as error:
        raise SqlInvalid("the SQL is not valid Unicode") from error
    if size > MAX_SQL_BYTES:
        raise SqlNotAllowed(f"the SQL is longer than {MAX_SQL_BYTES} bytes", limit=MAX_SQL_BYTES)
    if "\0" in sql:
        raise SqlInvalid("the SQL contains a NUL character")


def _checked(cursor: duckdb.DuckDBPyConnection, sql: str) -> CheckedSql:
    statements = cursor.extract_statements(sql)
    if not statements:
        raise SqlInvalid("the SQL is empty")
    for statement in statements:
        if statement.type != duckdb.StatementType.SELECT:
            raise SqlNotAllowed(f"only SELECT is allowed, this is {statement.type.name}{_hint(sql)}")
    if len(statements) > 1:
        raise SqlNotAllowed(f"one statement is allowed, these are {len(statements)}")
    return CheckedSql(sql, frozenset(_tables(_tree(cursor, sql))), frozenset(statements[0].named_parameters))


def _hint(sql: str) -> str:
    pivot = re.match(r"\s*(\()*\s*pivot\b", sql, re.IGNORECASE)
    return "; PIVOT needs its values listed: PIVOT … ON column IN (…)" if pivot else ""


def _tree(cursor: duckdb.DuckDBPyConnection, sql: str) -> Node:
    row = cursor.execute("SELECT json_serialize_sql($1)", [sql]).fetchone()
    tree: Node = json.loads(row[0]) if row else {"error": True}
    if tree["error"] or len(tree["statements"]) != 1:
        # PRAGMA and its like count as SELECT for the parser, but have no tree.
        raise SqlNotAllowed("only SELECT is allowed")
    statement: Node = tree["statements"][0]
    return statement


def _tables(statement: Node) -> Iterator[str]:
    """Every table that the tree names, by folded name; raises at the first thing that is not allowed."""
    pending: list[tuple[Any, Scope]] = [(statement, frozenset())]
    while pending:
        node, scope = pending.pop()
        if isinstance(node, list):
            pending.extend((item, scope) for item in node)
        elif isinstance(node, dict):
            yield from _table(node, scope)
            pending.extend(_children(node, scope))


def _table(node: Node, scope: Scope) -> Iterator[str]:
    kind = node.get("type")
    if "class" in node:
        _check_expression(node)
    elif isinstance(kind, str):
        if kind not in _NODES:
            raise SqlNotAllowed(f"the SQL uses a construct that is not allowed: {kind[:64]}")
        if kind == "TABLE_FUNCTION":
            _check_table_function(node["function"])
        elif kind == "SHOW_REF":
            _check_show(node)
        elif kind == "BASE_TABLE":
            yield from _base_table(node, scope)


def _children(node: Node, scope: Scope) -> Iterator[tuple[Any, Scope]]:
    """The parts of a node with the names of the common table expressions that each can see."""
    if node.get("type") == "RECURSIVE_CTE_NODE":
        scope |= {node["cte_name"].lower()}
    ctes = node.get("cte_map")
    if isinstance(ctes, dict):
        for entry in ctes["map"]:
            yield entry["value"], scope  # it sees those before it, and itself only when it is recursive
            scope |= {entry["key"].lower()}
    yield from ((part, scope) for name, part in node.items() if name != "cte_map")


def _check_expression(node: Node) -> None:
    if node["class"] not in _EXPRESSIONS:
        raise SqlNotAllowed(f"the SQL uses an expression that is not allowed: {str(node['class'])[:64]}")
    name = str(node.get("function_name", "")).lower()
    if name in _LEAKING or (name.startswith(_LEAKING_PREFIXES) and name not in _HARMLESS):
        raise SqlNotAllowed(f"the function {name[:64]} is not allowed", function=name[:64])


def _check_table_function(function: Node) -> None:
    name = str(function.get("function_name", "")).lower()
    if name not in TABLE_FUNCTIONS or function.get("schema") or function.get("catalog"):
        allowed = ", ".join(sorted(TABLE_FUNCTIONS))
        raise SqlNotAllowed(
            f"the function {name[:64]} is not allowed in FROM; allowed are {allowed}", function=name[:64]
        )


def _check_show(node: Node) -> None:
    if node.get("show_type") not in {"DESCRIBE", "SUMMARY"} or not isinstance(node.get("query"), dict):
        raise SqlNotAllowed("SHOW is not allowed; DESCRIBE and SUMMARIZE of a table are")


def _base_table(node: Node, scope: Scope) -> Iterator[str]:
    name, schema, catalog = node["table_name"], node["schema_name"], node["catalog_name"]
    if catalog or schema.lower() not in {"", "main"}:
        raise SqlNotAllowed(f"only tables of this tenant can be read, {schema[:64]}.{name[:64]} is none")
    if node.get("at_clause"):
        raise SqlNotAllowed("AT is not allowed; a query chooses its snapshot with snapshot_id or snapshot_time")
    folded = name.lower()
    if not schema and folded in scope:
        return
    if not _PLAIN_NAME.match(name) or folded.startswith(_CATALOG_NAMES):
        raise SqlNotAllowed(f"only tables of this tenant can be read, {name[:64]!r} is none")
    yield folded


def _unknown_table(table: str, known: Mapping[str, str]) -> SqlInvalid:
    close = [known[name] for name in difflib.get_close_matches(table, known, n=3)]
    hint = f"; did you mean {', '.join(close)}?" if close else ""
    return SqlInvalid(f"table {table[:64]!r} does not exist in this snapshot{hint}", table=table[:64], similar=close)
