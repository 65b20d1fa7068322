"""Which names tenants, tables and columns may have.

Names are bounded and plain so that they are safe in object keys, in SQL after quoting, and in logs
(contract, section 9: identifiers are bounded).
"""

import re
from typing import Final

from duckmesh.domain.errors import InvalidName

MAX_NAME_LENGTH: Final = 63

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}\Z")
_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}\Z")

#: Shown on every table, so no column of a user may be called so.
SYSTEM_COLUMNS: Final = frozenset({"_event_time", "_token"})
#: Columns with this prefix are written into data files for the engine's own use.
INTERNAL_PREFIX: Final = "_dm_"
_RESERVED_TABLES: Final = frozenset({"information_schema", "pg_catalog", "main", "temp", "system", "sqlite_master"})


def fold(name: str) -> str:
    """The form in which names are compared: case-insensitively, as in DuckDB."""
    return name.lower()


def check_tenant_name(name: str) -> str:
    """Return ``name`` when it can be a tenant, else raise `InvalidName`."""
    if not _TENANT.match(name):
        raise InvalidName(
            f"tenant name {name[:80]!r} is not allowed: use 1 to {MAX_NAME_LENGTH} of a-z, 0-9, '_' and '-', "
            "starting with a letter or digit",
            name=name[:80],
        )
    return name


def check_table_name(name: str) -> str:
    """Return ``name`` when it can be a table, else raise `InvalidName`."""
    _check_identifier("table", name)
    if fold(name) in _RESERVED_TABLES or fold(name).startswith(("duckdb_", "pragma_", INTERNAL_PREFIX)):
        raise InvalidName(f"table name {name!r} is reserved; choose another", name=name)
    return name


def check_column_name(name: str) -> str:
    """Return ``name`` when it can be a column, else raise `InvalidName`."""
    _check_identifier("column", name)
    if fold(name) in SYSTEM_COLUMNS or fold(name).startswith(INTERNAL_PREFIX):
        raise InvalidName(f"column name {name!r} is reserved; choose another", name=name)
    return name


def _check_identifier(what: str, name: str) -> None:
    if not _IDENTIFIER.match(name):
        raise InvalidName(
            f"{what} name {name[:80]!r} is not allowed: use 1 to {MAX_NAME_LENGTH} of A-Z, a-z, 0-9 and '_', "
            "not starting with a digit",
            name=name[:80],
        )
