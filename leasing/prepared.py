"""Queries that are asked all the time: built by the ORM once, afterwards only their values change.

Building a query takes Django several times as long as the database takes to answer a small one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache, lru_cache
from itertools import chain
from typing import Any, TypeVar
from uuid import UUID

from django.db import DEFAULT_DB_ALIAS, connection, connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper
from django.db.models import BooleanField, F, Field, Func, Model, QuerySet
from django.db.models.expressions import RawSQL

Value = datetime | UUID | str | int
Row = tuple[Any, ...]
# A statement that changes rows, and its parameters.
Change = tuple[str, Sequence[Any]]
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
        db = this_connection()
        built, given = self._given(values, db)
        cursor = cursor_of(db)
        cursor.execute(built.kept, given)
        rows: Iterable[Row] = cursor.fetchall()
        if built.converters:
            rows = map(tuple, built.compiler.apply_converters(rows, built.converters))
        return list(rows)

    def has(self, name: str, **values: Value) -> Among:
        """A condition for another query: that a field of it is among the rows, which have one column.

        The database reads them once and then looks for them, by an index if the field has one.
        """
        built, given = self._given(values, this_connection())
        return Among(F(name), RawSQL(built.statement, given))  # noqa: S611 - the ORM's own

    def _given(self, values: Mapping[str, Value], db: BaseDatabaseWrapper) -> tuple[_Built, list[Any]]:
        built = self._built.get(db.vendor)
        if built is None:
            built = self._built[db.vendor] = self._make(values)
        given = list(built.constants)
        values = all_adapted(values, db)
        for place, name in built.names.items():
            given[place] = values[name]
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


def this_connection() -> BaseDatabaseWrapper:
    """The thread's own; `django.db.connection` looks for it again at each attribute."""
    return connections[DEFAULT_DB_ALIAS]


def cursor_of(db: BaseDatabaseWrapper) -> CursorWrapper:
    """A cursor for a statement whose whole answer is fetched at once.

    PostgreSQL's is kept with its connection: a new one costs as much as a small statement. SQLite's would
    keep an answer open of which something is left.
    """
    if db.vendor != "postgresql" or db.queries_logged:
        return db.cursor()
    kept: CursorWrapper | None = vars(db).get("kept_cursor")
    if kept is None or kept.connection is not db.connection:
        kept = vars(db)["kept_cursor"] = db.cursor()
    return kept


def insert(row: M) -> M:
    """Insert a row without asking whether it is there; the database makes its key if it has none."""
    makes_key = row.pk is None
    statement, given = inserting_row(row)
    cursor = cursor_of(this_connection())
    cursor.execute(f"{statement} RETURNING {row._meta.pk.column}" if makes_key else statement, given)
    if makes_key:
        ((row.pk,),) = cursor.fetchall()
    return row


def inserting_row(row: Model) -> Change:
    """The same, to be done together with something else: it counts as inserted, without a key of its own."""
    db = this_connection()
    makes_key = row.pk is None
    given = _given(row, makes_key, db)
    row._state.adding, row._state.db = False, db.alias
    return _inserting(type(row), makes_key), given


def insert_rows(model: type[Model], names: tuple[str, ...], rows: Sequence[Sequence[Any]]) -> None:
    """Insert rows of these columns at once, as the database takes them; the others are null, or keys."""
    change(inserting(model, names, rows))


def inserting(model: type[Model], names: tuple[str, ...], rows: Sequence[Sequence[Any]]) -> Change:
    """The same, to be done together with something else."""
    return _inserting_rows(model, names, len(rows)), [value for row in rows for value in row]


def change(*changes: Change) -> list[int]:
    """How many rows each statement has changed; parameters go by their place.

    None of them may need what another one does. PostgreSQL is given all of them as one: to send, take and
    answer a statement costs more than what most of these do.
    """
    db = this_connection()
    if db.vendor == "postgresql" and len(changes) > 1:
        cursor = cursor_of(db)
        statements, given = zip(*changes, strict=True)
        cursor.execute(_at_once(statements), list(chain.from_iterable(given)))
        return list(cursor.fetchall()[0])
    return [_change(db, *one) for one in changes]


def _change(db: BaseDatabaseWrapper, statement: str, given: Sequence[Any]) -> int:
    if not db.features.has_native_uuid_field:
        given = [adapted(value) for value in given]
    cursor = cursor_of(db)
    cursor.execute(statement, given)
    return int(cursor.rowcount)


@lru_cache(maxsize=256)
def _at_once(statements: tuple[str, ...]) -> str:
    parts = ", ".join(f"c{number} AS ({one} RETURNING 1)" for number, one in enumerate(statements))
    counts = ", ".join(f"(SELECT count(*) FROM c{number})" for number in range(len(statements)))  # noqa: S608
    return f"WITH {parts} SELECT {counts}"


# Values of these types need no conversion for fields of these on PostgreSQL.
_PLAIN = frozenset([str, int, bool, datetime, Decimal, UUID, type(None)])
_ORDINARY = frozenset(
    [
        models.BigAutoField,
        models.BigIntegerField,
        models.BooleanField,
        models.CharField,
        models.DateTimeField,
        models.DecimalField,
        models.PositiveBigIntegerField,
        models.PositiveIntegerField,
        models.PositiveSmallIntegerField,
        models.TextField,
        models.UUIDField,
    ]
)


def _given(row: Model, makes_key: bool, db: BaseDatabaseWrapper) -> list[Any]:
    given = []
    for field, name, is_ordinary in _inserted(type(row), makes_key, db.vendor):
        value = getattr(row, name)
        if not (is_ordinary and type(value) in _PLAIN):
            value = field.get_db_prep_save(field.pre_save(row, True), db)
        given.append(value)
    return given


@cache
def _inserting(model: type[Model], makes_key: bool) -> str:
    fields = model._meta.concrete_fields
    names = tuple(field.column for field in fields if not (makes_key and field.primary_key))
    return _inserting_rows(model, names, 1)


@cache
def _inserting_rows(model: type[Model], names: tuple[str, ...], count: int) -> str:
    columns = ", ".join(f'"{name}"' for name in names)
    marks = ", ".join([f"({', '.join(['%s'] * len(names))})"] * count)
    return f'INSERT INTO "{model._meta.db_table}" ({columns}) VALUES {marks}'  # noqa: S608 - its columns


@cache
def _inserted(model: type[Model], makes_key: bool, vendor: str) -> list[tuple[Field[Any, Any], str, bool]]:
    """Each field, its attribute, and whether it takes plain values as they are."""
    fields = [field for field in model._meta.concrete_fields if not (makes_key and field.primary_key)]
    return [(field, field.attname, vendor == "postgresql" and _is_ordinary(field)) for field in fields]


def _is_ordinary(field: Any) -> bool:
    while field.remote_field:
        field = field.target_field
    made_by_field = getattr(field, "auto_now", False) or getattr(field, "auto_now_add", False)
    return type(field) in _ORDINARY and not made_by_field


def all_adapted(values: Mapping[str, Value], db: BaseDatabaseWrapper) -> Mapping[str, Value]:
    """As the database takes them: SQLite has neither moments nor UUIDs."""
    if db.features.has_native_uuid_field:
        return values
    return {name: adapted(value) for name, value in values.items()}


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
