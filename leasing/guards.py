"""Rules that the database itself enforces, whatever the code above it does.

Django cannot declare them for both databases, and SQLite drops triggers whenever Django remakes a table, so
they are installed after every migrate and looked for at start-up and by fsck.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from django.db import models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from hosts.models import Gpu, ReceivedReport
from leasing.models import (
    AuditEntry,
    AuditLeaf,
    AuditNode,
    Discount,
    Hold,
    Invoice,
    InvoiceLine,
    MonthClose,
    Outage,
    Rate,
    ScrubRecord,
    TaxRate,
    TreeHead,
    UnsealedEntry,
)
from leasing.states.gpu import BOOKABLE

NO_OVERLAP = "leasing_hold_no_overlap"
NEVER_BOTH = "hosts_gpu_whole_or_slices"

# Rows of these are never changed or deleted, except that the named columns may be filled in later.
APPEND_ONLY: dict[type[models.Model], tuple[str, ...]] = {
    AuditEntry: (),
    AuditLeaf: (),
    AuditNode: (),
    TreeHead: ("anchored_at",),
    ReceivedReport: ("applied_at", "verdict"),
    ScrubRecord: (),
    Rate: ("valid_until",),
    Discount: ("valid_until",),
    TaxRate: ("valid_until",),
    Outage: ("withdrawn_at", "withdrawn_by_id", "withdrawn_because"),
    MonthClose: (),
    Invoice: (),
    InvoiceLine: (),
}

_SERVING = ", ".join(f"'{state}'" for state in sorted(BOOKABLE))

REFUSE_BODY = """
BEGIN
    RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = TG_ARGV[0];
END
"""
REFUSE = f"CREATE OR REPLACE FUNCTION leasing_refuse() RETURNS trigger LANGUAGE plpgsql AS $${REFUSE_BODY}$$"

# Every entry waits for its seal, whoever writes it.
NOT_SEALED = f"INSERT INTO {UnsealedEntry._meta.db_table} (entry_id) VALUES (NEW.id);"  # noqa: S608
NOTE_BODY = f"""
BEGIN
    {NOT_SEALED}
    RETURN NULL;
