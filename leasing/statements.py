"""Statements of our own, for the few questions that the ORM cannot put at all, or not at once.

They are the same text on PostgreSQL and SQLite, with named parameters that the database binds, so that it can
keep their plans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice, repeat
from typing import Any, TypeVar

from django.db import connection
from django.db.models import Field, Model

from leasing.prepared import Row, Value, adapted

M = TypeVar("M", bound=Model)
Values = Mapping[str, Value]
AnyField = Field[Any, Any]


def ask(statement: str, values: Values, columns: Sequence[AnyField | None] = ()) -> list[Row]:
    """The rows that a statement answers with.

    `columns` says of which field each value is; none is needed for numbers, texts and truths.
    """
    with connection.cursor() as cursor:
        cursor.execute(statement, _bound(values))
        rows: list[Row] = cursor.fetchall()
    converters = _converters(tuple(columns), connection.vendor)
    return [_converted(row, converters) for row in rows] if converters else rows


def stream_rows(
    statement: str, parameters: Sequence[Any], columns: Sequence[AnyField | None], *, size: int = 2000
) -> Iterator[Row]:
    """The rows of a long answer, so many at a time; parameters go by their place."""
    converters = _converters(tuple(columns), connection.vendor)
    whole = not connection.features.can_use_chunked_reads
    with connection.cursor() if whole else connection.chunked_cursor() as cursor:
        cursor.execute(statement, parameters)
        while rows := cursor.fetchmany(size):
            for row in rows:
                yield _converted(row, converters)


def ask_rows(model: type[M], statement: str, values: Values) -> list[M]:
    """The rows of a model that a statement answers with; it selects `columns_of(model)`."""
    return [row for (row,) in ask_joined((model,), statement, values)]


def ask_joined(models: Sequence[type[Model]], statement: str, values: Values) -> list[tuple[Any, ...]]:
    """The same of several models at once: a row of each, in the order of their columns."""
    fields = [model._meta.concrete_fields for model in models]
    rows = ask(statement, values, [field for own in fields for field in own])
    return [tuple(map(_row_of, models, fields, repeat(iter(row)))) for row in rows]


def _row_of(model: type[Model], fields: Sequence[AnyField], values: Iterator[Any]) -> Model:
    names = [field.attname for field in fields]
    return model.from_db(connection.alias, names, list(islice(values, len(names))))


@cache
def columns_of(model: type[Model], alias: str) -> str:
    return ", ".join(f"{alias}.{field.column}" for field in model._meta.concrete_fields)


def fields_of(model: type[Model], *names: str) -> tuple[AnyField, ...]:
    fields = {field.name: field for field in model._meta.concrete_fields}
    return tuple(fields[name] for name in names)


def _bound(values: Values) -> Values:
    """As the database takes them: SQLite has neither moments nor UUIDs."""
    if connection.features.has_native_uuid_field:
        return values
    return {name: adapted(value) for name, value in values.items()}


Converters = tuple[tuple[int, Any, Callable[..., Any]], ...]


@cache
def _converters(columns: tuple[AnyField | None, ...], vendor: str) -> Converters:
    """Those of the ORM, with the place of the column that each is for."""
    return tuple(
        (place, column, convert)
        for place, field in enumerate(columns)
        if field is not None
        for column, convert in _of_field(field)
    )


def _of_field(field: AnyField) -> Iterable[tuple[Any, Callable[..., Any]]]:
    """What a foreign key refers to says what it is converted to, as `get_col` knows."""
    column = field.get_col(field.model._meta.db_table)
    for convert in (*connection.ops.get_db_converters(column), *column.get_db_converters(connection)):
        yield column, convert


def _converted(row: Row, converters: Converters) -> Row:
    values = list(row)
    for place, column, convert in converters:
        values[place] = convert(values[place], column, connection)
    return tuple(values)
