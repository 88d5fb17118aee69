"""How long workstations take to come up, as those before them did."""

from __future__ import annotations

from datetime import timedelta
from statistics import median

from django.db.models import Max, Min

from leasing.models import Lease, LeaseStep

LAST, FEWEST = 20, 3


def usual_preparation(lease: Lease) -> timedelta | None:
    """The median of the last ones with the same GPUs and system, from the host's first step to its last.

    None as long as there are fewer than three.
    """
    alike = Lease.objects.filter(flavor_id=lease.flavor_id, image_id=lease.image_id).exclude(active_at=None)
    last = list(alike.order_by("-active_at").values_list("pk", flat=True)[:LAST])
    steps = LeaseStep.objects.filter(lease__in=last, plan="provision")
    times = steps.values("lease").annotate(began=Min("started_at"), ended=Max("finished_at"))
    took = [each["ended"] - each["began"] for each in times if each["ended"]]
    return median(took) if len(took) >= FEWEST else None
