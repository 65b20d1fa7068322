"""Every failure of DuckDB as an error of the domain, with a message that shows nothing but the user's own.

Failures arrive in two forms: as DuckDB's exceptions, and while a result streams as Arrow's, which carry DuckDB's
message as text. Both begin with the class of the failure, so that is what is read.
"""

import re
from collections.abc import Mapping
from typing import Final

from duckmesh.domain.errors import (
    DataCorrupt,
    DuckMeshError,
    ObjectMissing,
    QueryResourceExceeded,
    QueryTimeout,
    SqlExecutionFailed,
    SqlInvalid,
    SqlNotAllowed,
    Unavailable,
)

_CLASSES: Final[dict[str, type[DuckMeshError]]] = {
    "Parser": SqlInvalid,
    "Syntax": SqlInvalid,
    "Binder": SqlInvalid,
    "Catalog": SqlInvalid,
    "Parameter Not Resolved": SqlInvalid,
    "Parameter Not Allowed": SqlInvalid,
    "Invalid type": SqlInvalid,
    "Conversion": SqlExecutionFailed,
    "Out of Range": SqlExecutionFailed,
    "Divide by Zero": SqlExecutionFailed,
    "Invalid Input": SqlExecutionFailed,
    "Mismatch Type": SqlExecutionFailed,
    "Decimal": SqlExecutionFailed,
    "Not implemented": SqlExecutionFailed,
    "Expression": SqlExecutionFailed,
    "Executor": SqlExecutionFailed,
    "Sequence": SqlExecutionFailed,
    "Constraint": SqlExecutionFailed,
    "Permission": SqlNotAllowed,
    "Missing Extension": SqlNotAllowed,
    "Out of Memory": QueryResourceExceeded,
    "Object Size": QueryResourceExceeded,
    "INTERRUPT": QueryTimeout,
    "IO": Unavailable,
    "HTTP": Unavailable,
}
#: Errors whose text speaks of the user's SQL; all others get a text of ours.
_SPEAKS_OF_THE_SQL: Final = (SqlInvalid, SqlExecutionFailed)

_CLASS = re.compile(r"(?P<kind>[A-Za-z ]+?) Error: (?P<text>.*)\Z", re.DOTALL)
_GONE = re.compile(r"No files found|No such file|does not exist|HTTP 404|404 \(Not Found\)|code 404")
_LINE = re.compile(r"\n*^LINE \d+: (?P<excerpt>.*)\n(?P<caret>[ ]*\^)?", re.MULTILINE)
_ABOUT_SETTINGS = re.compile(r"\bSET\b|\bPRAGMA\b|\bsetting|temp_directory|extension", re.IGNORECASE)
_URL = re.compile(r"\b(?:s3|https?|file)://[^\s\"']+")
_MAX_MESSAGE: Final = 2000


def translated(error: BaseException, sql: str = "", files: Mapping[str, str] | None = None) -> DuckMeshError:
    """The domain's error for a failure of DuckDB.

    ``files`` are the places that the query reads with the relation that each belongs to: a failure that names one
    is not the user's, and no message shows them.
    """
    kind, text = _split(str(error))
    relation = next((name for uri, name in (files or {}).items() if uri in text), None)
    found = _CLASSES.get(kind, DuckMeshError)
    if relation is not None or found is Unavailable:
        return _of_a_file(found, text, relation)
    if text.startswith("Cannot change configuration"):
        return SqlNotAllowed(_OWN_TEXTS[SqlNotAllowed])
    if "Max expression depth" in text:
        return SqlNotAllowed("the SQL is nested too deeply")
    if "type VARIANT" in text:
        return SqlExecutionFailed("a column of type VARIANT cannot be returned; cast it, for example to JSON")
    if issubclass(found, _SPEAKS_OF_THE_SQL):
        return found(_cleaned(text, sql, files or {}))
    return found(_OWN_TEXTS.get(found, "the query engine failed; this is a defect, please report it"))


_OWN_TEXTS: Final[dict[type[DuckMeshError], str]] = {
    SqlNotAllowed: "the SQL reaches for something that is not allowed: files, the network, settings or extensions",
    QueryResourceExceeded: "the query needs more memory than it may use; select fewer columns or rows",
    QueryTimeout: "the query was stopped",
}


def _split(message: str) -> tuple[str, str]:
    match = _CLASS.match(message)
    return (match["kind"], match["text"]) if match else ("", message)


def _of_a_file(found: type[DuckMeshError], text: str, relation: str | None) -> DuckMeshError:
    of = f" of table {relation!r}" if relation else ""
    context = {"table": relation} if relation else {}
    if found is QueryResourceExceeded:
        return found(_OWN_TEXTS[found])
    if found is not Unavailable:
        return DataCorrupt(f"a data file{of} cannot be read", **context)
    if _GONE.search(text):
        return ObjectMissing(f"a data file{of} is missing from the object store", **context)
    return Unavailable(f"a data file{of} cannot be reached; try again", **context)


def _cleaned(text: str, sql: str, files: Mapping[str, str]) -> str:
    text = _LINE.sub(lambda match: match[0] if _is_from(sql, match["excerpt"]) else "", text)
    lines = (line for line in text.splitlines() if not _ABOUT_SETTINGS.search(line) or line.startswith("LINE "))
    text = _URL.sub("…", "\n".join(lines)).strip()
    for uri in files:
        text = text.replace(uri, "…").replace(uri.rpartition("/")[0] or uri, "…")
    return text[:_MAX_MESSAGE] or "the query failed"


def _is_from(sql: str, excerpt: str) -> bool:
    return excerpt.removeprefix("...").removesuffix("...").strip() in sql
