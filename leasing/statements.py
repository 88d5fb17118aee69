"""Statements of our own, for the few questions that the ORM cannot put at all, or not at once.

They are the same text on PostgreSQL and SQLite, with named parameters that the database binds, so that it can
keep their plans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain, islice
from typing import Any, TypeVar

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Field, Model

from leasing.prepared import Row, Value, all_adapted, cursor_of, this_connection

M = TypeVar("M", bound=Model)
Values = Mapping[str, Value]
AnyField = Field[Any, Any]


Converters = tuple[tuple[int, Any, Callable[..., Any]], ...]


class Columns:
    """Of which field each value of a row is; None where the database gives what is wanted."""

    def __init__(self, *fields: AnyField | None) -> None:
        self._fields = fields
        self._converters: dict[str, Converters] = {}

    def converted(self, rows: list[Row], db: BaseDatabaseWrapper) -> list[Row]:
        """Each value as the ORM gives it."""
        converters = self._converters.get(db.vendor)
        if converters is None:
            converters = self._converters[db.vendor] = tuple(self._find(db))
        return [_converted(row, converters, db) for row in rows] if converters else rows

    def _find(self, db: BaseDatabaseWrapper) -> Iterator[tuple[int, Any, Callable[..., Any]]]:
        """The converters of the ORM, with the place of the column that each is for."""
        for place, field in enumerate(self._fields):
            for column, convert in _of_field(field, db) if field is not None else ():
                yield place, column, convert


# For numbers, texts and truths.
_AS_THEY_ARE = Columns()


def ask(statement: str, values: Values, columns: Columns = _AS_THEY_ARE) -> list[Row]:
    """The rows that a statement answers with."""
    db = this_connection()
    cursor = cursor_of(db)
    cursor.execute(statement, all_adapted(values, db))
    return columns.converted(cursor.fetchall(), db)


def stream_rows(
    statement: str, parameters: Sequence[Any], columns: Columns, *, size: int = 2000
) -> Iterator[Row]:
    """The rows of a long answer, so many at a time; parameters go by their place."""
    db = this_connection()
    with db.chunked_cursor() if db.features.can_use_chunked_reads else db.cursor() as cursor:
        cursor.execute(statement, parameters)
        while rows := cursor.fetchmany(size):
            yield from columns.converted(rows, db)


def ask_rows(model: type[M], statement: str, values: Values) -> list[M]:
    """The rows of a model that a statement answers with; it selects `columns_of(model)`."""
    return [row for (row,) in ask_joined((model,), statement, values)]


def ask_joined(models: tuple[type[Model], ...], statement: str, values: Values) -> list[tuple[Any, ...]]:
    """The same of several models at once: a row of each, in the order of their columns."""
    names, columns = _shape(models)
    alias = this_connection().alias
    found = []
    for row in ask(statement, values, columns):
        given = iter(row)
        found.append(
            tuple(
                model.from_db(alias, own, list(islice(given, len(own))))
                for model, own in zip(models, names, strict=True)
            )
        )
    return found


def row_of(model: type[M], values: Sequence[Any]) -> M:
    """A row of a model whose columns are all given, as the ORM gives them."""
    return model.from_db(this_connection().alias, _shape((model,))[0][0], values)


@cache
def _shape(models: tuple[type[Model], ...]) -> tuple[list[list[str]], Columns]:
    """The attributes of each model, and the columns of all of them."""
    fields = [model._meta.concrete_fields for model in models]
    return [[field.attname for field in own] for own in fields], Columns(*chain.from_iterable(fields))


@cache
def columns_of(model: type[Model], alias: str) -> str:
    return ", ".join(f"{alias}.{field.column}" for field in model._meta.concrete_fields)


def fields_of(model: type[Model], *names: str) -> tuple[AnyField, ...]:
    fields = {field.name: field for field in model._meta.concrete_fields}
    return tuple(fields[name] for name in names)


def _of_field(field: AnyField, db: BaseDatabaseWrapper) -> Iterable[tuple[Any, Callable[..., Any]]]:
    """What a foreign key refers to says what it is converted to, as `get_col` knows."""
    column = field.get_col(field.model._meta.db_table)
    for convert in (*db.ops.get_db_converters(column), *column.get_db_converters(db)):
        yield column, convert


def _converted(row: Row, converters: Converters, db: BaseDatabaseWrapper) -> Row:
    values = list(row)
    for place, column, convert in converters:
        values[place] = convert(values[place], column, db)
    return tuple(values)
