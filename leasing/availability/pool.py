"""A GPU pool over a window: how much is free in each step of it, and the time of each GPU, host by host.

The steps are counted by the database and answered from the openings; GPUs are read for a few hosts at a time.
So an answer is as large as what was asked for, not as the fleet.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from uuid import UUID

from django.db.models import Case, Count, Q, QuerySet, When, Window
from django.db.models.functions import RowNumber
from django.utils.translation import gettext as _

from hosts.models import Gpu, GpuModel, Host
from leasing import holds, policy
from leasing.availability.levels import TAKEN, UNAVAILABLE, levels
from leasing.availability.sweep import Kind, Paint, Stretch, free_of, leasable, lease_layers, paint
from leasing.errors import InvalidRequest, NotVisible
from leasing.models import Block, Closure, Flavor, Hold, Lease, Person
from leasing.openings import search
from leasing.openings.each import most_open_in_each
from leasing.openings.spans import FOREVER, Span, micros, moment
from leasing.openings.upkeep import span_of
from leasing.states.gpu import BOOKABLE

LONGEST_WINDOW = timedelta(days=62)
MOST_STEPS = 200
MOST_HOSTS = 20
# Of the holds of one page of hosts; more are neither read nor drawn.
MOST_HOLDS = 20_000


@dataclass(frozen=True)
class Pool:
    """The GPUs of a model, and the flavor of it that somebody has in mind."""

    model: GpuModel
    flavor: Flavor | None


@dataclass(frozen=True)
class Step:
    """How it is in `[starts_at, ends_at)`.

    `free_least` and `free_most` are GPUs at a moment, `unavailable` those that are closed or out of service
    at one. `together` GPUs of one host are free throughout, and `leasable` says whether one lease of the
    flavor could last as long; of steps that are over neither is known.
    """

    starts_at: datetime
    ends_at: datetime
    free_least: int
    free_most: int
    unavailable: int
    together: int | None
    leasable: bool | None


@dataclass(frozen=True)
class Overview:
    """All steps of a window, of a pool of so many GPUs."""

    gpus: int
    steps: list[Step]


@dataclass(frozen=True)
class GpuRow:
    gpu: Gpu
    stretches: list[Stretch]


@dataclass(frozen=True)
class HostRow:
    """One host of a pool. Its `name` is for those who read the fleet; to others it is a number."""

    number: int
    name: str
    gpus: list[GpuRow]
    leasable: list[Span]


@dataclass(frozen=True)
class HostPage:
    """Some hosts of a pool of `count` hosts, and the leases that the reader may see on them."""

    count: int
    rows: list[HostRow]
    leases: dict[UUID, Lease]


def fetch_pool(person: Person, model_slug: str, flavor_slug: str = "") -> Pool:
    """The pool, if the person may see it; NotVisible otherwise."""
    return choose_pool(policy.visible_models(person).filter(slug=model_slug), model_slug, flavor_slug)[0]


def choose_pool(
    models: Iterable[GpuModel], model_slug: str, flavor_slug: str = ""
) -> tuple[Pool, list[Flavor]]:
    """The pool of one of the models, NotVisible if it is none of them; and what is on offer of it."""
    model = next((one for one in models if one.slug == model_slug), None)
    if model is None:
        raise NotVisible(_("There is no such GPU model."))
    flavors = list(Flavor.objects.filter(model=model, offered=True).order_by("gpu_count", "name"))
    for one in flavors:
        one.model = model
    flavor = next((one for one in flavors if one.slug == flavor_slug), None)
    if flavor is None and flavor_slug:
        raise InvalidRequest(_("This model has no such workstation."), field="flavor")
    return Pool(model, flavor), flavors


def check_window(since: datetime, until: datetime, step: timedelta) -> None:
    """Raise InvalidRequest unless so long a window may be asked for, in such steps."""
    if until - since > min(LONGEST_WINDOW, MOST_STEPS * step):
        raise InvalidRequest(
            _("A window has at most %(days)d days and %(steps)d steps.")
            % {"days": LONGEST_WINDOW.days, "steps": MOST_STEPS},
            hint=_("Choose a shorter window or longer steps."),
            field="until",
        )


def read_overview(pool: Pool, edges: Sequence[datetime], *, now: datetime) -> Overview:
    """The steps between edges, which are whole minutes."""
    counted = levels((TAKEN, UNAVAILABLE), pool.model, edges)
    total, (taken, unavailable) = counted.gpus, counted.of
    ahead = _Ahead(pool, edges, now)
    steps = [
        Step(
            starts_at,
            ends_at,
            free_least=total - used.most,
            free_most=total - used.fewest,
            unavailable=gone.most,
            together=ahead.together(starts_at, ends_at),
            leasable=ahead.leasable(starts_at, ends_at),
        )
        for (starts_at, ends_at), used, gone in zip(pairwise(edges), taken, unavailable, strict=True)
    ]
    return Overview(total, steps)


class _Ahead:
    """What is open in the steps that are not over, all asked at once."""

    def __init__(self, pool: Pool, edges: Sequence[datetime], now: datetime) -> None:
        self._flavor, self._now = pool.flavor, now
        one_node = pool.flavor is not None and pool.flavor.numa == Flavor.Numa.REQUIRED
        windows = []
        for starts_at, ends_at in pairwise(edges):
            if ends_at > now:
                windows += [self._step(starts_at, ends_at), self._held(starts_at, ends_at)]
        anywhere = search.Pool(pool.model.pk, 1, one_node=one_node)
        self._open = most_open_in_each(anywhere, windows)

    def together(self, starts_at: datetime, ends_at: datetime) -> int | None:
        return None if ends_at <= self._now else self._open[self._step(starts_at, ends_at)]

    def leasable(self, starts_at: datetime, ends_at: datetime) -> bool | None:
        if self._flavor is None or ends_at <= self._now:
            return None
        return self._open[self._held(starts_at, ends_at)] >= self._flavor.gpu_count

    def _step(self, starts_at: datetime, ends_at: datetime) -> Span:
        return span_of(max(starts_at, self._now), ends_at)

    def _held(self, starts_at: datetime, ends_at: datetime) -> Span:
        """What a lease of all of the step would hold."""
        starts_at = max(starts_at, self._now)
        if self._flavor is None:
            return span_of(starts_at, ends_at)
        return span_of(*holds.window(self._flavor, starts_at, ends_at, now=self._now))


def read_hosts(
    person: Person, pool: Pool, since: datetime, until: datetime, *, offset: int, limit: int, now: datetime
) -> HostPage:
    """Some hosts of the pool, those with leases that the person owns first, as the person may see them."""
    chosen = list(_hosts_of(person, pool.model, since, until)[offset : offset + min(limit, MOST_HOSTS)])
    reading = _Reading(person, pool, [block.host_id for block in chosen], since, until, now)
    names = policy.reads_fleet(person)
    rows = [reading.row(block.host, block.number, named=names) for block in chosen]  # type: ignore[attr-defined]
    count: int = chosen[0].count if chosen else _blocks_of(pool.model).count()  # type: ignore[attr-defined]
    return HostPage(count, rows, reading.leases)


def _blocks_of(model: GpuModel) -> QuerySet[Block]:
    """One for each host that has the model."""
    return Block.objects.filter(model=model, gpus__gt=0)


def _hosts_of(person: Person, model: GpuModel, since: datetime, until: datetime) -> QuerySet[Block]:
    """Numbered by name; of how many."""
    own = policy.own_leases(person).values("pk")
    held = Hold.objects.filter(lease__in=own, gpu__model=model, starts_at__lt=until, ends_at__gt=since)
    numbered = _blocks_of(model).annotate(
        number=Window(RowNumber(), order_by="host__name"),
        count=Window(Count("*")),
        own=Case(When(host__in=held.order_by().values("gpu__host"), then=0), default=1),
    )
    return numbered.select_related("host").order_by("own", "number")


class _Reading:
    """What takes the GPUs of some hosts in a window, and as much around it as a lease at its edge needs."""

    def __init__(
        self,
        person: Person,
        pool: Pool,
        hosts: list[UUID],
        since: datetime,
        until: datetime,
        now: datetime,
    ) -> None:
        self.pool, self.now = pool, now
        self.lead = timedelta(seconds=pool.model.lead_seconds)
        self.turnaround = timedelta(seconds=pool.model.turnaround_seconds)
        self.window = span_of(since, until)
        self.around = span_of(since - self.lead, until + self.turnaround)
        self.gpus: dict[UUID, list[Gpu]] = defaultdict(list)
        for gpu in Gpu.objects.filter(host__in=hosts, model=pool.model).order_by("numa_node", "address"):
            self.gpus[gpu.host_id].append(gpu)
        self.closures: dict[UUID, list[Closure]] = defaultdict(list)
        lasting = Q(ends_at=None) | Q(ends_at__gt=moment(self.around.starts))
        for closure in Closure.objects.filter(lasting, host__in=hosts):
            self.closures[closure.host_id].append(closure)
        self.held = self._read_holds(hosts)
        self.leases = self._read_leases(person)

    def row(self, host: Host, number: int, *, named: bool) -> HostRow:
        around = [GpuRow(gpu, paint(self._layers(gpu), self.around)) for gpu in self.gpus[host.pk]]
        return HostRow(
            number,
            host.name if named else "",
            [GpuRow(row.gpu, list(_clipped(row.stretches, self.window))) for row in around],
            list(self._leasable(around)),
        )

    def _read_holds(self, hosts: list[UUID]) -> dict[UUID, list[tuple[Span, UUID]]]:
        found = Hold.objects.filter(
            gpu__host__in=hosts,
            gpu__model=self.pool.model,
            starts_at__lt=moment(self.around.ends),
            ends_at__gt=moment(self.around.starts),
        ).values_list("gpu_id", "starts_at", "ends_at", "lease_id")
        rows = list(found.order_by()[: MOST_HOLDS + 1])
        if len(rows) > MOST_HOLDS:
            raise InvalidRequest(
                _("Too much happens in this window to be shown."),
                hint=_("Choose a shorter window or fewer hosts."),
                field="until",
            )
        held: dict[UUID, list[tuple[Span, UUID]]] = defaultdict(list)
        for gpu_id, starts_at, ends_at, lease_id in rows:
            held[gpu_id].append((span_of(starts_at, ends_at), lease_id))
        return held

    def _read_leases(self, person: Person) -> dict[UUID, Lease]:
        gpus = [gpu for members in self.gpus.values() for gpu in members]
        seen = policy.visible_leases(person).filter(
            holds__gpu__in=gpus,
            holds__starts_at__lt=moment(self.around.ends),
            holds__ends_at__gt=moment(self.around.starts),
        )
        return {lease.pk: lease for lease in seen}

    def _layers(self, gpu: Gpu) -> Iterator[Paint]:
        """What shows of a GPU, uppermost first."""
        strangers = []
        for hold, lease_id in self.held[gpu.pk]:
            lease = self.leases.get(lease_id)
            if lease is None:
                strangers.append(hold)
            else:
                yield from lease_layers(lease_id, _used(lease), hold)
        yield Paint(
            Kind.CLOSED,
            [
                span_of(closure.starts_at, closure.ends_at)
                for closure in self.closures[gpu.host_id]
                if closure.gpu_id in (None, gpu.pk)
            ],
        )
        yield Paint(Kind.OUT, [] if gpu.state in BOOKABLE else [Span(micros(gpu.state_since), FOREVER)])
        yield Paint(Kind.BUSY, strangers)

    def _leasable(self, rows: list[GpuRow]) -> Iterator[Span]:
        """Within the window, from now on."""
        since, until = max(self.window.starts, micros(self.now)), self.window.ends
        flavor = self.pool.flavor
        if flavor is None:
            return
        groups: dict[int, list[list[Span]]] = defaultdict(list)
        for row in rows:
            node = row.gpu.numa_node if flavor.numa == Flavor.Numa.REQUIRED else 0
            groups[node].append(free_of(row.stretches, self.around))
        found = leasable(
            groups.values(),
            count=flavor.gpu_count,
            lead=self.lead,
            turnaround=self.turnaround,
            now=self.now,
        )
        for span in found:
            if span.starts < until and span.ends > since:
                yield Span(max(span.starts, since), min(span.ends, until))


def _used(lease: Lease) -> Span:
    """From when until when it is, or was, its owner's: for no time, if it stopped before its start."""
    ends_at = min(lease.ends_at, lease.stopped_at or lease.ends_at)
    return span_of(min(lease.starts_at, ends_at), ends_at)


def _clipped(stretches: list[Stretch], window: Span) -> Iterator[Stretch]:
    for one in stretches:
        starts, ends = max(one.starts, window.starts), min(one.ends, window.ends)
        if starts < ends:
            yield Stretch(starts, ends, one.kind, one.lease_id)
