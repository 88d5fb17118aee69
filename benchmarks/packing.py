"""Large requests served when the same stream of requests is placed best fit, first fit and random fit.

    python -m benchmarks.packing [--quick] [--json]

Best fit is the portal's own rule (`leasing.maintenance.relocation.fit`, which places what a drain moves where
the search in the database places a booking; tests hold the two together). Nothing is stored: hosts are lists
of what keeps their GPUs busy.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)] if str(ROOT) not in sys.path else []

if TYPE_CHECKING:
    from leasing.models import Flavor
    from leasing.openings.spans import Span
    from leasing.openings.upkeep import GpuTime

HOSTS, GPUS, NODES = 16, 8, 2
LOADS = (50, 75, 100, 125)
# Of a hundred requests so many want 1, 2, 4 and 8 GPUs.
MIX = {1: 50, 2: 20, 4: 15, 8: 15}
HOURS = (1, 2, 4, 8, 24)
FARTHEST_HOURS = 24
LARGE = 8
NOW = datetime(2026, 3, 2, tzinfo=UTC)
SEED = 11


@dataclass(frozen=True)
class Request:
    """Asked at `asked_at`, for GPUs of one host in `[starts_at, ends_at)`."""

    gpus: int
    asked_at: datetime
    starts_at: datetime
    ends_at: datetime

    @property
    def gpu_hours(self) -> float:
        return self.gpus * ((self.ends_at - self.starts_at) / timedelta(hours=1))


@dataclass
class Count:
    """How it went with one way of placing; `split` are large requests for which enough GPUs were free, on
    several hosts."""

    large: int = 0
    served: int = 0
    split: int = 0
    asked_gpu_hours: float = 0
    served_gpu_hours: float = 0


Fleet = list[list["GpuTime"]]
# Where a request goes: a host and some of its GPUs.
Place = Callable[[Fleet, "Flavor", "Span", datetime], tuple[int, tuple[UUID, ...]] | None]


def main() -> int:
    options = _options()
    _django()
    days = 10 if options.quick else 60
    rows = []
    for load in LOADS:
        stream = list(requests(load / 100, days))
        for name, place in (("best fit", best_fit), ("first fit", first_fit), ("random fit", random_fit())):
            count = placed(stream, place)
            rows.append({"load_percent": load, "placed": name, **vars(count)})
            if not options.json:
                print(_told(load, name, count), flush=True)
    print(json.dumps({"machine": _machine(), "rows": rows}))
    return 0


def requests(load: float, days: int) -> Iterator[Request]:
    """The same for every way of placing: half of them for now, half for some time in the next day.

    The load is what is asked for of all that the fleet has.
    """
    dice = random.Random(SEED)
    mean_gpus = sum(gpus * share for gpus, share in MIX.items()) / sum(MIX.values())
    per_hour = load * HOSTS * GPUS / (mean_gpus * sum(HOURS) / len(HOURS))
    hour = 0.0
    while (hour := hour + dice.expovariate(per_hour)) < 24 * days:
        asked_at = NOW + timedelta(hours=hour)
        ahead = timedelta(hours=dice.choice([0, dice.uniform(0, FARTHEST_HOURS)]))
        length = timedelta(hours=dice.choice(HOURS))
        (gpus,) = dice.choices(list(MIX), list(MIX.values()))
        yield Request(gpus, asked_at, asked_at + ahead, asked_at + ahead + length)


def placed(stream: list[Request], place: Place) -> Count:
    """Each gets GPUs when it asks, or never."""
    from leasing.holds import window
    from leasing.openings.upkeep import span_of

    fleet, flavors, count = _fleet(), _flavors(), Count()
    for request in stream:
        flavor = flavors[request.gpus]
        held = window(flavor, request.starts_at, request.ends_at, now=request.asked_at)
        span = span_of(*held)
        _forget(fleet, request.asked_at)
        found = place(fleet, flavor, span, request.asked_at)
        if found is not None:
            host, gpu_ids = found
            for time in fleet[host]:
                if time.gpu.pk in gpu_ids:
                    time.busy.append(span)
        _add(count, request, served=found is not None, fleet=fleet, span=span)
    return count


def best_fit(fleet: Fleet, flavor: Flavor, span: Span, now: datetime) -> tuple[int, tuple[UUID, ...]] | None:
    from leasing.maintenance.relocation import fit

    fits = []
    for number, times in enumerate(fleet):
        found = fit(flavor, times, span, now=now)
        if found is not None:
            unready, width, gpu_ids = found
            fits.append((unready, width, number, gpu_ids))
    return min(fits)[2:] if fits else None


def first_fit(
    fleet: Fleet, flavor: Flavor, span: Span, _now: datetime
) -> tuple[int, tuple[UUID, ...]] | None:
    for number, times in enumerate(fleet):
        free = _free(times, span)
        if len(free) >= flavor.gpu_count:
            return number, tuple(free[: flavor.gpu_count])
    return None


def random_fit() -> Place:
    dice = random.Random(SEED)

    def place(
        fleet: Fleet, flavor: Flavor, span: Span, _now: datetime
    ) -> tuple[int, tuple[UUID, ...]] | None:
        for number in dice.sample(range(len(fleet)), len(fleet)):
            free = _free(fleet[number], span)
            if len(free) >= flavor.gpu_count:
                return number, tuple(dice.sample(free, flavor.gpu_count))
        return None

    return place


def _free(times: list[GpuTime], span: Span) -> list[UUID]:
    return [time.gpu.pk for time in times if time.is_free(span)]


def _add(count: Count, request: Request, *, served: bool, fleet: Fleet, span: Span) -> None:
    count.asked_gpu_hours += request.gpu_hours
    count.served_gpu_hours += request.gpu_hours if served else 0
    if request.gpus == LARGE:
        count.large += 1
        count.served += served
        count.split += not served and sum(len(_free(times, span)) for times in fleet) >= LARGE


def _fleet() -> Fleet:
    """All clean, so that what is ready decides nothing."""
    from leasing.openings.upkeep import BlockGpu, GpuTime

    seen = datetime.max.replace(tzinfo=UTC)
    return [
        [
            GpuTime(BlockGpu(UUID(int=host * GPUS + gpu), f"{gpu:02x}", gpu * NODES // GPUS, "clean", seen))
            for gpu in range(GPUS)
        ]
        for host in range(HOSTS)
    ]


def _forget(fleet: Fleet, now: datetime) -> None:
    """What is over, but for the last of each GPU: an opening begins at its end."""
    from leasing.openings.spans import micros

    moment = micros(now)
    for times in fleet:
        for time in times:
            past = [span for span in time.busy if span.ends <= moment]
            if len(past) > 1:
                last = max(past)
                time.busy = [span for span in time.busy if span.ends > moment or span == last]


def _flavors() -> dict[int, Flavor]:
    from hosts.models import GpuModel
    from leasing.models import Flavor

    model = GpuModel(pk=1, slug="a100", name="A100")
    return {gpus: Flavor(pk=gpus, model=model, gpu_count=gpus) for gpus in MIX}


def _django() -> None:
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    django.setup()


def _told(load: int, name: str, count: Count) -> str:
    share = 100 * count.served_gpu_hours / count.asked_gpu_hours
    return (
        f"{load:>4} % {name:<10}  {count.served:>5} of {count.large} requests for {LARGE} GPUs served,"
        f" {count.split} lost though {LARGE} were free; {share:.1f} % of all GPU-hours"
    )


def _machine() -> str:
    return f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a sixth of the time, to see that it works")
    parser.add_argument("--json", action="store_true", help="only the figures, as one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
