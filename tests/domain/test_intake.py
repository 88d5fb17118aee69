"""What was proven clean is offered while the card is the same, was not away, and the kernel is the same."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from django.db import transaction
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from hosts.models import Gpu
from hosts.protocol import messages as m
from leasing import fleet
from leasing.cards import card_at, history_of, seal_of
from leasing.errors import WrongState
from leasing.fsck import run_checks
from leasing.fsck.lifecycles import clean_means_left_alone
from leasing.models import OutboxMessage
from leasing.readiness import is_ready
from tests.chosen import chosen
from tests.domain.test_first_lease import book, bring_up
from tests.world import World, fingerprint, inventory

pytestmark = pytest.mark.django_db
MINUTE = timedelta(minutes=1)
A, B = "0000:01:00.0", "0000:02:00.0"


@pytest.fixture
def world(db: None) -> World:
    return World(gpus=1)


def look(world: World, *addresses: str, kernel: str = "6.1", **changes: str) -> None:
    """The host reports its cards, which are as they were but for `changes`, under this kernel."""
    world.now += MINUTE
    seen = inventory(*addresses, machines=world.host.machines())
    cards = tuple(
        msgspec.structs.replace(card, fingerprint=msgspec.structs.replace(fingerprint(A), **changes))
        for card in seen.cards
    )
    world.host.say(msgspec.structs.replace(seen, cards=cards, kernel=kernel), at=world.now)


def gpu(world: World) -> Gpu:
    world.gpus[0].refresh_from_db()
    return world.gpus[0]


def readmit(world: World, *, accepted: str = "") -> None:
    fleet.readmit_gpu(
        actor=world.actor(world.operator), gpu_id=world.gpus[0].pk, accepted=accepted, now=world.now
    )


def take_in(world: World, **changes: Any) -> str:
    """The intake that the tick orders, and its evidence."""
    world.tick(after=MINUTE)
    world.scrub(world.host, gpu(world), **changes)
    return gpu(world).state


def life(world: World) -> list[str]:
    return [entry.action for entry in history_of(gpu(world))][::-1]


def test_a_card_is_first_offered_after_its_intake() -> None:
    world = World(gpus=0)
    world.host.inventory(A, at=world.now)
    card = world.host.row.found_cards.get()
    admitted = fleet.admit_gpu(
        actor=world.actor(world.operator), card_id=card.pk, model_id=world.model.pk, now=world.now
    )
    assert (admitted.state, admitted.card) == ("dirty", card)
    assert not is_ready(admitted, now=world.now)
    world.tick()
    world.scrub(world.host, admitted)
    admitted.refresh_from_db()
    assert is_ready(admitted, now=world.now)
    assert admitted.proven_kernel == "6.1"


def test_a_new_kernel_means_intake_again_and_it_is_ordered_by_itself(world: World) -> None:
    look(world, A, kernel="6.9")
    assert gpu(world).state == "dirty"
    assert gpu(world).state_reason == "It was proven clean under the kernel 6.1; its host runs 6.9 now."
    assert take_in(world, kernel="6.9") == "clean"
    assert run_checks(world.now) == []


def test_what_was_proven_under_the_old_kernel_is_proven_again(world: World) -> None:
    """A scrub that was under way when the host was restarted."""
    look(world, A, kernel="6.9")
    assert take_in(world, kernel="6.1") == "dirty"
    assert OutboxMessage.objects.filter(kind="intake", answered_at=None).count() == 0
    assert take_in(world, kernel="6.9") == "clean"


def test_a_new_kernel_leaves_a_running_lease_alone_and_its_release_is_the_intake(world: World) -> None:
    lease = book(world, hours=1)
    bring_up(world, lease)
    look(world, A, kernel="6.9")
    lease.refresh_from_db()
    assert (gpu(world).state, lease.state) == ("leased", "active")
    world.tick(after=timedelta(hours=1))
    world.host.say(m.MachineGone(lease_id=lease.pk), at=world.now, command=world.command(lease, "release"))
    world.scrub(world.host, gpu(world), lease=lease, kernel="6.9")
    assert gpu(world).state == "clean"


def test_a_lease_that_is_due_waits_for_the_intake(world: World) -> None:
    lease = book(world, hours=4)
    look(world, A, kernel="6.9")
    world.tick()
    lease.refresh_from_db()
    assert lease.state == "scheduled"
    take_in(world, kernel="6.9")
    world.tick()
    lease.refresh_from_db()
    assert lease.state == "provisioning"


def ordered(world: World, reason: str = "") -> m.Ordered:
    return m.Ordered(gpu_id=world.gpus[0].pk, tenure=0, action="scrub", by="leasehold-host", reason=reason)


def test_a_host_that_has_doubts_is_believed_and_its_reason_told(world: World) -> None:
    assert world.host.say(ordered(world, "The host was started anew."), at=world.now) == "applied"
    assert (gpu(world).state, gpu(world).state_reason) == ("dirty", "The host was started anew.")
    assert take_in(world) == "clean"


def test_a_clean_gpu_that_is_scrubbed_again_is_what_that_scrub_finds(world: World) -> None:
    """As when the host had doubts of its own while an intake was ordered: two scrubs, one after the other."""
    assert gpu(world).state == "clean"
    world.scrub(world.host, gpu(world), canaries_found=1)
    assert gpu(world).state == "quarantined"


def test_doubts_about_an_earlier_tenure_change_nothing(world: World) -> None:
    bring_up(world, book(world))
    assert world.host.say(ordered(world), at=world.now).startswith("stale")
    assert gpu(world).state == "leased"


def test_a_card_that_vanished_and_came_back_waits_for_an_operator(world: World) -> None:
    look(world)
    assert (gpu(world).state, gpu(world).state_reason) == ("missing", "The host no longer sees it.")
    look(world, A)
    world.tick(after=MINUTE)
    assert gpu(world).state == "missing"
    readmit(world)
    assert take_in(world) == "clean"
    told = life(world)
    expected = ["card.vanish", "gpu.vanish", "card.return", "gpu.readmit", "gpu.scrub", "gpu.pass"]
    assert [action for action in told[told.index("card.vanish") :] if action in expected] == expected


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rom_sha256": "cd" * 32}, "rom_sha256 was abababababab…, is cdcdcdcdcdcd…"),
        ({"firmware": "revision b0"}, "firmware was unknown, is revision b0"),
        ({"serial": "S9"}, "serial was S-0000:01:00.0, is S9"),
    ],
)
def test_a_card_that_changed_comes_back_only_by_who_has_looked_at_it(
    world: World, changes: dict[str, str], told: str
) -> None:
    look(world, A, **changes)
    assert gpu(world).state == "quarantined"
    assert told in gpu(world).state_reason
    with pytest.raises(WrongState, match="not what it was") as refused:
        readmit(world)
    assert refused.value.code == "card-changed"
    with pytest.raises(WrongState):
        readmit(world, accepted=seal_of(gpu(world).fingerprint))
    assert gpu(world).state == "quarantined"
    card = card_at(gpu(world))
    assert card is not None
    readmit(world, accepted=seal_of(card.fingerprint))
    entry = history_of(gpu(world)).filter(action="gpu.readmit").get()
    assert '"before"' in entry.text
    now = msgspec.structs.replace(fingerprint(A), **changes)
    assert take_in(world, fingerprint_before=now, fingerprint_after=now) == "clean"
    assert run_checks(world.now) == []


def test_a_changed_card_does_not_pass_an_intake_that_nobody_accepted(world: World) -> None:
    """It changed while it was dirty, and its host has not reported that yet."""
    look(world, A, kernel="6.9")
    now = msgspec.structs.replace(fingerprint(A), rom_sha256="cd" * 32)
    assert take_in(world, kernel="6.9", fingerprint_before=now, fingerprint_after=now) == "quarantined"


def test_another_kind_of_card_is_not_accepted(world: World) -> None:
    look(world, A, vendor_device="10de:1111")
    card = card_at(gpu(world))
    assert card is not None
    with pytest.raises(WrongState, match="Another kind of card"):
        readmit(world, accepted=seal_of(card.fingerprint))


def test_a_card_in_another_slot_is_taken_where_it_is(world: World) -> None:
    look(world, B)
    assert (gpu(world).state, gpu(world).state_reason) == ("missing", f"Its card is at {B} now.")
    readmit(world)
    assert gpu(world).address == B
    assert take_in(world, fingerprint_before=fingerprint(A), fingerprint_after=fingerprint(A)) == "clean"
    assert run_checks(world.now) == []


class NeverSilentlyOffered(RuleBasedStateMachine):
    """Cards come, go and change, kernels too, and scrubs pass: what is clean was proven so since."""

    def __init__(self) -> None:
        super().__init__()
        self.atomic = transaction.atomic()
        self.atomic.__enter__()
        self.world = World(gpus=1)
        self.changes: dict[str, str] = {}
        self.kernel, self.present = "6.1", True
        self.proven, self.known = True, dict(self.changes)

    def teardown(self) -> None:
        """Each history is undone at its end."""
        transaction.set_rollback(True)
        self.atomic.__exit__(None, None, None)

    @rule(rom=st.sampled_from(["ab", "cd"]), serial=st.sampled_from(["S1", "S2"]))
    def change(self, rom: str, serial: str) -> None:
        changes = {"rom_sha256": rom * 32, "serial": serial}
        if changes != self.changes:
            self.changes, self.proven = changes, False
        self.look()

    @rule(present=st.booleans())
    def go_or_come(self, present: bool) -> None:
        self.proven = self.proven and present
        self.present = present
        self.look()

    @rule(kernel=st.sampled_from(["6.1", "6.2"]))
    def boot(self, kernel: str) -> None:
        self.proven = self.proven and kernel == self.kernel
        self.kernel = kernel
        self.look()

    def look(self) -> None:
        look(self.world, *([A] if self.present else []), kernel=self.kernel, **self.changes)

    @rule()
    def doubt(self) -> None:
        self.world.host.say(ordered(self.world), at=self.world.now)
        self.proven = False

    @rule(accept=st.booleans())
    def readmit(self, accept: bool) -> None:
        card = card_at(gpu(self.world))
        try:
            readmit(self.world, accepted=seal_of(card.fingerprint) if card and accept else "")
        except WrongState:
            return
        assert accept or not card or card.fingerprint == gpu(self.world).fingerprint
        self.known = dict(self.changes)

    @rule()
    def scrub(self) -> None:
        """The host answers with what the card is now, if it is there."""
        if not self.present:
            return
        now = msgspec.structs.replace(fingerprint(A), **self.changes)
        before = gpu(self.world).state
        state = take_in(self.world, kernel=self.kernel, fingerprint_before=now, fingerprint_after=now)
        if before in ("dirty", "scrubbing") and state == "clean":
            assert self.changes == self.known
            self.proven = True

    @invariant()
    def clean_was_earned(self) -> None:
        found = gpu(self.world)
        assert found.state != "clean" or self.proven
        assert not is_ready(found, now=self.world.now) or self.proven
        assert not list(clean_means_left_alone(self.world.now))


def test_whatever_happens_to_a_card_it_is_never_silently_offered(db: None) -> None:
    run_state_machine_as_test(
        NeverSilentlyOffered,
        settings=chosen(6, stateful_step_count=8),
    )
