"""Repeated bookings: looked at first, then booked whole, or without the dates that the person named.

Nothing is lost silently: a date that cannot be had and was not named makes the whole booking fail, and is
named. Limits count all of it together: one lease beyond them, and all wait for an approver.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import date, datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from leasing import holds, notices, offering, policy, quotas
from leasing.actors import Actor
from leasing.addresses import of_approvals
from leasing.audit.log import record
from leasing.billing.budget_warnings import warn
from leasing.booking import check_offered, decide_by, member_of, record_request, starts_now
from leasing.errors import InvalidRequest, NothingFree, Words
from leasing.extras import extras_of
from leasing.homes import check_offers
from leasing.locking import lock_tenant_and_person
from leasing.membership.openness import require_open
from leasing.models import Flavor, Image, Lease, Series, Snapshot, Tenant
from leasing.pricing import keep_terms
from leasing.reasons import Reason, filled
from leasing.recurrence import Occurrence, Pattern
from leasing.series_plan import impossible, judged, priced, window_of, windows
from leasing.snapshots_kept import check_start
from leasing.states.lease import LeaseState
from leasing.tags import checked_tags
from leasing.transactions import atomically
from leasing.wake import wake_control


class DatesLost(NothingFree):
    """Dates that cannot be had and that the person did not name; nothing was booked."""

    code = "dates-lost"

    def __init__(self, days: list[date]) -> None:
        named = ", ".join(date_format(day, "DATE_FORMAT") for day in days)
        super().__init__(
            _("Nothing was booked, because these dates cannot be had: %(days)s.") % {"days": named},
            hint=_("Leave them out, or choose another time."),
        )
        self.days = days

    def faults(self) -> list[tuple[str, Words]]:
        return [("without", day.isoformat()) for day in self.days]


def book_series(
    *,
    actor: Actor,
    tenant: Tenant,
    flavor: Flavor,
    image: Image,
    pattern: Pattern,
    without: Collection[date] = (),
    purpose: str = "",
    project: str = "",
    cost_centre: str = "",
    with_home: bool = False,
    snapshot: Snapshot | None = None,
    now: datetime,
) -> Series:
    """Book every date of the pattern but those in `without`, or nothing. Each disk begins as `snapshot`.

    Raises DatesLost for dates that cannot be had, InvalidRequest, or NotVisible.
    """
    person = member_of(actor, tenant)
    check_offered(flavor, image)
    left_out = frozenset(without)
    wanted = [one for one in windows(flavor, pattern, left_out, now) if one.day not in left_out]
    if not wanted:
        raise InvalidRequest(_("Every date is left out."), hint=_("Keep at least one."), field="without")
    series = Series(
        tenant=tenant,
        owner=person,
        flavor=flavor,
        image=image,
        purpose=purpose,
        weekdays="".join(map(str, sorted(pattern.weekdays))),
        starts=pattern.starts,
        ends=pattern.ends,
        zone=pattern.zone,
        first_on=pattern.first_on,
        last_on=pattern.last_on,
        every_weeks=pattern.every_weeks,
        left_out=sorted(map(date.isoformat, left_out)),
        requested_at=now,
    )
    tags = checked_tags(project=project, cost_centre=cost_centre)
    return _book(actor, series, wanted, {**tags, "with_home": with_home, "snapshot": snapshot}, now)


@atomically
def _book(
    actor: Actor, series: Series, wanted: list[Occurrence], alike: Mapping[str, Any], now: datetime
) -> Series:
    series.tenant = lock_tenant_and_person(series.tenant_id, series.owner_id)
    require_open(series.tenant)
    series.save(force_insert=True)
    possible = {one.day for one in wanted if not impossible(one, now=now)}
    every_date = [_lease(series, one, alike, now=now) for one in wanted]
    check_offers(every_date[0])
    check_start(every_date[0])
    leases = [lease for lease in every_date if lease.occurs_on in possible and _has_its_home(lease)]
    quotes = priced(leases, now=now)
    verdicts = judged(leases, quotes, now=now)
    for verdict in verdicts:
        quotas.refuse_beyond(verdict)
    reason = quotas.together_beyond(verdicts)
    _settle(leases, reason, now=now)
    Lease.objects.bulk_create(leases)
    for lease, quote in zip(leases, quotes, strict=True):
        keep_terms(lease, quote)
    held = _place(leases, now=now)
    lost = {one.day for one in wanted} - {lease.occurs_on for lease in leases if lease.pk in held}
    if lost:
        raise DatesLost(sorted(lost))
    for lease, quote, verdict in zip(leases, quotes, verdicts, strict=True):
        record_request(lease, quote.terms, verdict, held[lease.pk], actor=actor, now=now)
    warn(series.tenant, [one for verdict in verdicts for one in verdict.measures], now=now)
    _record(series, leases, reason, actor=actor, now=now)
    if reason:
        _ask_approvers(series, leases, now=now)
    if starts_now(leases[0], now=now):
        transaction.on_commit(wake_control)
    return series


def _lease(series: Series, occurrence: Occurrence, alike: Mapping[str, Any], *, now: datetime) -> Lease:
    """One of it; `alike` is what all of them have."""
    return Lease(
        tenant=series.tenant,
        owner=series.owner,
        flavor=series.flavor,
        image=series.image,
        purpose=series.purpose,
        series=series,
        occurs_on=occurrence.day,
        requested_at=now,
        state_since=now,
        **alike,
        **window_of(occurrence, now),
    )


def _has_its_home(lease: Lease) -> bool:
    return extras_of(lease).booked_with(lease.starts_at, lease.ends_at) is None


def _settle(leases: list[Lease], reason: Reason, *, now: datetime) -> None:
    for lease in leases:
        lease.needs_approval_because = reason
        lease.state = LeaseState.REQUESTED if reason else LeaseState.SCHEDULED
        lease.decide_by = decide_by(lease, now) if reason else None


def _place(leases: list[Lease], *, now: datetime) -> dict[UUID, list[UUID]]:
    """Hold GPUs for each; those of each lease for which there are some."""
    holds.lock_blocks_for(leases, now=now)
    held = {}
    for lease in leases:
        with suppress(NothingFree), transaction.atomic():
            held[lease.pk] = offering.place_after_line(lease, now=now)
    return held


def _record(series: Series, leases: list[Lease], reason: Reason, *, actor: Actor, now: datetime) -> None:
    record(
        action="series.request",
        actor=actor,
        subject=f"series:{series.pk}",
        tenant=series.tenant,
        now=now,
        flavor=series.flavor.slug,
        image=series.image.slug,
        weekdays=series.weekdays,
        starts=series.starts,
        ends=series.ends,
        zone=series.zone,
        first_on=series.first_on,
        last_on=series.last_on,
        every_weeks=series.every_weeks,
        left_out=series.left_out,
        leases=[str(lease.pk) for lease in leases],
        needs_approval_because=reason.in_english(),
    )


def _ask_approvers(series: Series, leases: list[Lease], *, now: datetime) -> None:
    """Once, however many leases there are."""
    for approver in policy.people_with_role(series.tenant, "approver").exclude(pk=series.owner_id):
        notices.notify(
            recipient=approver,
            kind="series-request",
            subject=filled(
                gettext_lazy("%(person)s asks for %(flavor)s, %(count)d times"),
                person=series.owner,
                flavor=series.flavor.name,
                count=len(leases),
            ),
            body=filled(
                gettext_lazy("%(purpose)s\n\n%(pattern)s, for %(tenant)s"),
                purpose=series.purpose or gettext_lazy("No purpose was given."),
                pattern=series.pattern,
                tenant=series.tenant.name,
            ),
            now=now,
            link=of_approvals(),
        )
