"""Every check of fsck: silent on a system that has worked for a while, loud on each way of breaking it."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.db.models import F
from django.test import override_settings
from pytest_django import DjangoDbBlocker, Settings

from hosts.models import Division, FoundCard, Gpu, Host, ReceivedReport, StoragePool, UsbDevice
from hosts.protocol import messages as m
from leasing import policy
from leasing.actors import SYSTEM
from leasing.billing.closing import close_month
from leasing.console import admit_browser, open_console
from leasing.feeds.keeping import create_feed, revoke_feed
from leasing.fsck import CHECKS, run_checks, words_of
from leasing.guards import guards_of
from leasing.models import (
    AuditEntry,
    CalendarFeed,
    ConsoleSession,
    Hold,
    HomeVolume,
    Image,
    Invoice,
    InvoiceLine,
    LeaseDevice,
    MonthClose,
    NumberSeries,
    Opening,
    OutboxMessage,
    ScrubRecord,
    Series,
    Snapshot,
    StoredImage,
    UsageSegment,
    WaitlistEntry,
)
from leasing.recurrence import days_of
from tests.domain.story import HOUR, Story
from tests.world import World

pytestmark = pytest.mark.django_db


def test_an_empty_system_is_in_order() -> None:  # before the story is told
    assert run_checks(World(gpus=0).now) == []


@pytest.fixture(scope="module")
def told(
    django_db_setup: None,
    django_db_blocker: DjangoDbBlocker,
    signing_key_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Story, Path]]:
    """The story and its anchor, told once: each test breaks it inside a savepoint of its own."""
    anchor = tmp_path_factory.mktemp("story") / "anchors.jsonl"
    files = override_settings(SIGNING_KEY_FILE=signing_key_file, AUDIT_ANCHOR_FILE=anchor)
    with django_db_blocker.unblock(), transaction.atomic():
        with files:
            story = Story()
        yield story, anchor
        transaction.set_rollback(True)


@pytest.fixture
def story(told: tuple[Story, Path], db: None, settings: Settings) -> Story:
    story, anchor = told
    shutil.copy(anchor, settings.AUDIT_ANCHOR_FILE)
    return copy.deepcopy(story)


def test_nothing_is_found_where_nothing_is_wrong(story: Story) -> None:
    states = [lease.state for lease in (story.over, story.running, story.auto, story.approved, story.asked)]
    assert states == ["ended", "active", "provisioning", "scheduled", "requested"]
    assert run_checks(story.world.now) == []


def boot_another_kernel(story: Story) -> None:
    Host.objects.update(kernel="6.9")


def pull_a_card(story: Story) -> None:
    FoundCard.objects.update(gone_at=story.world.now)


def swap_a_card(story: Story) -> None:
    for card in FoundCard.objects.all():
        card.fingerprint["serial"] = "another"
        card.save()


Damage = Callable[[Story], object]


def lose_a_guard(s: Story) -> None:
    guard = guards_of(connection)[-1]
    on_table = f" ON {guard.table}" if connection.vendor == "postgresql" else ""
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TRIGGER {guard.name}{on_table}")


def overlap_two_holds(s: Story) -> None:
    s.unguard()
    Hold.objects.filter(lease=s.approved).update(gpu=s.gpu)


def lose_an_opening(s: Story) -> None:
    Opening.objects.filter(block__host=s.gpu.host).order_by("-ends").first().delete()  # type: ignore[union-attr]


def lose_a_hold(s: Story) -> None:
    Hold.objects.filter(lease=s.running).delete()


def plug_one_device_into_two(s: Story) -> None:
    device = UsbDevice.objects.create(host=s.world.host.row, usb_id="056a:0357", port="1-2")
    for lease in (s.approved, s.asked):
        LeaseDevice.objects.create(lease=lease, device=device)


def exceed_the_limit(s: Story) -> None:
    """As if the third booking had not asked for approval."""
    s.unguard()
    for lease in (s.approved, s.asked):
        entry = AuditEntry.objects.get(subject=f"lease:{lease.pk}", action="lease.request")
        text = entry.text.replace('"to":"requested"', '"to":"scheduled"')
        AuditEntry.objects.filter(pk=entry.pk).update(text=text)


def approve_oneself(s: Story) -> None:
    s.unguard()
    entry = AuditEntry.objects.get(subject=f"lease:{s.approved.pk}", action="lease.approve")
    AuditEntry.objects.filter(pk=entry.pk).update(text=entry.text.replace('"approver"', '"ada"'))


def forget_who_decided(s: Story) -> None:
    s.only(s.approved, decided_by=None)


def forget_what_was_left_out(s: Story) -> None:
    Series.objects.update(left_out=[])


def leave_out_what_is_booked(s: Story) -> None:
    Series.objects.update(left_out=[str(day) for day in days_of(s.series.pattern)])


def book_on_another_day(s: Story) -> None:
    Series.objects.update(first_on=F("last_on"))


def give_a_date_to_somebody_else(s: Story) -> None:
    s.series.leases.update(owner=s.world.bob)


def lose_a_scrub_record(s: Story) -> None:
    s.unguard()
    ScrubRecord.objects.filter(gpu=s.gpu).delete()


def _change_evidence(s: Story, change: Callable[[dict[str, Any]], object]) -> None:
    s.unguard()
    record = ScrubRecord.objects.filter(gpu=s.gpu, passed=True).latest("id")
    change(record.evidence)
    ScrubRecord.objects.filter(pk=record.pk).update(evidence=record.evidence)


def pass_by_an_unproven_method(s: Story) -> None:
    _change_evidence(s, lambda evidence: evidence["methods"][0].update(proven=False))


def pass_by_a_claim(s: Story) -> None:
    _change_evidence(s, lambda evidence: evidence["methods"][0].update(kind="claim"))


def pass_without_a_witness(s: Story) -> None:
    _change_evidence(s, lambda evidence: evidence.update(witness=None))


def pass_with_something_left(s: Story) -> None:
    _change_evidence(s, lambda evidence: evidence["witness"].update(canaries_found=1))


def change_the_evidence(s: Story) -> None:
    s.unguard()
    record = ScrubRecord.objects.filter(gpu=s.gpu).latest("id")
    ScrubRecord.objects.filter(pk=record.pk).update(evidence=record.evidence | {"kernel": "another"})


def fail_a_scrub_afterwards(s: Story) -> None:
    s.unguard()
    ScrubRecord.objects.filter(gpu=s.gpu).update(passed=False)


def hand_over_twice(s: Story) -> None:
    Hold.objects.filter(lease=s.running).update(tenure=F("tenure") + 1)


def change_a_lease_behind_the_log(s: Story) -> None:
    s.only(s.running, state="releasing")


def change_a_gpu_behind_the_log(s: Story) -> None:
    Gpu.objects.filter(pk=s.gpu.pk).update(state="clean")


def back_date_a_state(s: Story) -> None:
    s.only(s.running, state_since=s.running.state_since - HOUR)


def write_an_entry_too_many(s: Story) -> None:
    s.told(f"lease:{s.running.pk}", "lease.running", **{"from": "provisioning", "to": "active"})


def write_an_impossible_step(s: Story) -> None:
    s.told(f"lease:{s.running.pk}", "lease.gone", **{"from": "active", "to": "ended"})
    s.only(s.running, state="ended", outcome="completed", machine="gone", state_since=s.world.now)


def divide_a_card_that_serves(s: Story) -> None:
    gpu = Gpu.objects.filter(state="clean")[0]
    now = s.world.now
    Division.objects.create(gpu=gpu, profile="vf", count=2, model=gpu.model, ordered_at=now, changed_at=now)


def delete_a_gpu(s: Story) -> None:
    spare = Gpu.objects.exclude(pk__in=Hold.objects.values("gpu"))
    s.unguard()
    ScrubRecord.objects.filter(gpu__in=spare).delete()
    spare.delete()


def slip_in_a_gpu(s: Story) -> None:
    gpu = Gpu.objects.exclude(pk__in=Hold.objects.values("gpu")).first()
    assert gpu is not None
    gpu.pk, gpu.address = Host().pk, "0000:77:00.0"
    gpu.save(force_insert=True)


def rewrite_an_entry(s: Story) -> None:
    s.unguard()
    AuditEntry.objects.filter(action="host.enrol").update(text="{}")


def bill_too_long(s: Story) -> None:
    UsageSegment.objects.filter(lease=s.over, cause="use").update(ends_at=F("ends_at") + HOUR)


def bill_too_dear(s: Story) -> None:
    UsageSegment.objects.filter(lease=s.running).update(rate_per_hour=Decimal("99"))


def forget_to_bill(s: Story) -> None:
    UsageSegment.objects.filter(lease=s.running).delete()


def hide_an_overrun(s: Story) -> None:
    UsageSegment.objects.filter(lease=s.over, cause="overrun").delete()


def bill_what_never_ran(s: Story) -> None:
    UsageSegment.objects.create(
        tenant=s.approved.tenant,
        lease=s.approved,
        person=s.approved.owner,
        starts_at=s.world.now,
        rate_per_hour=Decimal(1),
        currency="EUR",
    )


def close_the_books(s: Story) -> Invoice:
    s.unguard()
    april = datetime(2026, 4, 1, 12, tzinfo=UTC)
    (invoice,) = close_month(actor=SYSTEM, tenant=s.world.studio, name="2026-03", now=april).invoices
    assert not [one for one in run_checks(april) if one.check in ("invoices", "numbers", "bills", "usage")]
    return invoice


def pad_an_invoice(s: Story) -> None:
    close_the_books(s)
    Invoice.objects.update(net=F("net") + 1, gross=F("gross") + 1)


def forget_the_tax(s: Story) -> None:
    close_the_books(s)
    Invoice.objects.update(tax_percent=19)


def stretch_a_line(s: Story) -> None:
    close_the_books(s)
    InvoiceLine.objects.update(ends_at=F("ends_at") + HOUR)


def skip_a_number(s: Story) -> None:
    close_the_books(s)
    NumberSeries.objects.update(last=F("last") + 1)


def double_the_rate_everywhere(s: Story) -> None:
    """Nothing in the tables tells: only the log."""
    invoice = close_the_books(s)
    UsageSegment.objects.exclude(line=None).update(rate_per_hour=F("rate_per_hour") * 2)
    InvoiceLine.objects.update(rate_per_hour=F("rate_per_hour") * 2, amount=F("amount") * 2)
    Invoice.objects.update(net=invoice.net * 2, gross=invoice.net * 2)


def close_without_a_word(s: Story) -> None:
    now = s.world.now
    MonthClose.objects.create(
        tenant=s.world.studio, month="2026-02", starts_at=now - HOUR, ends_at=now, closed_at=now
    )


def owe_a_credit(s: Story) -> None:
    invoice = close_the_books(s)
    line = invoice.lines.first()
    assert line is not None
    s.told(
        "outage:1", "outage.record", starts_at=line.starts_at, ends_at=line.ends_at,
        gpus=[], model=s.world.model.slug, reason="",
    )  # fmt: skip


def forge_a_report(s: Story) -> None:
    s.unguard()
    first, second = ReceivedReport.objects.order_by("pk")[:2]
    ReceivedReport.objects.filter(pk=first.pk).update(envelope=second.envelope)


def skip_a_report(s: Story) -> None:
    Host.objects.update(applied_sequence=F("applied_sequence") + 1)


def keep_a_machine(s: Story) -> None:
    s.only(s.over, machine="running")


def lose_a_machine(s: Story) -> None:
    s.only(s.running, machine="none")


def report_a_machine_too_many(s: Story) -> None:
    _inventory(s, m.MachineFacts(name="ws-1", state="running", lease_id=s.over.pk))


def report_a_machine_too_few(s: Story) -> None:
    _inventory(s)
    s.only(s.running, active_at=s.world.now - HOUR)


def _inventory(s: Story, *machines: m.MachineFacts) -> None:
    s.world.now += timedelta(seconds=1)
    facts = m.Inventory(
        cards=(),
        machines=machines,
        cpu_count=16,
        memory_mib=65536,
        disk_gib=1000,
        kernel="6.1",
        worker_version="test",
        simulated=True,
    )
    Gpu.objects.update(state="maintenance")
    s.world.host.say(facts, at=s.world.now)


def leave_a_console_open(s: Story) -> None:
    _open_console(s)
    ConsoleSession.objects.update(lease=s.over)


def leave_a_command_unanswered(s: Story) -> None:
    OutboxMessage.objects.filter(lease=s.over, kind="release").update(answered_at=None)


def order_a_machine_twice(s: Story) -> None:
    order = OutboxMessage.objects.get(lease=s.running, kind="provision")
    order.pk = Host().pk
    order.save(force_insert=True)


def act_on_an_old_tenure(s: Story) -> None:
    s.told(f"gpu:{s.gpu.pk}", "gpu.release", **{"from": "leased", "to": "dirty", "tenure": 0})


def _open_console(s: Story) -> None:
    opened = open_console(
        actor=s.world.actor(s.world.ada), lease_id=s.running.pk, session_key="k", now=s.world.now
    )
    assert admit_browser(ticket=opened.ticket, session_key="k", now=s.world.now)


def revoke_under_an_open_console(s: Story) -> None:
    _open_console(s)
    assert "consoles" not in {finding.check for finding in run_checks(s.world.now)}
    policy.revoke_role(
        actor=SYSTEM, person=s.world.ada, tenant=s.world.studio, role="member", now=s.world.now
    )


def lose_the_hold_of_an_offer(s: Story) -> None:
    s.only(s.claimed, state="offered", decide_by=s.world.now + HOUR)
    Hold.objects.filter(lease=s.claimed).delete()


def offer_for_too_long(s: Story) -> None:
    s.only(s.claimed, state="offered", decide_by=s.world.now - timedelta(minutes=2))


def change_how_waiting_ended(s: Story) -> None:
    WaitlistEntry.objects.filter(pk=s.first.pk).update(outcome="left")


def slip_into_the_line(s: Story) -> None:
    s.second.pk = None
    s.second.save(force_insert=True)


def forget_for_whom_it_is_kept(s: Story) -> None:
    WaitlistEntry.objects.filter(pk=s.second.pk).update(kept_from=None)


def keep_nothing(s: Story) -> None:
    s.second.kept_gpus.clear()


def give_back_without_a_word(s: Story) -> None:
    s.told(f"lease:{s.running.pk}", "lease.end", unused=True, **{"from": "active", "to": "releasing"})


def give_back_what_was_used(s: Story) -> None:
    s.told(f"lease:{s.running.pk}", "console.open")
    give_back_without_a_word(s)


def bill_what_nobody_kept(s: Story) -> None:
    volume = HomeVolume.objects.create(
        tenant=s.world.studio,
        person=s.world.ada,
        pool=StoragePool.objects.create(name="studio"),
        size_gib=50,
        state="detached",
        state_since=s.world.now,
        created_at=s.world.now,
    )
    UsageSegment.objects.create(
        tenant=s.world.studio,
        volume=volume,
        person=s.world.ada,
        starts_at=s.world.now,
        rate_per_hour=Decimal(1),
        currency="EUR",
        cause="stored",
    )


def attach_a_home_to_what_has_ended(s: Story) -> None:
    pool = StoragePool.objects.create(name="studio")
    HomeVolume.objects.create(
        tenant=s.world.studio,
        person=s.world.bob,
        pool=pool,
        size_gib=1,
        state="attached",
        state_since=s.world.now,
        lease=s.over,
        created_at=s.world.now,
    )


def await_a_snapshot_of_what_has_ended(s: Story) -> None:
    Snapshot.objects.create(
        tenant=s.world.studio,
        person=s.world.ada,
        pool=StoragePool.objects.create(name="studio"),
        lease=s.over,
        image=s.over.image,
        size_gib=1,
        state="taking",
        state_since=s.world.now,
        created_at=s.world.now,
    )


def bring_back_a_revoked_feed(s: Story) -> None:
    actor = s.world.actor(s.world.ada)
    feed = create_feed(actor=actor, name="mine", now=s.world.now).row
    assert "feeds" not in {finding.check for finding in run_checks(s.world.now)}
    feed_id = feed.pk
    revoke_feed(actor=actor, feed_id=feed_id, now=s.world.now)
    feed.pk = feed_id
    feed.save(force_insert=True)


def give_a_feed_to_somebody_else(s: Story) -> None:
    create_feed(actor=s.world.actor(s.world.ada), name="mine", now=s.world.now)
    CalendarFeed.objects.update(person=s.world.bob)


def retire_in_passing(s: Story) -> None:
    Host.objects.update(retired_at=s.world.now)


def offer_what_was_never_stored(story: Story) -> None:
    stored = StoredImage.objects.create(
        digest="5e" * 32, name="slipped-in", size=1, data=1, source_digest="5e" * 32,
        created_at=story.world.now,
    )  # fmt: skip
    Image.objects.filter(pk=story.world.image.pk).update(stored=stored)


@pytest.mark.parametrize(
    ("damage", "check", "words"),
    [
        (lose_a_guard, "guards", "is missing, disabled or altered"),
        (overlap_two_holds, "holds", "begins before the last one ends"),
        (lose_an_opening, "openings", "openings are missing or wrong"),
        (lose_a_hold, "placement", "0 holds do not match"),
        (plug_one_device_into_two, "devices", "has a USB device at the same time as"),
        (plug_one_device_into_two, "devices", "of another host"),
        (exceed_the_limit, "limits", "gpus came to 3; 2 need no decision"),
        (approve_oneself, "limits", "was approved by ada, who may not"),
        (forget_who_decided, "limits", "does not name the person who decided"),
        (forget_what_was_left_out, "series", "has neither a lease for 2026-03-10 nor was it left out"),
        (leave_out_what_is_booked, "series", "has a lease for 2026-03-09, which was left out"),
        (book_on_another_day, "series", "has a lease for 2026-03-09, which is none of its dates"),
        (give_a_date_to_somebody_else, "series", "is not of the tenant, person, flavor and image"),
        (give_back_without_a_word, "unused", "without a warning in time"),
        (give_back_what_was_used, "unused", "but was used"),
        (lose_a_scrub_record, "clean", "was handed over as tenure 1 without a passed scrub"),
        (fail_a_scrub_afterwards, "evidence", "without a passed scrub"),
        (pass_by_an_unproven_method, "proof", "without a method that is proven"),
        (pass_by_a_claim, "proof", "without a method that is proven"),
        (pass_without_a_witness, "proof", "without a witness that is proven"),
        (pass_with_something_left, "proof", "although something was left"),
        (change_the_evidence, "scrubs", "its evidence_sha256 is not what the audit log says"),
        (fail_a_scrub_afterwards, "scrubs", "its passed is not what the audit log says"),
        (lose_a_scrub_record, "scrubs", "is gone"),
        (hand_over_twice, "clean", "no hand-over to lease"),
        (change_a_lease_behind_the_log, "states", "is releasing, but the audit log leads to active"),
        (change_a_gpu_behind_the_log, "states", "is clean, but the audit log leads to leased"),
        (back_date_a_state, "states", "by the audit log since"),
        (write_an_entry_too_many, "states", "went from provisioning by running, but was active"),
        (write_an_impossible_step, "states", "from active to ended by gone: there is no such step"),
        (delete_a_gpu, "states", "is in the audit log and not in the database"),
        (slip_in_a_gpu, "states", "is in the database and not in the audit log"),
        (rewrite_an_entry, "audit", "its text is not what was sealed"),
        (boot_another_kernel, "intake", "is clean, proven under 6.1, and its host runs 6.9"),
        (pull_a_card, "intake", "is clean, and its host does not see it"),
        (swap_a_card, "intake", "its card is another: serial was"),
        (bill_too_long, "usage", "did not happen"),
        (bill_too_dear, "usage", "at 3.8000 EUR is not recorded"),
        (forget_to_bill, "usage", "is not recorded"),
        (hide_an_overrun, "usage", "its overrun from"),
        (bill_what_never_ran, "usage", "did not happen"),
        (pad_an_invoice, "invoices", "its lines come to"),
        (forget_the_tax, "invoices", "its tax of 0.00 is not 19.00 per cent"),
        (stretch_a_line, "invoices", "is not the segment that it bills"),
        (skip_a_number, "numbers", "has 1 numbers, the last"),
        (double_the_rate_everywhere, "bills", "should not be on it"),
        (close_without_a_word, "bills", "is closed in the log or in the table"),
        (owe_a_credit, "bills", "less is due than invoice"),
        (forge_a_report, "reports", "is not the report that its columns say it is"),
        (skip_a_report, "reports", "were applied"),
        (keep_a_machine, "machines", "is ended and its machine is running"),
        (lose_a_machine, "machines", "is active and its machine is none"),
        (report_a_machine_too_many, "machines", "still has its machine"),
        (report_a_machine_too_few, "machines", "does not have its machine"),
        (retire_in_passing, "retired", "is leased on a host that is retired"),
        (retire_in_passing, "retired", "is booked on a host that is retired"),
        (keep_a_machine, "leftovers", "without a report that its machine is gone"),
        (leave_a_console_open, "leftovers", "is still open"),
        (leave_a_command_unanswered, "leftovers", "its command “release” was never answered"),
        (order_a_machine_twice, "once", "its machine was ordered 2 times"),
        (write_an_entry_too_many, "once", "came up for the first time 2 times"),
        (act_on_an_old_tenure, "tenures", "release of tenure 0 in tenure"),
        (divide_a_card_that_serves, "slices", "serves while its card is divided"),
        (lose_the_hold_of_an_offer, "offers", "is offered with 0 GPUs on 0 hosts"),
        (offer_for_too_long, "offers", "is still offered, which it was until"),
        (offer_for_too_long, "offers", "is offered to somebody who does not wait"),
        (change_how_waiting_ended, "waitlist", "is left, which the audit log does not say"),
        (slip_into_the_line, "waitlist", "is open, which the audit log does not say"),
        (forget_for_whom_it_is_kept, "kept", "is kept for an entry that does not know of it"),
        (keep_nothing, "kept", "is kept, but not its own GPUs"),
        (revoke_under_an_open_console, "consoles", "may not use the console"),
        (await_a_snapshot_of_what_has_ended, "snapshots", "is ended"),
        (await_a_snapshot_of_what_has_ended, "snapshots", "nothing opens it"),
        (attach_a_home_to_what_has_ended, "homes", "which is ended"),
        (attach_a_home_to_what_has_ended, "homes", "which may not have it"),
        (attach_a_home_to_what_has_ended, "homes", "on a host of another pool"),
        (bill_what_nobody_kept, "storage", "the log knows nothing of it"),
        (attach_a_home_to_what_has_ended, "states", "is in the database and not in the audit log"),
        (bring_back_a_revoked_feed, "feeds", "has been revoked"),
        (give_a_feed_to_somebody_else, "feeds", "was not made by its person"),
        (offer_what_was_never_stored, "images", "is not in the store"),
        (offer_what_was_never_stored, "images", "was not put into the store by a conversion"),
        (offer_what_was_never_stored, "images", "has another digest than its file"),
    ],
)
def test_damage_is_found(story: Story, damage: Damage, check: str, words: str) -> None:
    damage(story)
    found = [finding.problem for finding in run_checks(story.world.now) if finding.check == check]
    assert [problem for problem in found if words in problem], found


def test_every_check_has_words_and_is_tried_above() -> None:
    mark = test_damage_is_found.pytestmark[0]  # type: ignore[attr-defined]
    assert {check for _, check, _ in mark.args[1]} == set(CHECKS)
    assert all(words_of(name) for name in CHECKS)


def run(*options: str) -> str:
    out = StringIO()
    call_command("fsck", *options, stdout=out)
    return out.getvalue()


def test_the_command_prints_a_table(story: Story) -> None:
    lines = run().splitlines()
    assert len(lines) == len(CHECKS)
    assert lines[1].split() == ["holds", "ok", *["No", "two", "holds", "of", "one", "GPU", "overlap"]]


def test_the_command_fails_and_names_what_it_found(story: Story) -> None:
    forget_to_bill(story)
    out = StringIO()
    with pytest.raises(SystemExit, match="1"):
        call_command("fsck", stdout=out)
    assert f"lease:{story.running.pk}: its use from" in out.getvalue()


def test_the_command_speaks_json(story: Story) -> None:
    assert json.loads(run("--json")) == {"checks": list(CHECKS), "findings": []}
    forget_to_bill(story)
    out = StringIO()
    with pytest.raises(SystemExit):
        call_command("fsck", "--json", stdout=out)
    (finding,) = json.loads(out.getvalue())["findings"]
    assert (finding["check"], finding["subject"]) == ("usage", f"lease:{story.running.pk}")
