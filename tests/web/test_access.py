"""Who may reach what: every address of the portal, with the answer for every role."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.messages import ERROR, get_messages
from django.db import transaction
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from knox.models import AuthToken

from hosts.models import StoragePool
from leasing import policy
from leasing.actors import SYSTEM
from leasing.billing.closing import close_month
from leasing.billing.months import month_of
from leasing.emergency import preview_stop, stop
from leasing.enrolment.tokens import make_token
from leasing.feeds.keeping import NewFeed, create_feed
from leasing.imaging.uploads import begin_upload
from leasing.membership.invitations import invite
from leasing.models import AuditEntry, HomeReading, HomeVolume, Invitation, Lease, Notification
from leasing.quotas import set_quota
from leasing.ssh_keys import add_ssh_key
from leasing.together.handing_over import accept_lease, offer_lease
from leasing.together.sharing import share_lease
from tests.web.conftest import SignIn, new_client
from tests.web.scenes import Scene

ROLES = ("nobody", "ada", "bob", "approver", "finance", "operator", "auditor", "money", "stranger")
Arguments = Callable[[Scene], dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """An address, how it is asked, and what each role gets; those not named get `others`."""

    name: str
    codes: str = ""
    others: int = 404
    method: str = "get"
    body: tuple[tuple[str, Any], ...] = ()
    arguments: Arguments = lambda _scene: {}
    query: str = ""
    nobody: int = 0

    def expected(self, role: str) -> int:
        if role == "nobody":
            return self.nobody or (401 if self.name.startswith("api-") else 302)
        told = dict(pair.split("=") for pair in self.codes.split())
        return int(told.get(role, self.others))

    def __str__(self) -> str:
        return f"{self.method} {self.name}{self.query}"


def lease(name: str) -> Arguments:
    return lambda scene: {"lease_id": getattr(scene, name).pk}


def series(scene: Scene) -> dict[str, Any]:
    return {"series_id": scene.series.pk}


def unknown(parameter: str) -> Arguments:
    return lambda _scene: {parameter: uuid4()}


def looked_into(scene: Scene) -> dict[str, Any]:
    """Ada has looked into a folder of her home volume."""
    pool, _ = StoragePool.objects.get_or_create(name="studio")
    whose = {"tenant": scene.studio, "person": scene.ada, "pool": pool}
    since = {"created_at": scene.now, "state_since": scene.now, "made_at": scene.now}
    volume, _ = HomeVolume.objects.get_or_create(
        **whose, defaults={"size_gib": 50, "state": "detached", **since}
    )
    entries = [
        {"name": "renders", "kind": "folder", "size": 4096, "changed_at": 1_790_000_000},
        {"name": f"{'0042' * 20}&.exr", "kind": "file", "size": 9, "changed_at": 0},
    ]
    told = {
        "person": scene.ada, "host": scene.host.row, "wanted": "list", "path": "/shots/opening",
        "created_at": scene.now, "expires_at": scene.now, "ended_at": scene.now, "was_clean": False,
        "listing": {"entries": entries, "more": True, "unnamed": 2},
    }  # fmt: skip
    reading, _ = HomeReading.objects.get_or_create(volume=volume, defaults=told)
    return {"reading_id": reading.pk}


def gpu(name: str) -> Arguments:
    return lambda scene: {"gpu_id": scene.quarantined.pk if name == "quarantined" else clean_gpu(scene)}


def entry(scene: Scene) -> dict[str, Any]:
    """One with an offer."""
    return {"entry_id": scene.wait_in_line()[0].pk}


def waiting(scene: Scene) -> dict[str, Any]:
    """One without."""
    return {"entry_id": scene.wait_in_line()[1].pk}


def clean_gpu(scene: Scene) -> Any:
    return next(gpu.pk for gpu in scene.gpus if type(gpu).objects.get(pk=gpu.pk).state == "clean")


def host(scene: Scene) -> dict[str, Any]:
    return {"host_id": scene.host.row.pk}


def closure(scene: Scene) -> dict[str, Any]:
    return {"closure_id": scene.closure.pk}


def gpu_model(scene: Scene) -> dict[str, Any]:
    return {"slug": scene.model.slug}


def team(scene: Scene) -> dict[str, Any]:
    return {"slug": scene.studio.slug}


def upload(scene: Scene) -> dict[str, Any]:
    facts: dict[str, Any] = {"file_name": "debian.raw", "format": "raw", "size": 1}
    return {"upload_id": begin_upload(actor=scene.actor(scene.operator), now=scene.now, **facts).pk}


def invoice(scene: Scene) -> dict[str, Any]:
    """Over this month, as if it were over."""
    later = month_of(scene.now, scene.studio.timezone).ends_at
    name = month_of(scene.ended.starts_at, scene.studio.timezone).name
    closed = close_month(actor=SYSTEM, tenant=scene.studio, name=name, now=later)
    return {"invoice_id": closed.invoices[0].pk}


def month_of_team(scene: Scene) -> dict[str, Any]:
    return {"slug": scene.studio.slug, "month": "2026-01"}


def flavor(scene: Scene) -> dict[str, Any]:
    return {"slug": scene.flavor.slug}


def stopped(scene: Scene) -> dict[str, Any]:
    actor, asked = scene.actor(scene.operator), {"scope": "tenant", "name": "studio"}
    found = preview_stop(actor=actor, **asked)
    made = stop(
        actor=actor, bookings=True, machines=False, reason="smoke", typed=found.typed, seen=found.seen,
        now=datetime.now(UTC), **asked,
    )  # fmt: skip
    return {"stop_id": made.pk}


def image(scene: Scene) -> dict[str, Any]:
    return {"image_id": scene.image.pk}


def card(scene: Scene) -> dict[str, Any]:
    return {"card_id": scene.host.row.found_cards.get(address="0000:41:00.0").pk}


def token(scene: Scene) -> dict[str, Any]:
    return {"token_key": AuthToken.objects.create(scene.ada)[0].token_key}


def feed(scene: Scene) -> dict[str, Any]:
    return {"feed_id": _new_feed(scene).row.pk}


def feed_secret(scene: Scene) -> dict[str, Any]:
    return {"secret": _new_feed(scene).secret}


def ssh_key(scene: Scene) -> dict[str, Any]:
    row = add_ssh_key(actor=scene.actor(scene.ada), line=NEW_KEY["key"], now=scene.now)
    return {"key_id": row.pk}


def _new_feed(scene: Scene) -> NewFeed:
    return create_feed(actor=scene.actor(scene.ada), name="mine", now=scene.now)


def share(scene: Scene) -> dict[str, Any]:
    """What ada lets a colleague use."""
    made = share_lease(
        actor=scene.actor(scene.ada), lease_id=scene.active.pk, username="approver", level="use",
        now=datetime.now(UTC),
    )  # fmt: skip
    return {"share_id": made.pk}


def offer(scene: Scene) -> dict[str, Any]:
    """What ada wants to hand over to a colleague."""
    made = offer_lease(
        actor=scene.actor(scene.ada), lease_id=scene.active.pk, username="approver", now=datetime.now(UTC)
    )
    return {"hand_over_id": made.pk}


def asked_over(scene: Scene) -> dict[str, Any]:
    """The same, and outside the colleague's limits: an approver is asked."""
    now, taker = datetime.now(UTC), scene.finance
    policy.grant_role(actor=SYSTEM, person=taker, tenant=scene.studio, role="member", now=now)
    set_quota(
        actor=SYSTEM, tenant=scene.studio, person=taker, kind="gpu-hours", value=Decimal(0), now=now
    )  # fmt: skip
    made = offer_lease(
        actor=scene.actor(scene.ada), lease_id=scene.active.pk, username=taker.username, now=now
    )
    accept_lease(actor=scene.actor(taker), hand_over_id=made.pk, now=now)
    return {"hand_over_id": made.pk}


