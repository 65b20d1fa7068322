"""Files as streams of chunks of a fixed number of rows, in bounded memory.

A chunk is the unit of one request. Its borders depend on the content and the chunk size only, never on how the
bytes arrived, so that a file sent again makes the same requests with the same idempotency keys.
"""

import io
import itertools
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self, cast

import pyarrow as pa
from attrs import define, field, frozen
from pyarrow import csv, ipc, parquet
from pyarrow import json as arrow_json

from duckmesh.app.cli.exit_codes import UsageProblem
from duckmesh.app.cli.formats import GZIP_SUFFIX, FileFormat

_CSV_BLOCK_BYTES: Final = 4 * 1024 * 1024
_ARROW_FILE_MAGIC: Final = b"ARROW1"
#: From so many records the columns of a new table are inferred.
_SAMPLE_LINES: Final = 10_000
_TIME: Final = re.compile(
    r"\d{4}-\d\d-\d\d(?P<clock>[T ]\d\d:\d\d:\d\d(\.\d{1,6})?(?P<zone>Z|[+-]\d\d:?\d\d)?)?", re.ASCII
)


@frozen
class Lines:
    """A chunk of NDJSON: the lines as they stand in the file."""

    lines: Sequence[bytes]

    @property
    def num_rows(self) -> int:
        """How many records."""
        return len(self.lines)

    @property
    def body(self) -> bytes:
        """The chunk as bytes."""
        return b"\n".join(self.lines) + b"\n"


