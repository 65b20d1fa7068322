"""The file formats of ``duckmesh ingest``; apart from their readers, which are too heavy for ``--help``."""

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Final

from duckmesh.app.cli.exit_codes import UsageProblem

GZIP_SUFFIX: Final = ".gz"


class FileFormat(Enum):
    """The formats that can be read."""

    NDJSON = "ndjson"
    CSV = "csv"
    PARQUET = "parquet"
    ARROW = "arrow"


_SUFFIXES: Final[Mapping[str, FileFormat]] = {
    ".ndjson": FileFormat.NDJSON, ".jsonl": FileFormat.NDJSON, ".json": FileFormat.NDJSON,
    ".csv": FileFormat.CSV,
    ".parquet": FileFormat.PARQUET, ".pq": FileFormat.PARQUET,
    ".arrow": FileFormat.ARROW, ".arrows": FileFormat.ARROW, ".feather": FileFormat.ARROW, ".ipc": FileFormat.ARROW,
}  # fmt: skip


def format_of(name: str, given: FileFormat | None) -> FileFormat:
    """The format that was given, else the one of the file's suffix."""
    if given is not None:
        return given
    if name == "-":
        raise UsageProblem("reading from stdin needs --format: " + ", ".join(f.value for f in FileFormat))
    path = Path(name.removesuffix(GZIP_SUFFIX))
    try:
        return _SUFFIXES[path.suffix.lower()]
    except KeyError:
        raise UsageProblem(f"the format of {name} is not clear from its name; give --format") from None