def notice(scene: Scene) -> dict[str, Any]:
    return {"number": Notification.objects.filter(recipient=scene.ada).latest("pk").pk}


def invitation(scene: Scene) -> dict[str, Any]:
    return {"slug": scene.studio.slug, "invitation_id": _invited(scene)[0].pk}


def invitation_secret(scene: Scene) -> dict[str, Any]:
    return {"secret": _invited(scene)[1].split("/")[-2]}


def _invited(scene: Scene) -> tuple[Invitation, str]:
    return invite(
        actor=scene.actor(scene.approver), slug="studio", email="new@example.org", roles=["member"], days=7,
        now=datetime.now(UTC),
    )  # fmt: skip


def enrolment_token(scene: Scene) -> dict[str, Any]:
    return {"token_id": make_token(actor=SYSTEM, name="hv7", now=datetime.now(UTC))[0].pk}


def audited(subject: str) -> Arguments:
    """The newest entry about that lease."""

    def arguments(scene: Scene) -> dict[str, Any]:
        named = {name: getattr(scene, name).pk for name in ("active", "theirs")}
        return {"number": AuditEntry.objects.filter(subject=subject.format(**named)).latest("pk").pk}

    return arguments


def line(name: str) -> Arguments:
    return lambda scene: {"number": getattr(scene, name).segments.get().pk}


def posting(name: str, codes: str = "", *, others: int = 404, **more: Any) -> Row:
    body = tuple(more.pop("body", {}).items())
    return Row(name, codes, others, "post", body, **more)


WAYS: tuple[tuple[str, Any], ...] = (("email", ["ending"]), ("browser", []), ("webhook", []))
NEW_KEY = {"key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGIVdXM+GJSIWZABFD3ltQ8IYOYCXkPHxyFmxyZ0fIZL"}
ACTIVE, REQUESTED, ENDED = lease("active"), lease("requested"), lease("ended")
SEES_ACTIVE = "ada=200 approver=200 auditor=200"
USES_ACTIVE = "ada=302 approver=403 auditor=403"
SEES_MONEY = "approver=200 finance=200 auditor=200 money=200"
READS_FLEET = "operator=200 auditor=200"
EVERYBODY = 200

DIVIDE = {"profile": "vf", "count": "2", "model": "1"}
SLICES = {"profile": "vf", "count": 2, "model": "a6000"}
NEW_IMAGE = {
    "slug": "debian", "name": "Debian", "os_family": "linux", "format": "qcow2", "digest": "ab" * 32,
    "file_name": "debian.qcow2",
}  # fmt: skip

LEADS = "approver=200"
NEW_TEAM = {
    "slug": "film", "name": "Film", "timezone": "Europe/Berlin", "concurrent_gpus": "2",
    "longest_lease_hours": "24", "book_ahead_days": "30", "owner": "ada",
}  # fmt: skip
HER = {"slug": "studio", "username": "ada"}
SHARED = "ada=201 approver=403 auditor=403"
COLLEAGUE = {"person": "approver", "level": "use"}

