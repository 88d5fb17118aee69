"""What a lease costs and the CSV that finance downloads."""

from __future__ import annotations

import csv
from datetime import timedelta
from decimal import Decimal

from leasing.exports.columns import USAGE
from leasing.exports.filter import Billed
from leasing.exports.lines import read_lines
from leasing.exports.writers import write_csv
from leasing.metering import follow_lease
from leasing.models import Lease
from leasing.states.lease import LeaseEvent
from leasing.usage import lease_cost
from tests.domain.ground import NOW, Ground

SECOND = timedelta(seconds=1)


def use(lease: Lease, *, seconds: int | None) -> None:
    lease.active_at = NOW
    follow_lease(lease, event=LeaseEvent.RUNNING, effective_at=NOW)
    if seconds is not None:
        lease.stopped_at = NOW + seconds * SECOND
        follow_lease(lease, event=LeaseEvent.END, effective_at=NOW + seconds * SECOND)


def rows(now_after: int = 6 * 3600) -> list[dict[str, str]]:
    lines = read_lines(Billed.everything(), now=NOW + now_after * SECOND)
    return list(csv.DictReader(write_csv(USAGE, lines)))


def test_a_closed_segment_is_one_line_to_the_second(ground: Ground) -> None:
    lease = ground.lease()
    use(lease, seconds=3630)
    assert rows() == [
        {
            "lease": str(lease.pk),
            "tenant": "studio",
            "person": "ada",
            "flavor": "studio",
            "gpus": "1",
            "gpu_model": "A6000",
            "starts_at": "2026-03-02T09:00:00Z",
            "ends_at": "2026-03-02T10:00:30Z",
            "seconds": "3630",
            "rate_per_hour": "3.8000",
            "currency": "EUR",
            "cause": "use",
            "amount": "3.83",
            "project": "",
            "cost_centre": "",
            "invoice": "",
            "kept": "",
        }
    ]
    assert lease_cost(lease, now=NOW + 6 * 3600 * SECOND) == Decimal("3.83")


def test_an_open_segment_counts_up_to_now_and_says_so(ground: Ground) -> None:
    lease = ground.lease()
    use(lease, seconds=None)
    (row,) = rows(now_after=1800)
    assert (row["ends_at"], row["seconds"], row["cause"], row["amount"]) == (
        "2026-03-02T09:30:00Z",
        "1800",
        "use (open)",
        "1.90",
    )
    assert lease_cost(lease, now=NOW + 1800 * SECOND) == Decimal("1.90")


def test_an_overrun_is_a_free_line_of_its_own(ground: Ground) -> None:
    lease = ground.lease()
    use(lease, seconds=4 * 3600)
    lease.active_at = NOW
    follow_lease(lease, event=LeaseEvent.GONE, effective_at=lease.ends_at + 42 * SECOND)
    over = next(row for row in rows() if row["cause"] == "overrun")
    assert (over["seconds"], over["rate_per_hour"], over["amount"]) == ("42", "0.0000", "0.00")


def test_a_lease_without_usage_costs_nothing(ground: Ground) -> None:
    assert lease_cost(ground.lease(), now=NOW) == 0
    assert rows() == []