END
"""
NOTE = f"CREATE OR REPLACE FUNCTION leasing_not_sealed() RETURNS trigger LANGUAGE plpgsql AS $${NOTE_BODY}$$"
NOTE_EACH = f"{AuditEntry._meta.db_table}_not_sealed"


@dataclass(frozen=True)
class Guard:
    """One database object that enforces a rule on `table`; `sql` creates it."""

    name: str
    table: str
    sql: str

    @property
    def kind(self) -> str:
        return "TRIGGER" if self.sql.startswith("CREATE TRIGGER") else "CONSTRAINT"


def install_guards(connection: BaseDatabaseWrapper) -> None:
    """Create what is missing, for the tables that exist. Changes nothing when all are in place."""
    tables = set(connection.introspection.table_names())
    missing = [guard for guard in _missing(connection) if guard.table in tables]
    if not missing:
        return
    install = _install_on_postgres if connection.vendor == "postgresql" else _install_on_sqlite
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        install(cursor, missing)


def missing_guards(connection: BaseDatabaseWrapper) -> list[str]:
    """Names of the guards that are absent, disabled or altered."""
    return [guard.name for guard in _missing(connection)]


def guards_of(connection: BaseDatabaseWrapper) -> list[Guard]:
    """Every guard that this kind of database must have."""
    return list(_postgres_guards() if connection.vendor == "postgresql" else _sqlite_guards())


def _missing(connection: BaseDatabaseWrapper) -> list[Guard]:
    find = _postgres_present if connection.vendor == "postgresql" else _sqlite_present
    present = find(connection)
    return [guard for guard in guards_of(connection) if guard not in present]


def _install_on_postgres(cursor: CursorWrapper, guards: list[Guard]) -> None:
    """PostgreSQL rewrites what it is given, so each guard keeps its own text as a comment."""
    cursor.execute("CREATE EXTENSION IF NOT EXISTS btree_gist")
    cursor.execute(REFUSE)
    cursor.execute(NOTE)
    for guard in guards:
        if guard.kind == "TRIGGER":
            cursor.execute(f"DROP TRIGGER IF EXISTS {guard.name} ON {guard.table}")
        else:
            cursor.execute(f"ALTER TABLE {guard.table} DROP CONSTRAINT IF EXISTS {guard.name}")
        cursor.execute(guard.sql)
        comment = f"COMMENT ON {guard.kind} {guard.name} ON {guard.table} IS %s"
        cursor.execute(cursor.db.ops.compose_sql(comment, [guard.sql]))


def _install_on_sqlite(cursor: CursorWrapper, guards: list[Guard]) -> None:
    for guard in guards:
        cursor.execute(f"DROP TRIGGER IF EXISTS {guard.name}")
        cursor.execute(guard.sql)


def _postgres_guards() -> Iterator[Guard]:
    table = Hold._meta.db_table
    yield Guard(
        NO_OVERLAP,
        table,
        f"ALTER TABLE {table} ADD CONSTRAINT {NO_OVERLAP} "
        "EXCLUDE USING gist (gpu_id WITH =, tstzrange(starts_at, ends_at) WITH &&)",
    )
    table = Gpu._meta.db_table
    yield Guard(
        NEVER_BOTH,
        table,
        f"ALTER TABLE {table} ADD CONSTRAINT {NEVER_BOTH} EXCLUDE USING gist "
        "(coalesce(parent_id, id) WITH =, (CASE WHEN parent_id IS NULL THEN 0 ELSE 1 END) WITH <>) "
        f"WHERE (state IN ({_SERVING}))",
    )
    table = AuditEntry._meta.db_table
    note = f"CREATE TRIGGER {NOTE_EACH} AFTER INSERT ON {table} FOR EACH ROW"
    yield Guard(NOTE_EACH, table, f"{note} EXECUTE FUNCTION leasing_not_sealed()")
    for model, free in APPEND_ONLY.items():
        table = model._meta.db_table
        frozen = _frozen_columns(model, free)
        changed = f"{_row('OLD', frozen)} IS DISTINCT FROM {_row('NEW', frozen)}"
        refuse = f"EXECUTE FUNCTION leasing_refuse('{table}_append_only')"
        for event, scope in (
            ("UPDATE", f"FOR EACH ROW WHEN ({changed})" if free else "FOR EACH ROW"),
            ("DELETE", "FOR EACH ROW"),
            ("TRUNCATE", "FOR EACH STATEMENT"),
        ):
            name = f"{table}_append_only_{event.lower()}"
            yield Guard(name, table, f"CREATE TRIGGER {name} BEFORE {event} ON {table} {scope} {refuse}")


def _postgres_present(connection: BaseDatabaseWrapper) -> list[Guard]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT tgname, tgrelid::regclass::text, obj_description(pg_trigger.oid, 'pg_trigger')"
            " FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid"
            " WHERE tgenabled IN ('O', 'A') AND prosrc IN (%s, %s)"
            " UNION ALL"
            " SELECT conname, conrelid::regclass::text, obj_description(oid, 'pg_constraint')"
            " FROM pg_constraint WHERE contype = 'x' AND convalidated",
            [REFUSE_BODY, NOTE_BODY],
        )
        return [Guard(*row) for row in cursor.fetchall()]


def _sqlite_guards() -> Iterator[Guard]:
    yield from _sqlite_overlap_guards()
    yield from _sqlite_never_both_guards()
    table = AuditEntry._meta.db_table
    yield Guard(
        NOTE_EACH, table, f"CREATE TRIGGER {NOTE_EACH} AFTER INSERT ON {table} BEGIN {NOT_SEALED} END"
    )
    for model, free in APPEND_ONLY.items():
        table = model._meta.db_table
        frozen = _frozen_columns(model, free)
        changed = f"WHEN {_row('OLD', frozen)} IS NOT {_row('NEW', frozen)} " if free else ""
        refuse = f"BEGIN SELECT RAISE(ABORT, '{table}_append_only'); END"
        for event, when in (("UPDATE", changed), ("DELETE", "")):
            name = f"{table}_append_only_{event.lower()}"
            yield Guard(name, table, f"CREATE TRIGGER {name} BEFORE {event} ON {table} {when}{refuse}")


def _sqlite_overlap_guards() -> Iterator[Guard]:
    """Holds of a GPU are earlier, so of those that start before the new end only the last can overlap."""
    table = Hold._meta.db_table
    for event, name, other in (
        ("INSERT", NO_OVERLAP, ""),
        ("UPDATE OF gpu_id, starts_at, ends_at", f"{NO_OVERLAP}_update", "AND id <> OLD.id "),
    ):
        earlier = f"gpu_id = NEW.gpu_id AND starts_at < NEW.ends_at {other}"
        last = f"SELECT ends_at FROM {table} WHERE {earlier}ORDER BY starts_at DESC LIMIT 1"  # noqa: S608
        refuse = f"SELECT RAISE(ABORT, '{NO_OVERLAP}') WHERE ({last}) > NEW.starts_at"
        yield Guard(name, table, f"CREATE TRIGGER {name} BEFORE {event} ON {table} BEGIN {refuse}; END")


def _sqlite_never_both_guards() -> Iterator[Guard]:
    table = Gpu._meta.db_table
    relation = "(NEW.parent_id IS NULL AND parent_id = NEW.id) OR id = NEW.parent_id"
    other = f"SELECT 1 FROM {table} WHERE state IN ({_SERVING}) AND ({relation})"  # noqa: S608
    refuse = f"SELECT RAISE(ABORT, '{NEVER_BOTH}') WHERE NEW.state IN ({_SERVING}) AND EXISTS ({other})"
    for event, name in (("INSERT", NEVER_BOTH), ("UPDATE OF state, parent_id", f"{NEVER_BOTH}_update")):
        yield Guard(name, table, f"CREATE TRIGGER {name} BEFORE {event} ON {table} BEGIN {refuse}; END")


def _sqlite_present(connection: BaseDatabaseWrapper) -> list[Guard]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger'")
        return [Guard(*row) for row in cursor.fetchall()]


def _frozen_columns(model: type[models.Model], free: tuple[str, ...]) -> list[str]:
    columns = (field.column for field in model._meta.local_concrete_fields)
    return [column for column in columns if column and column not in free]


def _row(record: str, columns: list[str]) -> str:
    names = (f'{record}."{column}"' for column in columns)
    return f"({', '.join(names)})"
