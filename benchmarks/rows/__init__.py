"""The rows of the table, one idea a module, in the order of the table."""

from benchmarks.harness import Row
from benchmarks.rows.arrow_batches import ArrowBatches
from benchmarks.rows.json_batches import JsonBatches
from benchmarks.rows.one_record import OneRecord
from benchmarks.rows.row_per_record import RowPerRecord
from benchmarks.rows.visible_one_writer import VisibleOneWriter
from benchmarks.rows.visible_under_load import VisibleUnderLoad

ROWS: tuple[type[Row], ...] = (
    OneRecord,
    JsonBatches,
    ArrowBatches,
    RowPerRecord,
    VisibleOneWriter,
    VisibleUnderLoad,
)