TABLE = [
    Row("home", others=EVERYBODY),
    Row("home-live", others=EVERYBODY),
    Row("sign-in", others=302, nobody=200),
    posting("sign-out", "", others=302),
    Row("sign-out", others=405, nobody=405),
    Row("book", "ada=200 bob=200 approver=200"),
    Row("book-price", "ada=200 bob=200 approver=200"),
    Row("book-timeline", "ada=200 bob=200 approver=200"),
    Row("calendar", "money=404 stranger=404", others=200),
    Row("search", others=EVERYBODY, query="?q=studio"),
    Row("workstations", others=EVERYBODY),
    Row("workstation", SEES_ACTIVE, arguments=ACTIVE),
    Row("workstation", "bob=200 auditor=200", arguments=lease("theirs")),
    Row("workstation", arguments=unknown("lease_id")),
    Row("workstation-live", SEES_ACTIVE, arguments=ACTIVE),
    posting("workstation-power", USES_ACTIVE, body={"action": "off"}, arguments=ACTIVE),
    Row("workstation-power", others=405, arguments=ACTIVE),
    Row("remote-desktop", "ada=200 approver=403 auditor=403", arguments=ACTIVE),
    posting("workstation-devices", USES_ACTIVE, arguments=ACTIVE),
    Row("storage", others=EVERYBODY),
    posting("remove-home", arguments=unknown("volume_id")),
    posting("home-read", arguments=unknown("volume_id")),
    Row("home-reading", "ada=200", arguments=looked_into),
    Row("home-reading-live", "ada=200", arguments=looked_into),
    posting("api-home-readings", body={"wanted": "list", "path": ""}, arguments=unknown("volume_id")),
    Row("api-home-reading", "ada=200", arguments=looked_into),
    posting("remove-snapshot", arguments=unknown("snapshot_id")),
    posting("workstation-snapshot", USES_ACTIVE, arguments=ACTIVE),
    Row("workstation-end", "ada=200 approver=200 auditor=403", arguments=ACTIVE),
    Row("workstation-end", "ada=409 approver=409 auditor=403", arguments=ENDED),
    posting("workstation-end", "ada=302 approver=302 auditor=403", arguments=ACTIVE),
    posting("workstation-end-at", USES_ACTIVE, body={"ends_at": "2026-03-02T12:00"}, arguments=ACTIVE),
    Row("workstation-move", "ada=200 approver=403 auditor=403", arguments=REQUESTED),
    Row("workstation-move", "ada=409 approver=403 auditor=403", arguments=ACTIVE),
    posting("workstation-move", USES_ACTIVE, arguments=REQUESTED),
    Row("workstation-extend", "ada=200 approver=403 auditor=403", arguments=ACTIVE),
    Row("workstation-extend", "ada=409 approver=403 auditor=403", arguments=ENDED),
    posting("workstation-in-use", USES_ACTIVE, arguments=ACTIVE),
    Row("flavors", READS_FLEET),
    posting("add-flavor", "operator=302", body={"slug": "x", "name": "X", "model": "a6000"}),
    posting("change-flavor", "operator=302", body={"name": "X", "numa": "preferred"}, arguments=flavor),
    posting("retire-flavor", "operator=302", arguments=flavor),
    posting("offer-flavor", "operator=302", arguments=flavor),
    Row("keep-tenants", READS_FLEET),
    posting("add-tenant", "operator=302", body=NEW_TEAM),
    posting("change-tenant", "operator=302", body=NEW_TEAM, arguments=team),
    posting("appoint-owner", "operator=302", body={"owner": "ada"}, arguments=team),
    posting("reopen-tenant", arguments=team),
    Row("emergency-stop", "operator=200"),
    Row("emergency-stop", "operator=200", query="?scope=tenant&name=studio"),
    Row("emergency-stop", query="?scope=host&name=nowhere"),
    posting("emergency-stop", "operator=400", body={"scope": "all", "typed": "no"}),
    posting("lift-stop", "operator=302", arguments=stopped),
    Row("api-kept-flavors", READS_FLEET),
    posting("api-kept-flavors", "operator=201", body={"slug": "x", "name": "X", "gpu_model": "a6000"}),
    posting("api-change-flavor", "operator=200", body={"name": "X"}, arguments=flavor),
    posting("api-retire-flavor", "operator=200", arguments=flavor),
    posting("api-offer-flavor", "operator=409", arguments=flavor),
    Row("api-kept-tenants", READS_FLEET),
    posting("api-kept-tenants", "operator=201", body={"slug": "film", "name": "Film", "owner": "ada"}),
    posting("api-change-tenant", "operator=200", body={"concurrent_gpus": 3}, arguments=team),
    posting("api-appoint-owner", "operator=204", body={"owner": "ada"}, arguments=team),
    posting("api-reopen-tenant", arguments=team),
    Row("api-emergency-stops", READS_FLEET),
    posting(
        "api-emergency-stops",
        "operator=400",
        body={"scope": "all", "reason": "smoke", "typed": "no", "seen": "x", "bookings": True},
    ),
    posting("api-stop-preview", "operator=200", body={"scope": "all"}),
    posting("api-lift-stop", "operator=200", arguments=stopped),
    Row("teams", "approver=302"),
    Row("team", LEADS, arguments=team),
    Row("team", arguments=lambda _scene: {"slug": "research"}),
    posting("add-member", "approver=302", body={"username": "stranger", "roles": "member"}, arguments=team),
    posting("add-member", "approver=403", body={"username": "stranger", "roles": "owner"}, arguments=team),
    posting("member-roles", "approver=403", body={"roles": "approver"}, arguments=lambda _scene: HER),
    Row("leave-team", "ada=200 approver=200", arguments=lambda _scene: HER),
    Row("leave-team", "finance=200 approver=403", arguments=lambda _scene: {**HER, "username": "finance"}),
    posting("leave-team", "ada=409 approver=409", arguments=lambda _scene: HER),
    posting("invite", "approver=200", body={"email": "new@example.org", "roles": "member"}, arguments=team),
    posting("invite", "approver=403", body={"email": "new@example.org", "roles": "finance"}, arguments=team),
    posting("withdraw-invitation", "approver=302", arguments=invitation),
    Row("close-team", "operator=200", arguments=team),
    posting("close-team", "operator=400", body={"typed": "studio"}, arguments=team),
    Row("invitation", others=200, nobody=200, arguments=invitation_secret),
    Row("invitation", others=404, nobody=404, arguments=lambda _scene: {"secret": "x" * 43}),
    Row("api-members", LEADS, arguments=team),
    posting(
        "api-members", "approver=201", body={"username": "stranger", "roles": ["member"]}, arguments=team
    ),
    posting("api-member-roles", "approver=403", body={"roles": ["owner"]}, arguments=lambda _scene: HER),
    Row("api-leave", "ada=200 approver=200", arguments=lambda _scene: HER),
    posting("api-leave", "ada=409 approver=409", body={"seen": "x"}, arguments=lambda _scene: HER),
    Row("api-invitations", LEADS, arguments=team),
    posting(
        "api-invitations",
        "approver=201",
        body={"email": "new@example.org", "roles": ["member"]},
        arguments=team,
    ),
    Row("api-invitation", "approver=204", method="delete", arguments=invitation),
    Row("api-close-tenant", "operator=200", arguments=team),
    posting("api-close-tenant", "operator=400", body={"seen": "x", "name": "x"}, arguments=team),
    posting("share", USES_ACTIVE, body=COLLEAGUE, arguments=ACTIVE),
    posting("withdraw-share", "ada=302 approver=302", arguments=share),
    posting("hand-over", USES_ACTIVE, body={"person": "approver"}, arguments=ACTIVE),
    posting("accept-lease", "approver=302", arguments=offer),
    posting("decline-lease", "approver=302", arguments=offer),
    posting("take-back", "ada=302", arguments=offer),
    posting("decide-hand-over", "approver=302", body={"decision": "approve"}, arguments=asked_over),
    posting("add-note", "ada=302 approver=302 auditor=403", body={"text": "Due."}, arguments=REQUESTED),
    posting("api-lease-shares", SHARED, body=COLLEAGUE, arguments=ACTIVE),
    Row("api-lease-shares", SEES_ACTIVE, arguments=ACTIVE),
    Row("api-share", "ada=204 approver=204", method="delete", arguments=share),
    posting("api-lease-hand-over", SHARED, body={"person": "approver"}, arguments=ACTIVE),
    Row("api-hand-overs", others=EVERYBODY),
    posting("api-accept-lease", "approver=200", arguments=offer),
    posting("api-decline-lease", "approver=200", arguments=offer),
    posting("api-take-back", "ada=200", arguments=offer),
    posting("api-decide-hand-over", "approver=200", body={"decision": "approve"}, arguments=asked_over),
    posting(
        "api-lease-notes",
        "ada=201 approver=201 auditor=403",
        body={"text": "Due."},
        arguments=REQUESTED,
    ),
    Row("api-lease-notes", SEES_ACTIVE, arguments=REQUESTED),
    Row("certificate", SEES_ACTIVE, arguments=ENDED),
    Row("certificate", "ada=409 approver=409 auditor=409", arguments=ACTIVE),
    Row("certificate-json", SEES_ACTIVE, arguments=ENDED),
    Row("certificate-pdf", SEES_ACTIVE, arguments=ENDED),
    Row("console", "ada=200 approver=403 auditor=403", arguments=ACTIVE),
    posting("console-ticket", "ada=201 approver=403 auditor=403", arguments=ACTIVE),
    posting("console-ticket", "ada=409 approver=403 auditor=403", arguments=ENDED),
    Row("series", SEES_ACTIVE, arguments=series),
    Row("series", arguments=unknown("series_id")),
    Row("series-live", SEES_ACTIVE, arguments=series),
    Row("series-cancel", "ada=200 approver=200 auditor=403", arguments=series),
    posting("series-cancel", "ada=302 approver=302 auditor=403", arguments=series),
    posting(
        "decide-series", "ada=403 approver=302 auditor=403", body={"decision": "approve"}, arguments=series
    ),
    Row("approvals", "approver=200"),
    posting("decide", "ada=403 approver=302 auditor=403", body={"decision": "approve"}, arguments=REQUESTED),
    posting(
        "decide", "approver=403 auditor=403", body={"decision": "approve"}, arguments=lease("own_request")
    ),
    Row("quota", "ada=200 bob=200 approver=200"),
    posting("ask-quota", "", others=302, body={"tenant": "studio"}),
    posting("put-limit", "", others=302, body={"limit-tenant": "studio"}),
    posting("decide-quota", "", body={"decision": "grant"}, arguments=unknown("request_id")),
    posting("join-waitlist", "ada=302 bob=302 approver=302"),
    Row("waiting", "ada=200", arguments=entry),
    Row("waiting", arguments=unknown("entry_id")),
    Row("waiting-live", "ada=200", arguments=waiting),
    posting("claim-offer", "ada=302", arguments=entry),
    posting("decline-offer", "ada=302", arguments=entry),
    posting("leave-waitlist", "ada=302", arguments=entry),
    posting("waiting-deadline", "ada=302", arguments=waiting),
    Row("fleet", READS_FLEET),
    Row("fleet-use", "operator=200 auditor=200 money=200"),
    Row("fleet-use", "operator=400 auditor=400 money=400", query="?since=never"),
    Row("fleet-live", READS_FLEET),
    Row("fleet-use", "operator=200 auditor=200 money=200"),
    Row("fleet-use", "operator=400 auditor=400 money=400", query="?since=never"),
    Row("drain-host", "operator=200", arguments=host),
    Row("drain-host", arguments=unknown("host_id")),
    posting("drain-host", "operator=409", body={"reason": "dust"}, arguments=host),
    Row("drain-gpu", "operator=200", arguments=gpu("clean")),
    Row("drain-gpu", arguments=unknown("gpu_id")),
    posting("drain-gpu", "operator=302", body={"reason": "dust"}, arguments=gpu("clean")),
    Row("gpu-models", READS_FLEET),
    posting(
        "scrub-policy",
        "operator=302",
        body={"methods": "bar", "reach": "95", "read_back": "full"},
        arguments=gpu_model,
    ),
    posting(
        "scrub-policy",
        "operator=404",
        body={"methods": "bar", "reach": "95", "read_back": "full"},
        arguments=lambda _scene: {"slug": "unknown"},
    ),
    Row("weights", READS_FLEET),
    posting("weight", "operator=302", body={"weight": "3"}, arguments=team),
    posting("weight", body={"weight": "3"}, arguments=lambda _scene: {"slug": "unknown"}),
    Row("closures", READS_FLEET),
    Row("closure", "operator=200", arguments=closure),
    Row("closure", arguments=lambda _scene: {"closure_id": 999}),
    posting("closure", "operator=409", body={"reason": "dust"}, arguments=closure),
    posting("lift-closure", "operator=302", arguments=closure),
    posting("lift-closure", arguments=lambda _scene: {"closure_id": 999}),
    Row("host", READS_FLEET, arguments=host),
    Row("host", "", arguments=unknown("host_id")),
    posting("host-look", "operator=302", arguments=host),
    posting("host-name", "operator=302", body={"name": "rack3"}, arguments=host),
    posting("host-keys", "operator=200", arguments=host),
    posting("host-keys", "", arguments=unknown("host_id")),
    posting("host-account", "operator=302", arguments=host),
    posting("host-retire", "operator=302", body={"sure": "yes"}, arguments=host),
    Row("enrol-host", "operator=200"),
    posting("enrol-host", "operator=200", body={"name": "hv7"}),
    posting("withdraw-enrolment-token", "operator=302", arguments=enrolment_token),
    posting("admit-card", "operator=302", body={"model": "1"}, arguments=card),
    Row("gpu", READS_FLEET, arguments=gpu("clean")),
    Row("gpu", "", arguments=unknown("gpu_id")),
    posting("readmit-gpu", "operator=302", arguments=gpu("quarantined")),
    posting("readmit-gpu", "", arguments=unknown("gpu_id")),
    posting("divide-gpu", "operator=302", body=DIVIDE, arguments=gpu("clean")),
    posting("divide-gpu", "operator=404", body=DIVIDE, arguments=unknown("gpu_id")),
    posting("undivide-gpu", "operator=302", arguments=gpu("clean")),
    posting("undivide-gpu", "operator=404", arguments=unknown("gpu_id")),
    posting("withdraw-gpu", "operator=302", body={"reason": "fan"}, arguments=gpu("clean")),
    Row("audit", "approver=200 auditor=200"),
    Row("audit", "approver=400 auditor=400", query="?since=never"),
    Row("audit-download", "approver=200 auditor=200"),
    Row("audit-download", "approver=400 auditor=400", query="?tenant=nowhere"),
    Row("audit-entry", "approver=200 auditor=200", arguments=audited("lease:{active}")),
    Row("audit-entry", "auditor=200", arguments=audited("lease:{theirs}")),
    Row("audit-entry", arguments=lambda _scene: {"number": 2**70}),
    posting("audit-verify", "auditor=302"),
    Row("usage", "approver=200 finance=200 auditor=200 money=200"),
    Row("usage-lines", "approver=200 finance=200 auditor=200 money=200"),
    Row("usage-line", "approver=200 finance=200 auditor=200 money=200", arguments=line("ended")),
    Row("usage-line", "auditor=200 money=200", arguments=line("theirs")),
    Row("usage-line", arguments=lambda _scene: {"number": 2**70}),
    Row("usage-export", "finance=200 auditor=200 money=200"),
    Row("usage-export", "finance=400 auditor=400 money=400", query="?form=docx"),
    Row("notices", others=EVERYBODY),
    Row("new-notices", others=EVERYBODY, query="?after=0"),
    posting("choose-notices", others=302, body={"email": "ending"}),
    posting("set-webhook", others=200, body={"url": "https://hooks.example.org/x"}),
    posting("remove-webhook", others=302),
    posting("try-webhook", others=302),
    Row("account", others=EVERYBODY),
    posting("language", "", others=302, body={"language": "zh-hans"}),
    posting("add-token", "", others=200, body={"days": "30"}),
    posting("remove-token", "ada=302", arguments=token),
    posting("add-feed", "", others=200, body={"name": "mine"}),
    posting("remove-feed", "ada=302", arguments=feed),
    posting("add-ssh-key", "", others=302, body=NEW_KEY),
    posting("remove-ssh-key", "ada=302", arguments=ssh_key),
    Row("feed", others=200, nobody=200, arguments=feed_secret),
    Row("feed", others=404, nobody=404, arguments=lambda _scene: {"secret": "x" * 43}),
    Row("events", others=EVERYBODY),
    Row("events", READS_FLEET, query="?fleet=1"),
    Row("healthz", others=200, nobody=200),
    Row("readyz", others=503, nobody=503),
    Row("api-schema", others=200, nobody=200),
    Row("api-me", others=EVERYBODY),
    Row("api-tenants", others=EVERYBODY),
    Row("api-flavors", others=EVERYBODY),
    Row("api-images", others=EVERYBODY),
    Row("api-tokens", others=EVERYBODY),
    posting("api-tokens", "", others=201, body={"days": "30"}),
    Row("api-token", "ada=204", method="delete", arguments=token),
    Row("api-notices", others=EVERYBODY),
    posting("api-notices", others=200, body={"until": 1}),
    posting("api-notice", "ada=200", body={"read": True}, arguments=notice),
    Row("api-notice-settings", others=EVERYBODY),
    Row("api-notice-settings", others=200, method="put", body=WAYS),
    Row("api-webhook", others=200, method="put", body=(("url", "https://example.org/x"),)),
    Row("api-webhook", others=204, method="delete"),
    Row("api-feeds", others=EVERYBODY),
    posting("api-feeds", "", others=201, body={"name": "mine"}),
    Row("api-ssh-keys", others=EVERYBODY),
    posting("api-ssh-keys", "", others=201, body=NEW_KEY),
    Row("api-ssh-key", "ada=204", method="delete", arguments=ssh_key),
    Row("api-feed", "ada=204", method="delete", arguments=feed),
    posting(
        "api-quote",
        "ada=200 approver=200",
        others=400,
        body={"tenant": "studio", "flavor": "studio", "duration_seconds": "3600"},
    ),
    Row("api-leases", others=EVERYBODY),
    posting(
        "api-leases",
        "ada=201 approver=201",
        others=400,
        body={"tenant": "studio", "flavor": "studio", "image": "tenant", "duration_seconds": "3600"},
    ),
    Row("api-lease", SEES_ACTIVE, arguments=ACTIVE),
    Row("api-lease", arguments=unknown("lease_id")),
    Row("api-certificate", SEES_ACTIVE, arguments=ENDED),
    posting("api-lease-end", "ada=200 approver=200 auditor=403", arguments=ACTIVE),
    Row("api-lease-end-at", "ada=200 approver=403 auditor=403", arguments=ACTIVE),
    posting("api-lease-end-at", "ada=400 approver=403 auditor=403", arguments=ACTIVE),
    posting("api-lease-window", "ada=400 approver=403 auditor=403", arguments=REQUESTED),
    Row("api-availability", "money=404 stranger=404", others=200, query="?model=a6000"),
    Row("api-slots", others=200, query="?flavor=studio&duration_seconds=3600"),
    Row("api-homes", others=EVERYBODY),
    Row("api-home", method="delete", arguments=unknown("volume_id")),
    Row("api-snapshots", others=EVERYBODY),
    Row("api-snapshot", method="delete", arguments=unknown("snapshot_id")),
    posting("api-lease-snapshot", "ada=400 approver=403 auditor=403", arguments=ACTIVE),
    Row("api-usb-devices", others=EVERYBODY, query="?flavor=studio"),
    posting("api-lease-devices", "ada=400 approver=403 auditor=403", arguments=ACTIVE),
    posting("api-lease-power", "ada=202 approver=403 auditor=403", body={"action": "off"}, arguments=ACTIVE),
    posting("api-lease-approve", "ada=403 approver=200 auditor=403", arguments=REQUESTED),
    posting("api-lease-approve", "approver=403 auditor=403", arguments=lease("own_request")),
    posting("api-lease-reject", "ada=403 approver=200 auditor=403", body={"note": "no"}, arguments=REQUESTED),
    posting("api-lease-revoke", "ada=403 approver=409 auditor=403", body={"note": "no"}, arguments=REQUESTED),
    Row("api-approvals", "approver=200"),
    posting("api-lease-in-use", "ada=200 approver=403 auditor=403", arguments=ACTIVE),
    posting("api-lease-console", "ada=201 approver=403 auditor=403", arguments=ACTIVE),
    Row("api-series-list", others=EVERYBODY),
    posting("api-series-list", "", others=400, body={"flavor": "studio"}),
    posting("api-series-preview", "", others=400, body={"flavor": "studio"}),
    Row("api-series", SEES_ACTIVE, arguments=series),
    Row("api-series", arguments=unknown("series_id")),
    posting("api-series-cancel", "ada=200 approver=200 auditor=403", arguments=series),
    posting("api-series-approve", "ada=403 approver=409 auditor=403", arguments=series),
    posting("api-series-reject", "ada=403 approver=409 auditor=403", body={"note": "no"}, arguments=series),
    Row("api-limits", others=EVERYBODY),
    posting("api-limits", "approver=200", body={"tenant": "studio", "kind": "gpus", "value": 1}),
    Row("api-quota-requests", others=EVERYBODY),
    posting("api-quota-requests", "", others=400, body={"tenant": "studio"}),
    posting("api-quota-decision", "", body={"decision": "grant"}, arguments=unknown("request_id")),
    Row("api-waitlist", others=EVERYBODY),
    posting("api-waitlist", "", others=400, body={"tenant": "studio"}),
    Row("api-waitlist-entry", "ada=200", arguments=entry),
    Row("api-waitlist-entry", arguments=unknown("entry_id")),
    Row("api-waitlist-entry", "ada=200", method="delete", arguments=entry),
    posting("api-waitlist-claim", "ada=200", arguments=entry),
    posting("api-waitlist-claim", "ada=409", arguments=waiting),
    posting("api-waitlist-decline", "ada=200", arguments=entry),
    posting("api-waitlist-deadline", "ada=400", arguments=waiting),
    Row("api-hosts", READS_FLEET),
    Row("api-host", READS_FLEET, arguments=host),
    Row("api-closures", READS_FLEET),
    posting("api-closures", "operator=400", body={"reason": "dust", "seen": ""}),
    posting("api-drain-preview", "operator=400", body={"starts_at": ""}),
    posting("api-closure-preview", "operator=200", arguments=closure),
    posting("api-closure-change", "operator=409", body={"reason": "dust", "seen": ""}, arguments=closure),
    posting("api-closure-lift", "operator=204", arguments=closure),
    Row("api-host-check-up", READS_FLEET, arguments=host),
    Row("api-host-check-up", "", arguments=unknown("host_id")),
    posting("api-host-inspect", "operator=202", arguments=host),
    posting("api-host-name", "operator=200", body={"name": "rack3"}, arguments=host),
    Row("api-host-account", "operator=200", arguments=host),
    posting("api-host-account", "operator=409", arguments=host),
    posting("api-host-token", "operator=201", arguments=host),
    posting("api-host-token", "", arguments=unknown("host_id")),
    posting("api-host-retire", "operator=409", arguments=host),
    posting("api-enrolment", "", others=403, nobody=403, body={"envelope": "nonsense"}),
    posting("api-rekey", "", others=403, nobody=403, body={"envelope": "nonsense"}),
    Row("api-enrolment-tokens", "operator=200"),
    posting("api-enrolment-tokens", "operator=201", body={"name": "hv7"}),
    Row("api-enrolment-token", "operator=204", method="delete", arguments=enrolment_token),
    Row("api-found-cards", READS_FLEET),
    posting("api-card-admit", "operator=201", body={"model": "a6000"}, arguments=card),
    Row("api-gpus", READS_FLEET),
    Row("api-gpu", READS_FLEET, arguments=gpu("clean")),
    posting("api-gpu-readmit", "operator=200", arguments=gpu("quarantined")),
    Row("api-gpu-history", READS_FLEET, arguments=gpu("clean")),
    Row("api-gpu-history", "", arguments=unknown("gpu_id")),
    posting("api-gpu-divide", "operator=400", body=SLICES, arguments=gpu("clean")),
    posting("api-gpu-divide", "operator=404", body=SLICES, arguments=unknown("gpu_id")),
    posting("api-gpu-undivide", "operator=409", arguments=gpu("clean")),
    posting("api-gpu-undivide", "operator=404", arguments=unknown("gpu_id")),
    posting("api-gpu-withdraw", "operator=200", body={"reason": "fan"}, arguments=gpu("clean")),
    Row("images", READS_FLEET),
    posting("add-image", "operator=302", body=NEW_IMAGE),
    posting("retire-image", "operator=302", body={"reason": "old"}, arguments=image),
    posting("retire-image", body={"reason": "old"}, arguments=lambda _scene: {"image_id": 999}),
    posting("offer-image", "operator=302", arguments=image),
    posting("offer-image", arguments=lambda _scene: {"image_id": 999}),
    Row("images-live", READS_FLEET),
    posting("upload-image", "operator=302"),
    posting("remove-image-upload", "operator=302", arguments=upload),
    posting("remove-image-upload", arguments=unknown("upload_id")),
    Row("api-image-uploads", READS_FLEET),
    posting(
        "api-image-uploads", "operator=201", body={"file_name": "debian.raw", "format": "raw", "size": 1}
    ),
    Row("api-image-upload", READS_FLEET, arguments=upload),
    Row("api-image-upload", "", arguments=unknown("upload_id")),
    Row("api-image-upload", "operator=204", method="delete", arguments=upload),
    Row("api-image-copies", READS_FLEET),
    posting("api-host-images", "", others=404, nobody=404, body={"envelope": "nonsense"}),
    Row("api-image-versions", READS_FLEET),
    posting("api-image-versions", "operator=201", body=NEW_IMAGE),
    posting("api-image-retire", "operator=200", body={"reason": "old"}, arguments=image),
    posting("api-image-retire", "", body={"reason": "old"}, arguments=lambda _scene: {"image_id": 999}),
    posting("api-image-offer", "operator=409", arguments=image),
    Row("api-gpu-models", READS_FLEET),
    Row("api-fleet-room", READS_FLEET),
    posting(
        "api-scrub-policy",
        "operator=200",
        body={"methods": ["bar"], "required_reach_permille": 950, "read_back": "full"},
        arguments=gpu_model,
    ),
    Row("api-weights", READS_FLEET),
    posting("api-weight", "operator=200", body={"weight": 3}, arguments=team),
    Row("budget", SEES_MONEY),
    posting("change-budget", "approver=302 money=302", body={"rule": "warn"}, arguments=team),
    Row("invoices", SEES_MONEY),
    Row("invoice", SEES_MONEY, arguments=invoice),
    Row("invoice", arguments=unknown("invoice_id")),
    Row("invoice-pdf", SEES_MONEY, arguments=invoice),
    Row("invoice-draft", SEES_MONEY, arguments=month_of_team),
    Row(
        "invoice-draft", "auditor=200 money=200", arguments=lambda s: {**month_of_team(s), "slug": "research"}
    ),
    posting("close-month", "money=302", arguments=month_of_team),
    Row("prices", "auditor=200 money=200"),
    posting("add-rate", "money=302", body={"flavor": "studio"}),
    posting("add-discount", "money=302", body={"tenant": "studio"}),
    posting("add-storage-rate", "money=302", body={"currency": "EUR"}),
    posting("add-tax", "money=302", body={"label": "VAT"}),
    posting("change-billing", "money=302", body={"tenant_slug": "studio"}),
    Row("outages", READS_FLEET),
    posting("add-outage", "operator=302", body={"what": "host:x"}),
    posting("workstation-tags", "ada=302 approver=302 finance=302", body={"project": "x"}, arguments=ACTIVE),
    Row("api-budgets", others=EVERYBODY),
    posting("api-budget", "approver=200 money=200", body={"rule": "warn"}, arguments=team),
    Row("api-invoices", others=EVERYBODY),
    Row("api-invoice", SEES_MONEY, arguments=invoice),
    Row("api-invoice", arguments=unknown("invoice_id")),
    Row("api-month", SEES_MONEY, query="?tenant=studio&month=2026-01"),
    Row("api-month", "auditor=200 money=200", query="?tenant=research&month=2026-01"),
    posting("api-close-month", "money=200", body={"tenant": "studio", "month": "2026-01"}),
    Row("api-rates", "auditor=200 money=200"),
    posting("api-rates", "money=400", body={"flavor": "studio"}),
    Row("api-discounts", "auditor=200 money=200"),
    posting("api-discounts", "money=201", body={"tenant": "studio", "percent": "5"}),
    Row("api-storage-rates", "auditor=200 money=200"),
    posting("api-storage-rates", "money=201", body={"per_gib_month": "0.1", "currency": "EUR"}),
    Row("api-taxes", "auditor=200 money=200"),
    posting("api-taxes", "money=201", body={"name": "VAT", "percent": "19"}),
    posting("api-billing", "money=200", body={"region": "DE", "billing_address": ""}, arguments=team),
    posting(
        "api-billing",
        body={"region": "DE", "billing_address": ""},
        arguments=lambda _scene: {"slug": "unknown"},
    ),
    posting("withdraw-outage", body={"reason": "none"}, arguments=lambda _scene: {"outage_id": 7}),
    posting("api-withdraw-outage", body={"reason": "none"}, arguments=lambda _scene: {"outage_id": 7}),
    Row("api-outages", READS_FLEET),
    posting("api-outages", "operator=400", body={"kind": "host", "id": "x"}),
    posting(
        "api-lease-tags",
        "ada=200 approver=200 finance=200",
        body={"project": "x", "cost_centre": ""},
        arguments=ACTIVE,
    ),
    Row("api-scrub-records", others=EVERYBODY),
    Row("api-audit", "approver=200 auditor=200"),
    Row("api-usage", "approver=200 finance=200 auditor=200 money=200"),
    Row("api-usage-report", SEES_MONEY),
    Row("api-fleet-use", "operator=200 auditor=200 money=200"),
    Row("api-usage-export", "finance=200 auditor=200 money=200"),
    Row("api-usage-export", "finance=400 auditor=400 money=400", query="?form=docx"),
]


