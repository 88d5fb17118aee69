"""A lived-in house for the pages: people in every role, and workstations and GPUs in every state."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Literal

from hosts.agent.doctor.examination import in_order
from hosts.agent.doctor.verdicts import found
from hosts.models import Gpu, GpuModel
from hosts.protocol import messages as m
from hosts.protocol.checkup import CheckUp
from leasing import fleet, policy
from leasing.actors import SYSTEM
from leasing.approval import reject_lease
from leasing.audit.sealer import seal
from leasing.booking import request_lease
from leasing.ending import end_lease
from leasing.maintenance.service import drain
from leasing.models import Closure, Flavor, Lease, Person, Rate, Series, Tenant, WaitlistEntry
from leasing.recurrence import Pattern
from leasing.series import book_series
from leasing.states.gpu import BOOKABLE
from leasing.waitlist import join_waitlist
from tests.world import KERNEL, MEMORY_BYTES, VENDOR_DEVICE, World, fingerprint, person

PASSWORD = "a-long-enough-password"
PROVISION_STEPS = ("identify", "bind", "reserve", "connect", "define", "start", "confirm")
ACCESS = m.Access(
    address="hv1.studio.example",
    forwards=(m.Forward(port=22016, inside=22), m.Forward(port=22017, inside=3389)),
    host_key="SHA256:9Wi1TzEvFpKYcPmnDNWfQdMxrL3rvQyhXyTGb0DKhXk",
)
STEP_STATES: tuple[Literal["started", "done"], ...] = ("started", "done")
RELEASE_STEPS = ("close", "stop", "save", "undefine", "disconnect", "destroy-disk")


class Scene(World):
    """`world` some hours old; services did everything. The names say what each lease is."""

    def __init__(self, *, now: datetime | None = None, gpus: int = 6, concurrent_gpus: int = 4) -> None:
        self.until = now or datetime.now(UTC)
        self.more_cards: tuple[m.CardFacts, ...] = ()
        start = self.until - timedelta(hours=6)
        super().__init__(gpus=gpus, concurrent_gpus=concurrent_gpus, start=start)
        self.money = person("money")
        policy.grant_global_role(actor=SYSTEM, person=self.money, role="platform-finance", now=self.now)
        policy.grant_role(actor=SYSTEM, person=self.approver, tenant=self.studio, role="member", now=self.now)
        self.stranger = person("stranger")
        self._name_people()
        self._offer_more()

    def everybody(self) -> dict[str, Person]:
        people = (
            self.ada, self.bob, self.approver, self.finance, self.operator, self.auditor, self.money,
            self.stranger,
        )  # fmt: skip
        return {who.username: who for who in people}

    def live_until_now(self) -> None:
        """Every state, as time passes."""
        self.ended = self.book(self.ada, hours=2, purpose="Renders for the museum stand")
        gpu = self.run(self.ended)
        self.now += timedelta(hours=1, minutes=12, seconds=7)
        self.finish(self.ended, gpu)
        spoilt = self.book(self.bob, self.research, hours=1)
        bad = self.run(spoilt)
        self.now += timedelta(minutes=30)
        self.finish(spoilt, bad, canaries_found=3, mismatches=24)
        self.spoilt, self.quarantined = spoilt, bad
        self._ask_and_decide()
        self.now = self.until - timedelta(minutes=100)
        self.active = self.book(self.ada, hours=5, purpose="Turntable of the new stand")
        self.run(self.active)
        self.theirs = self.book(self.bob, self.research, hours=3)
        self.run(self.theirs)
        self.now = self.until - timedelta(seconds=30)
        self.beat()
        self.preparing = self.book(self.ada, hours=4)
        self.tick()
        self.steps(self.preparing, PROVISION_STEPS[:3])
        self.scheduled = self.book(self.ada, hours=8, start=timedelta(hours=20))
        self.series = self.repeat(self.ada, days=3)
        self._find_cards()
        self.host.say(check_up(self.gpus[0].address), at=self.now)
        self._withdraw_one()
        self._plan_maintenance()
        seal(now=self.now)

    def book(
        self,
        who: Person,
        tenant: Tenant | None = None,
        *,
        hours: int = 4,
        start: timedelta | None = None,
        flavor: Flavor | None = None,
        purpose: str = "",
    ) -> Lease:
        starts_at = self.now + start if start else None
        return request_lease(
            actor=self.actor(who),
            tenant=tenant or self.studio,
            flavor=flavor or self.flavor,
            image=self.image,
            starts_at=starts_at,
            ends_at=(starts_at or self.now) + timedelta(hours=hours),
            purpose=purpose,
            now=self.now,
        )

    def repeat(self, who: Person, *, days: int, begin: int = 20, purpose: str = "Dailies") -> Series:
        """From nine to eleven in Berlin on so many days in a row, `begin` days from now."""
        first_on = self.now.date() + timedelta(days=begin)
        return book_series(
            actor=self.actor(who), tenant=self.studio, flavor=self.flavor, image=self.image,
            pattern=Pattern(
                weekdays=frozenset(range(1, 8)), starts=time(9), ends=time(11), zone="Europe/Berlin",
                first_on=first_on, last_on=first_on + timedelta(days=days - 1),
            ),
            purpose=purpose, now=self.now,
        )  # fmt: skip

    def run(self, lease: Lease) -> Gpu:
        """The host brings the machine up, step by step."""
        self.beat()
        self.tick()
        command = self.command(lease, "provision")
        self.host.say(m.Accepted(), at=self.now, command=command)
        self.steps(lease, PROVISION_STEPS, finished=True)
        running = m.MachineRunning(lease_id=lease.pk, access=ACCESS)
        self.host.say(running, at=self.now, command=command)
        lease.refresh_from_db()
        return lease.holds.get().gpu

    def steps(
        self, lease: Lease, names: tuple[str, ...], *, plan: str = "provision", finished: bool = False
    ) -> None:
        command = self.command(lease, "release" if plan == "release" else "provision")
        total = len(RELEASE_STEPS if plan == "release" else PROVISION_STEPS)
        for index, name in enumerate(names, 1):
            for state in STEP_STATES[: 1 if index == len(names) and not finished else 2]:
                self.now += timedelta(milliseconds=400)
                step = m.StepReport(
                    lease_id=lease.pk, gpu_id=None, plan=plan, step=name, index=index, total=total,
                    state=state, attempt=1,
                )  # fmt: skip
                self.host.say(step, at=self.now, command=command)

    def finish(self, lease: Lease, gpu: Gpu, **evidence: object) -> None:
        """Its owner ends it, and the host gives the GPU back with this evidence."""
        end_lease(actor=self.actor(lease.owner), lease_id=lease.pk, now=self.now)
        self.gone(lease)
        self.now += timedelta(seconds=20)
        self.scrub(self.host, gpu, lease=lease, **evidence)

    def gone(self, lease: Lease) -> None:
        self.tick()
        self.steps(lease, RELEASE_STEPS, plan="release", finished=True)
        release = self.command(lease, "release")
        self.host.say(m.MachineGone(lease_id=lease.pk), at=self.now, command=release)

    def switch(self, lease: Lease, event: m.Event) -> None:
        """The host carries out a power command."""
        self.host.say(event, at=self.now, command=self.command(lease, "power"))

    def beat(self) -> None:
        """The host is heard of: it looks around and says what it sees."""
        active = Lease.objects.filter(host=self.host.row, state="active")
        machines = [
            m.MachineFacts(name=lease.machine_name, state="running", lease_id=lease.pk) for lease in active
        ]
        cards = [_card(gpu.address, group=index) for index, gpu in enumerate(self.gpus)]
        facts = m.Inventory(
            cards=(*cards, *self.more_cards), machines=tuple(machines), cpu_count=32, memory_mib=131072,
            disk_gib=1800, kernel=KERNEL, worker_version="0.1.0", simulated=True,
        )  # fmt: skip
        self.host.say(facts, at=self.now)

    def wait_in_line(self) -> tuple[WaitlistEntry, WaitlistEntry]:
        """In four days all is booked out, and one is given back: ada has an offer, and waits for more."""
        start = timedelta(hours=100)
        free = Gpu.objects.filter(model=self.model, state__in=BOOKABLE).count()
        booked = [self.book(self.bob, self.research, hours=4, start=start) for _gpu in range(free)]
        first, second = (self.join(self.ada, start=start, hours=hours) for hours in (3, 4))
        end_lease(actor=self.actor(self.bob), lease_id=booked[0].pk, now=self.now)
        self.tick()
        return first, second

    def join(self, who: Person, *, start: timedelta, hours: int) -> WaitlistEntry:
        self.now += timedelta(milliseconds=10)
        return join_waitlist(
            actor=self.actor(who),
            tenant=self.studio,
            flavor=self.flavor,
            image=self.image,
            duration=timedelta(hours=hours),
            earliest=self.now + start,
            deadline=self.now + start + timedelta(hours=4),
            purpose="Frames",
            now=self.now,
        )

    def _ask_and_decide(self) -> None:
        self.studio.concurrent_gpus = 0
        self.studio.save()
        rejected = self.book(self.ada, hours=2, start=timedelta(hours=30))
        reject_lease(
            actor=self.actor(self.approver),
            lease_id=rejected.pk,
            note="The stand is done by then.",
            now=self.now,
        )
        self.rejected = rejected
        self.requested = self.book(
            self.ada, hours=24, start=timedelta(hours=40), purpose="Final frames for the opening, all night"
        )
        self.own_request = self.book(self.approver, hours=2, start=timedelta(hours=50))
        self.studio.concurrent_gpus = 4
        self.studio.save()

    def _find_cards(self) -> None:
        self.more_cards = (
            _card("0000:41:00.0", group=8),
            _card("0000:42:00.0", group=9, refusal="shares IOMMU group 9 with 0000:42:01.0"),
        )
        self.beat()

    def _withdraw_one(self) -> None:
        idle = Gpu.objects.filter(state="clean", holds=None).first()
        assert idle is not None
        fleet.withdraw_gpu(
            actor=self.actor(self.operator), gpu_id=idle.pk, reason="fan is loud; part ordered", now=self.now
        )

    def _plan_maintenance(self) -> None:
        starts_at = self.until.replace(hour=6, minute=0, second=0, microsecond=0) + timedelta(days=30)
        drain(
            actor=self.actor(self.operator), what=self.host.row, starts_at=starts_at,
            ends_at=starts_at + timedelta(hours=4), reason="new firmware", seen="", now=self.now,
        )  # fmt: skip
        self.closure = Closure.objects.get()

    def _name_people(self) -> None:
        names = {"ada": ("Ada", "Lindqvist"), "bob": ("Bob", "Okafor"), "approver": ("Petra", "Hahn")}
        for username, (first, last) in names.items():
            Person.objects.filter(username=username).update(first_name=first, last_name=last)
        for who in self.everybody().values():
            who.refresh_from_db()
            who.set_password(PASSWORD)
            who.timezone = "Europe/Berlin"
            who.save()

    def _offer_more(self) -> None:
        large = GpuModel.objects.create(
            slug="h100", name="H100", memory_mib=81920, vendor_device=VENDOR_DEVICE
        )
        self.pair = Flavor.objects.create(
            slug="train", name="Train 4×H100", description="training, one NUMA node", model=large, gpu_count=4
        )
        Rate.objects.create(
            flavor=self.pair, per_hour=Decimal("22"), currency="EUR", valid_from=self.now - timedelta(days=1)
        )
        Flavor.objects.filter(pk=self.flavor.pk).update(description="CAD, rendering")


def _card(address: str, *, group: int, refusal: str = "") -> m.CardFacts:
    return m.CardFacts(
        address=address, functions=(address,), iommu_group=group, name="Scripted A6000",
        memory_bytes=MEMORY_BYTES, numa_node=group % 2, fingerprint=fingerprint(address), refusal=refusal,
    )  # fmt: skip


def check_up(address: str) -> CheckUp:
    """A host almost in order: its doctor has something to say about it and about one card."""
    read = (f"/sys/bus/pci/devices/{address}", "as here")
    held = {"drivers": "nvidia", "holders": "Xwayland (812)"}
    checks = (
        found("pass", "cpu-virtualisation", "on", ("/proc/cpuinfo", "svm"), kind="AMD-V"),
        found("warn", "iommu-passthrough", "off", ("/proc/cmdline", "quiet")),
        found("pass", "iommu", "on", ("/sys/class/iommu", "ivhd0"), kind="AMD-Vi", units="ivhd0"),
        found("fail", "host-driver", "held", read, subject=address, **held),
        found("warn", "vfio-at-boot", "not-claimed", read, subject=address, ids="10de:2230,10de:1aef"),
        found("pass", "iommu-group", "alone", read, subject=address, group=20),
        found("skip", "resizable-bar", "fixed", read, subject=address, now=256),
        found("warn", "of-tomorrow", "leaking", read, subject=address, amount=3),
    )
    return CheckUp(simulated=False, checks=in_order(checks), left_out=1)