@define
class Source(AbstractContextManager["Source"]):
    """One open file. ``schema`` is known after `open`; NDJSON has one only when it was asked to infer it."""

    name: str
    form: FileFormat
    null_values: Sequence[str] = ("",)
    schema: Any = None
    total_rows: int | None = None
    _batches: Iterator[Any] = field(factory=lambda: iter(()))
    _stack: ExitStack = field(factory=ExitStack)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def open(self, types: Mapping[str, Any] | None, chunk_rows: int) -> Self:
        """Start reading; ``types`` are the table's, or None when they are to be inferred."""
        try:
            stream = self._stream()
            match self.form:
                case FileFormat.CSV:
                    self._open_csv(stream, types)
                case FileFormat.PARQUET:
                    self._open_parquet(stream, chunk_rows)
                case FileFormat.ARROW:
                    self._open_arrow(stream)
                case FileFormat.NDJSON:
                    self._open_lines(stream, infer=types is None)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from error
        return self

    def chunks(self, rows: int) -> Iterator[Any]:
        """Record batches, or `Lines`, of exactly ``rows`` rows; the last may be shorter."""
        try:
            yield from (
                _chunks_of_lines(self._batches, rows)
                if self.form is FileFormat.NDJSON
                else rechunked(self._batches, rows)
            )
        except (OSError, EOFError, pa.ArrowException) as error:
            raise self._unreadable(error) from error

    def _stream(self) -> IO[bytes]:
        if self.name == "-":
            stream: IO[bytes] = sys.stdin.buffer
            return self._spooled(stream) if self.form is FileFormat.PARQUET else stream
        if self.name.endswith(GZIP_SUFFIX):
            import gzip  # noqa: PLC0415 - seldom needed

            unzipped = self._stack.enter_context(gzip.GzipFile(self.name, "rb"))
            return cast("IO[bytes]", unzipped)
        return self._stack.enter_context(Path(self.name).open("rb"))

    def _spooled(self, stream: IO[bytes]) -> IO[bytes]:
        """Parquet is read from its end: keep what a pipe brings on disk."""
        spool = tempfile.TemporaryFile()  # noqa: SIM115 - the stack closes it
        self._stack.enter_context(spool)
        shutil.copyfileobj(stream, spool)
        spool.seek(0)
        return spool

    def _open_csv(self, stream: IO[bytes], types: Mapping[str, Any] | None) -> None:
        header, stream = _with_header(stream)
        convert = csv.ConvertOptions(
            column_types={n: _csv_type(types[n.lower()]) for n in header if n.lower() in types} if types else None,
            null_values=list(self.null_values),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        reader = csv.open_csv(
            stream,
            read_options=csv.ReadOptions(block_size=_CSV_BLOCK_BYTES),
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=convert,
        )
        self.schema, self._batches = reader.schema, iter(reader)

    def _open_parquet(self, stream: IO[bytes], chunk_rows: int) -> None:
        file = parquet.ParquetFile(stream)
        self.schema, self.total_rows = file.schema_arrow, file.metadata.num_rows
        self._batches = file.iter_batches(batch_size=chunk_rows)

    def _open_arrow(self, stream: IO[bytes]) -> None:
        start, stream = _peeked(stream, len(_ARROW_FILE_MAGIC))
        if start == _ARROW_FILE_MAGIC:
            file = ipc.open_file(stream if stream.seekable() else self._spooled(stream))
            self.schema = file.schema
            self._batches = (file.get_batch(number) for number in range(file.num_record_batches))
        else:
            reader = ipc.open_stream(stream)
            self.schema, self._batches = reader.schema, iter(reader)

    def _open_lines(self, stream: IO[bytes], *, infer: bool) -> None:
        lines = (line.strip() for line in stream)
        filled = (line for line in lines if line)
        if not infer:
            self._batches = filled
            return
        sample = list(itertools.islice(filled, _SAMPLE_LINES))
        self._batches = itertools.chain(sample, filled)
        if sample:
            self.schema = with_times(arrow_json.read_json(io.BytesIO(b"\n".join(sample))).schema, sample)

    def _unreadable(self, error: Exception) -> UsageProblem:
        name = "stdin" if self.name == "-" else self.name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return UsageProblem(f"cannot read {name} as {self.form.value}: {reason}")


def with_times(schema: Any, lines: Sequence[bytes]) -> Any:
    """The schema with dates, local times and instants told apart.

    Arrow takes all three for timestamps, and those with a fraction of a second for text.
    """
    unclear = [field.name for field in schema if pa.types.is_timestamp(field.type) or pa.types.is_string(field.type)]
    if not unclear:
        return schema
    rows = [json.loads(line) for line in lines]
    for name in unclear:
        texts = [row[name] for row in rows if row.get(name) is not None]
        schema = schema.set(schema.get_field_index(name), pa.field(name, _time_type(texts)))
    return schema


def _time_type(texts: Sequence[str]) -> Any:
    """A type of time if every text is of one, else text."""
    found = [_TIME.fullmatch(text) for text in texts]
    forms = {None if match is None else (bool(match["clock"]), bool(match["zone"])) for match in found}
    match list(forms):
        case [(False, False)]:
            return pa.date32()
        case [(True, zoned)]:
            return pa.timestamp("us", "UTC" if zoned else None)
        case _:
            return pa.string()


def rechunked(batches: Iterable[Any], rows: int) -> Iterator[Any]:
    """Record batches of exactly ``rows`` rows, the last one shorter."""
    held: list[Any] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += batch.num_rows
        while count >= rows:
            table = pa.Table.from_batches(held)
            yield _one_batch(table.slice(0, rows))
            rest = table.slice(rows)
            held, count = rest.to_batches(), rest.num_rows
    if count:
        yield _one_batch(pa.Table.from_batches(held))


def _one_batch(table: Any) -> Any:
    [batch] = table.combine_chunks().to_batches()
    return batch


def _chunks_of_lines(lines: Iterator[bytes], rows: int) -> Iterator[Lines]:
    while chunk := list(itertools.islice(lines, rows)):
        yield Lines(chunk)


def _csv_type(wanted: Any) -> Any:
    """The type in which a CSV column is parsed; what CSV has no form for is read as text and cast later."""
    by_text = pa.types.is_nested(wanted) or isinstance(wanted, pa.BaseExtensionType)
    return pa.string() if by_text else wanted


def _with_header(stream: IO[bytes]) -> tuple[list[str], IO[bytes]]:
    """The names of a CSV file's columns, and the stream from its start."""
    line = stream.readline(_CSV_BLOCK_BYTES)
    if not line.strip():
        raise UsageProblem("the CSV file is empty; its first line must name the columns")
    names = csv.read_csv(io.BytesIO(line)).schema.names
    return names, _rest_after(line, stream)


def _peeked(stream: IO[bytes], size: int) -> tuple[bytes, IO[bytes]]:
    start = stream.read(size)
    return start, _rest_after(start, stream)


def _rest_after(start: bytes, stream: IO[bytes]) -> IO[bytes]:
    """The stream with what was read from it in front again."""
    if stream.seekable():
        stream.seek(0)
        return stream
    return io.BufferedReader(_Rejoined(start, stream))


class _Rejoined(io.RawIOBase):
    """Bytes that were read ahead, then the rest of their stream."""

    def __init__(self, start: bytes, rest: IO[bytes]) -> None:
        super().__init__()
        self._start, self._rest = io.BytesIO(start), rest

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        data = self._start.read(len(target)) or self._rest.read(len(target))
        target[: len(data)] = data
        return len(data)
