"""Queries that are asked all the time: built by the ORM once, afterwards only their values change.

Building a query takes Django several times as long as the database takes to answer a small one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, TypeVar
from uuid import UUID

from django.db import connection
from django.db.models import BooleanField, F, Field, Func, Model, QuerySet
from django.db.models.expressions import RawSQL

Value = datetime | UUID | str | int
Row = tuple[Any, ...]
M = TypeVar("M", bound=Model)
# Stands for no object at all, where a query leaves one out.
NOBODY = UUID(int=0)


@dataclass(frozen=True)
class _Built:
    """The statement, what it is given in each place: a constant, or the value of a name.

    A plan of the `kept` one for values that the planner cannot see is as good as one for those that it can.
    """

    statement: str
    kept: str
    constants: tuple[Any, ...]
    names: Mapping[int, str]
    compiler: Any
    converters: dict[int, Any]


class Among(Func):
    """Whether the first is among the rows of the second."""

    arity = 2
    output_field = BooleanField()
    template = "%(expressions)s"
    arg_joiner = " IN "

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        """Of `IN` the planner would have to guess how often it holds, and it guesses that it often does."""
        wanted = {"template": "%(expressions)s)", "arg_joiner": " = ANY(ARRAY"}
        return self.as_sql(compiler, connection, **wanted, **context)


class Prepared:
    """The rows of `build(**values)`, which returns a queryset of `values_list`.

    The values may only be compared with or computed from: another value must not make another statement.
    """

    def __init__(self, build: Callable[..., QuerySet[Any, Any]]) -> None:
        self._build = build
        self._built: dict[str, _Built] = {}

    def rows(self, **values: Value) -> list[Row]:
        """The answer, in the types of the columns."""
        built, given = self._given(values)
        with connection.cursor() as cursor:
            cursor.execute(built.kept, given)
            rows: Iterable[Row] = cursor.fetchall()
        if built.converters:
            rows = map(tuple, built.compiler.apply_converters(rows, built.converters))
        return list(rows)

    def has(self, name: str, **values: Value) -> Among:
        """A condition for another query: that a field of it is among the rows, which have one column.

        The database reads them once and then looks for them, by an index if the field has one.
        """
        built, given = self._given(values)
        return Among(F(name), RawSQL(built.statement, given))  # noqa: S611 - the ORM's own

    def _given(self, values: Mapping[str, Value]) -> tuple[_Built, list[Any]]:
        built = self._built.get(connection.vendor)
        if built is None:
            built = self._built[connection.vendor] = self._make(values)
        given = list(built.constants)
        for place, name in built.names.items():
            given[place] = adapted(values[name])
        return built, given

    def _make(self, values: Mapping[str, Value]) -> _Built:
        """Each value is changed in turn, to see which places of the statement it goes to."""
        compiler, statement, constants = self._compiled(values)
        names: dict[int, str] = {}
        for name, value in values.items():
            _, other, changed = self._compiled({**values, name: _another(value)})
            places = [n for n, (one, two) in enumerate(zip(constants, changed, strict=True)) if one != two]
            if other != statement or any(constants[n] != adapted(value) for n in places) or not places:
                raise TypeError(f"the value {name} does more to the query than to be compared with")
            names |= dict.fromkeys(places, name)
        converters = compiler.get_converters([column for column, _sql, _alias in compiler.select])
        kept = statement.replace("%s", "(SELECT %s)") if connection.vendor == "postgresql" else statement
        return _Built(statement, kept, constants, names, compiler, converters)

    def _compiled(self, values: Mapping[str, Value]) -> tuple[Any, str, tuple[Any, ...]]:
        compiler = self._build(**values).query.get_compiler(connection.alias)
        statement, parameters = compiler.as_sql()
        return compiler, statement, tuple(parameters)


def insert(row: M) -> M:
    """Insert a row without asking whether it is there; the database makes its key if it has none."""
    makes_key = row.pk is None
    returning = f" RETURNING {row._meta.pk.column}" if makes_key else ""
    with connection.cursor() as cursor:
        cursor.execute(f"{_inserting(type(row), makes_key, 1)}{returning}", _given(row, makes_key))
        if makes_key:
            (row.pk,) = cursor.fetchone()
    row._state.adding, row._state.db = False, connection.alias
    return row


def insert_all(rows: Sequence[Model]) -> None:
    """Insert rows of one model at once; the keys that the database makes for them stay unknown."""
    makes_keys = rows[0].pk is None
    given = [value for row in rows for value in _given(row, makes_keys)]
    with connection.cursor() as cursor:
        cursor.execute(_inserting(type(rows[0]), makes_keys, len(rows)), given)


def _given(row: Model, makes_key: bool) -> list[Any]:
    fields = _inserted(type(row), makes_key)
    return [field.get_db_prep_save(field.pre_save(row, True), connection) for field in fields]


@cache
def _inserting(model: type[Model], makes_keys: bool, count: int) -> str:
    fields = _inserted(model, makes_keys)
    names = ", ".join(f'"{field.column}"' for field in fields)
    marks = ", ".join([f"({', '.join(['%s'] * len(fields))})"] * count)
    return f'INSERT INTO "{model._meta.db_table}" ({names}) VALUES {marks}'  # noqa: S608 - its columns


@cache
def _inserted(model: type[Model], makes_keys: bool) -> list[Field[Any, Any]]:
    return [field for field in model._meta.concrete_fields if not (makes_keys and field.primary_key)]


def adapted(value: Value) -> Any:
    """As the database takes it."""
    if isinstance(value, datetime):
        return connection.ops.adapt_datetimefield_value(value)
    if isinstance(value, UUID) and not connection.features.has_native_uuid_field:
        return value.hex
    return value


def _another(value: Value) -> Value:
    if isinstance(value, datetime):
        return value + timedelta(days=1)
    if isinstance(value, UUID):
        return UUID(int=value.int ^ 1)
    return f"{value}?" if isinstance(value, str) else value + 1
