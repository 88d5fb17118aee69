"""Which snapshots there are, who sees them, and which a booking may start from. Reads only."""

from __future__ import annotations

from uuid import UUID

from django.db.models import QuerySet
from django.utils.translation import gettext as _

from leasing import policy
from leasing.errors import InvalidRequest, NotVisible
from leasing.locking import locked
from leasing.models import Image, Lease, Person, Snapshot, Tenant, WaitlistEntry
from leasing.states.snapshot import SnapshotState

_SHOWN = ("tenant", "person", "pool", "lease__flavor", "image")


def snapshots_of(person: Person) -> QuerySet[Snapshot]:
    """Those that are not removed, the latest first."""
    return occupying(person.pk).select_related(*_SHOWN)


def occupying(person_id: UUID) -> QuerySet[Snapshot]:
    """What counts against a person's bounds."""
    return Snapshot.objects.filter(person=person_id).exclude(state=SnapshotState.REMOVED)


def left_behind(tenant: Tenant) -> QuerySet[Snapshot]:
    """Snapshots of people who are no members any more. Nobody can use them; whoever leads may remove them."""
    members = policy.people_with_role(tenant, "member")
    snapshots = Snapshot.objects.filter(tenant=tenant).exclude(state=SnapshotState.REMOVED)
    return snapshots.exclude(person__in=members).select_related(*_SHOWN)


def fetch_snapshot(person: Person, snapshot_id: UUID) -> Snapshot:
    """One of the person's own, or one that was left behind in a tenant that they lead. Raises NotVisible."""
    found = Snapshot.objects.select_related(*_SHOWN).filter(pk=snapshot_id).first()
    if found is None or found.state == SnapshotState.REMOVED:
        raise NotVisible(_("There is no such snapshot."))
    if found.person_id != person.pk and not _leads(person, found):
        raise NotVisible(_("There is no such snapshot."))
    return found


def to_start_from(person: Person, tenant: Tenant) -> QuerySet[Snapshot]:
    """Those with which the person may book for the tenant."""
    return snapshots_of(person).filter(tenant=tenant, state=SnapshotState.KEPT)


def snapshot_named(person: Person, snapshot_id: UUID) -> Snapshot:
    """One of the person's own, for a booking. Raises InvalidRequest."""
    found = snapshots_of(person).filter(pk=snapshot_id, state=SnapshotState.KEPT).first()
    if found is None:
        raise InvalidRequest(_("You have no such snapshot."), field="snapshot")
    return found


def check_start(lease: Lease | WaitlistEntry) -> None:
    """Whether the lease, whose person is locked, may start from its snapshot. Raises InvalidRequest."""
    if lease.snapshot_id is None:
        return
    kept = Snapshot.objects.filter(pk=lease.snapshot_id, person=lease.owner_id, tenant=lease.tenant_id)
    snapshot = locked(kept.filter(state=SnapshotState.KEPT).select_related("image")).first()
    if snapshot is None:
        raise InvalidRequest(_("You have no such snapshot in this team."), field="snapshot")
    if not fits_image(snapshot, lease.image):
        raise InvalidRequest(
            _("The snapshot was taken of “%(image)s”, which boots in another way.")
            % {"image": snapshot.image.name},
            hint=_("Choose that image."),
            field="snapshot",
        )


def fits_image(snapshot: Snapshot, image: Image) -> bool:
    """Whether a machine of this image boots what the snapshot holds."""
    taken = snapshot.image
    if "direct-kernel" in (taken.format, image.format):
        return taken.pk == image.pk
    return (taken.slug, taken.firmware) == (image.slug, image.firmware)


def _leads(person: Person, snapshot: Snapshot) -> bool:
    led = policy.tenants_with_role(person, "owner", "approver").filter(pk=snapshot.tenant_id)
    return led.exists() and left_behind(snapshot.tenant).filter(pk=snapshot.pk).exists()