DONE = frozenset({200, 201, 202, 204, 302})
# These only ask, change how somebody is spoken to, or leave everything as it was.
NOTHING_DONE = frozenset(
    {"api-quote", "api-closure-preview", "api-stop-preview", "language", "change-billing"}
    | {"api-notices", "api-notice"}
)


def names(resolver: URLResolver) -> Iterator[str]:
    for pattern in resolver.url_patterns:
        if isinstance(pattern, URLResolver):
            yield from names(pattern)
        elif isinstance(pattern, URLPattern):
            yield pattern.name or repr(pattern)


def test_every_address_is_in_the_table() -> None:
    assert set(names(get_resolver())) == {row.name for row in TABLE}


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_answers_by_role(row: Row, scene: Scene, sign_in: SignIn) -> None:
    clients = {role: sign_in(scene.everybody()[role]) for role in ROLES[1:]} | {"nobody": new_client()}
    url = reverse(row.name, kwargs=row.arguments(scene)) + row.query
    answers = {role: ask(clients[role], row, url) for role in ROLES}
    assert answers == {role: row.expected(role) for role in ROLES}


def ask(client: Client, row: Row, url: str) -> int:
    """The status, with everything that the request did undone. What it did is in the audit log."""
    with transaction.atomic():
        entries = AuditEntry.objects.count()
        if row.name.startswith("api-"):
            body = json.dumps(dict(row.body)) if row.body or row.method == "post" else ""
            response = (
                getattr(client, row.method)(url, body, content_type="application/json")
                if body
                else (getattr(client, row.method)(url))
            )
        else:
            response = getattr(client, row.method)(url, dict(row.body))
        if row.method != "get" and response.status_code in DONE and row.name not in NOTHING_DONE:
            assert AuditEntry.objects.count() > entries or _refused(response), f"{row} left no entry"
        transaction.set_rollback(True)
    status: int = response.status_code
    return status


def _refused(response: Any) -> bool:
    """Sent to sign in, or back with a message that says why not."""
    said = [message.level for message in get_messages(response.wsgi_request)]
    return ERROR in said or response.headers.get("Location", "").startswith(reverse("sign-in"))


def test_what_is_seen_of_others_is_nothing(scene: Scene, sign_in: SignIn) -> None:
    for who, listed in (("ada", scene.research), ("bob", scene.studio)):
        client = sign_in(scene.everybody()[who])
        found = client.get(reverse("api-leases")).json()["results"]
        assert found
        assert {row["tenant"] for row in found}.isdisjoint({listed.slug})


def test_an_approver_sees_the_whole_tenant_and_no_other(scene: Scene, sign_in: SignIn) -> None:
    found = sign_in(scene.approver).get(reverse("api-leases")).json()["results"]
    assert {row["id"] for row in found} == {
        str(pk) for pk in Lease.objects.filter(tenant=scene.studio).values_list("pk", flat=True)
    }
