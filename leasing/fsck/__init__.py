"""Every invariant of the system as one function that can be run while it works.

A check yields what is wrong; its docstring says in words what must hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from django.db import connection, transaction

from leasing.audit.verifier import verify_log
from leasing.fsck import (
    bills,
    bookings,
    devices,
    feeds,
    homes,
    images,
    lifecycles,
    limits,
    machines,
    money,
    series,
    snapshots,
    storage,
    use,
    waiting,
)
from leasing.fsck.finding import Check, Finding

__all__ = ["CHECKS", "Finding", "run_checks", "words_of"]


def the_log_verifies(now: datetime) -> Iterator[Finding]:
    """The audit log leads to its last anchored head"""
    for problem in verify_log().problems:
        yield Finding("audit:log", problem)


CHECKS: dict[str, Check] = {
    "guards": bookings.guards_are_installed,
    "holds": bookings.holds_do_not_overlap,
    "openings": bookings.openings_match_holds,
    "placement": bookings.leases_have_their_holds,
    "devices": devices.devices_are_one_leases,
    "limits": limits.bookings_were_allowed,
    "series": series.series_are_whole,
    "clean": lifecycles.gpus_were_clean_when_handed_over,
    "slices": lifecycles.cards_serve_whole_or_in_slices,
    "evidence": lifecycles.clean_means_scrubbed,
    "intake": lifecycles.clean_means_left_alone,
    "proof": lifecycles.passed_scrubs_are_proven,
    "scrubs": lifecycles.scrub_records_are_in_the_log,
    "unused": use.given_back_was_unused,
    "states": lifecycles.states_follow_from_the_log,
    "audit": the_log_verifies,
    "usage": money.usage_is_what_was_used,
    "storage": storage.storage_is_what_was_kept,
    "invoices": bills.invoices_add_up,
    "numbers": bills.numbers_have_no_gaps,
    "bills": bills.bills_follow_from_the_log,
    "reports": machines.reports_are_authentic,
    "machines": machines.machines_run_for_leases,
    "retired": machines.retired_hosts_are_out_of_service,
    "leftovers": machines.nothing_is_left,
    "once": machines.machines_are_created_once,
    "tenures": machines.old_numbers_change_nothing,
    "offers": waiting.offers_are_held,
    "waitlist": waiting.entries_follow_from_the_log,
    "kept": waiting.kept_is_for_who_waits,
    "consoles": machines.open_consoles_are_permitted,
    "images": images.image_files_are_whole,
    "homes": homes.homes_are_where_they_belong,
    "snapshots": snapshots.snapshots_are_where_they_belong,
    "feeds": feeds.feeds_were_made_by_their_people,
}


def run_checks(now: datetime) -> list[Finding]:
    """What the checks find. The system may go on working meanwhile."""
    return [finding._replace(check=name) for name, check in CHECKS.items() for finding in _run(check, now)]


def words_of(name: str) -> str:
    """What a check makes sure of."""
    return (CHECKS[name].__doc__ or "").strip()


def _run(check: Check, now: datetime) -> list[Finding]:
    # The log's anchor is a file outside any snapshot, so its check reads in an order that needs none.
    if check is the_log_verifies:
        return list(check(now))
    with _snapshot():
        return list(check(now))


@contextmanager
def _snapshot() -> Iterator[None]:
    """All queries of one check see the same moment."""
    outermost = not connection.in_atomic_block
    with transaction.atomic():
        if outermost and connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield
