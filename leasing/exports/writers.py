"""Writing lines as CSV, as a spreadsheet and as Parquet, piece by piece: their number costs no memory."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from typing import Any

from leasing.exports.columns import Cell, Column, neutral
from leasing.exports.lines import UsageLine

PIECE = 64 * 1024
ROW_GROUP = 5_000
# Of the 1,048,576 rows that a sheet can have.
SHEET_ROWS = 1_000_000
WIDTHS = {"text": 18, "integer": 10, "decimal": 14, "moment": 20}

Lines = Iterable[UsageLine]


def moment_text(at: datetime) -> str:
    """ISO 8601 in UTC, to the second."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def write_csv(columns: Sequence[Column], lines: Lines) -> Iterator[str]:
    """Comma-separated, with a head; texts cannot be taken for formulas."""
    line = _Line()
    writer = csv.writer(line, lineterminator="\n")
    writer.writerow([column.name for column in columns])
    yield line.text
    takes = [column.take for column in columns]
    for one in lines:
        writer.writerow([_as_text(take(one)) for take in takes])
        yield line.text


def write_xlsx(columns: Sequence[Column], lines: Lines) -> Iterator[bytes]:
    """A workbook with as many sheets as it takes. It is made on disk, then sent."""
    import xlsxwriter

    with tempfile.TemporaryDirectory(prefix="leasehold-export-") as folder:
        path = f"{folder}/usage.xlsx"
        book = xlsxwriter.Workbook(path, {"constant_memory": True, "tmpdir": folder, "remove_timezone": True})
        formats = _formats(book, columns)
        rows, number = iter(lines), 0
        while True:
            part, number = islice(rows, SHEET_ROWS), number + 1
            first = next(part, None)
            if first is None and number > 1:
                break
            _write_sheet(book, columns, formats, [] if first is None else _chained(first, part))
        book.close()
        with open(path, "rb") as file:  # noqa: PTH123
            while piece := file.read(PIECE):
                yield piece


def write_parquet(columns: Sequence[Column], lines: Lines) -> Iterator[bytes]:
    """Row groups of some thousand lines, each sent when it is whole; decimals are exact, moments in UTC."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([pa.field(column.name, _arrow_type(column)) for column in columns])
    sink, rows = _Sink(), iter(lines)
    with pq.ParquetWriter(pa.PythonFile(sink, mode="w"), schema, compression="zstd") as writer:
        while group := list(islice(rows, ROW_GROUP)):
            values = [
                pa.array([column.take(one) for one in group], type=field.type)
                for column, field in zip(columns, schema, strict=True)
            ]
            writer.write_batch(pa.record_batch(values, schema=schema))
            yield sink.taken()
    yield sink.taken()


class _Line:
    """The file that csv.writer needs: it keeps the last line only."""

    text = ""

    def write(self, text: str) -> None:
        self.text = text


class _Sink(io.RawIOBase):
    """A file that keeps only what was not taken from it yet."""

    def __init__(self) -> None:
        self._kept: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._kept.append(bytes(data))
        self._size += len(self._kept[-1])
        return len(self._kept[-1])

    def tell(self) -> int:
        return self._size

    def taken(self) -> bytes:
        piece, self._kept = b"".join(self._kept), []
        return piece


def _as_text(cell: Cell) -> object:
    if isinstance(cell, str):
        return neutral(cell)
    if isinstance(cell, datetime):
        return moment_text(cell)
    return format(cell, "f") if isinstance(cell, Decimal) else cell


def _chained(first: UsageLine, rest: Lines) -> Iterator[UsageLine]:
    yield first
    yield from rest


def _formats(book: Any, columns: Sequence[Column]) -> list[Any]:
    def shown(column: Column) -> Any:
        if column.kind == "moment":
            return book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"})
        places = "0" * column.places
        return book.add_format({"num_format": f"0.{places}"}) if column.kind == "decimal" else None

    return [shown(column) for column in columns]


def _write_sheet(book: Any, columns: Sequence[Column], formats: list[Any], lines: Lines) -> None:
    """Texts are written as texts, whatever they begin with; moments in UTC, as the head says."""
    sheet = book.add_worksheet()
    sheet.freeze_panes(1, 0)
    for place, column in enumerate(columns):
        sheet.set_column(place, place, WIDTHS[column.kind])
        sheet.write_string(0, place, f"{column.name} (UTC)" if column.kind == "moment" else column.name)
    write = {
        "text": sheet.write_string,
        "integer": sheet.write_number,
        "decimal": sheet.write_number,
        "moment": sheet.write_datetime,
    }
    plan = [(place, write[column.kind], column.take, formats[place]) for place, column in enumerate(columns)]
    for row, line in enumerate(lines, start=1):
        for place, put, take, shown in plan:
            cell = take(line)
            if cell is not None:
                put(row, place, cell.astimezone(UTC) if isinstance(cell, datetime) else cell, shown)


def _arrow_type(column: Column) -> Any:
    import pyarrow as pa

    match column.kind:
        case "text":
            return pa.string()
        case "integer":
            return pa.int64()
        case "decimal":
            return pa.decimal128(column.digits, column.places)
        case "moment":
            return pa.timestamp("us", tz="UTC")
