"""The broker is away for an hour: the host goes on alone, and what it reports late changes no price."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from hosts.models import Gpu, ReceivedReport
from leasing.fsck import run_checks
from leasing.models import Lease, UsageSegment
from tests.agent.campaign.machine_room import no_real_waiting
from tests.domain.portal_story import PortalStory

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


def billed(lease: Lease) -> timedelta:
    """How long it was billed at its rate."""
    used = lease.segments.filter(cause=UsageSegment.Cause.USE, rate_per_hour__gt=0)
    return sum(((each.ends_at or each.starts_at) - each.starts_at for each in used), timedelta())


def test_a_broker_that_is_away_for_an_hour_costs_nobody_anything(tmp_path: Path) -> None:
    story = PortalStory(0, tmp_path)
    with no_real_waiting(story.room):
        story.begin()
        ends, runs_on = story.book(length=HOUR / 2), story.book(length=4 * HOUR)
        story.until(lambda: story.are("active", ends, runs_on))
        machines = {lease.pk: lease.machine_name for lease in (ends, runs_on)}

        story.broker_away, left = True, story.clock.now
        while story.clock.now < left + HOUR:
            story._round()
        assert story.running() == {machines[runs_on.pk]}
        assert story.are("releasing", ends)
        assert story.are("active", runs_on)
        assert run_checks(story.clock.now) == []
        received = ReceivedReport.objects.filter(host=story.host)
        waiting, heard = len(story.room.spooled()), received.count()

        story.broker_away = False
        story.until(lambda: story.are("ended", ends) and Gpu.objects.filter(state="clean").count() == 2)
        assert received.count() >= heard + waiting > heard
        ends.refresh_from_db()
        runs_on.refresh_from_db()
        assert ends.outcome == "completed"
        assert ends.active_at is not None
        assert billed(ends) == ends.ends_at - ends.active_at
        assert story.are("active", runs_on)
        assert [*runs_on.segments.values_list("starts_at", "ends_at")] == [(runs_on.active_at, None)]

        sequences = [*received.order_by("sequence").values_list("sequence", flat=True)]
        assert sequences == [*range(1, len(sequences) + 1)]
        assert not received.filter(applied_at=None).exists()
        for name in machines.values():
            assert (story.room.machines.definitions[name], story.room.machines.creations[name]) == (1, 1)
        assert run_checks(story.clock.now) == []
        story.close()
