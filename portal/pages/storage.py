"""What of a person outlives their workstations: home volumes, how one is removed, and snapshots."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_safe

from leasing.errors import DomainError
from leasing.homes import fetch_volume, homes_in_reach, remove_volume, volumes_of
from leasing.reading import may_be_read
from leasing.snapshots_kept import snapshots_of
from leasing.storing import Kept, StoragePrice, monthly, storage_price
from portal.middleware import PersonRequest


@login_required
@require_safe
def storage(request: PersonRequest) -> HttpResponse:
    now = timezone.now()
    price = storage_price(at=now)
    context = {
        "volumes": [(each, _monthly(each, price), may_be_read(each)) for each in volumes_of(request.user)],
        "homes": homes_in_reach(request.user, now=now),
        "currency": price.currency if price else "",
        "snapshots": [(each, _monthly(each, price)) for each in snapshots_of(request.user)],
        "most_snapshots": settings.SNAPSHOTS_PER_PERSON,
        "most_gib": settings.SNAPSHOT_GIB_PER_PERSON,
    }
    return render(request, "storage/storage.html", context)


def _monthly(kept: Kept, price: StoragePrice | None) -> Decimal | None:
    return monthly(price.per_gib_month, kept.billed_gib, price.currency) if price else None


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def remove(request: PersonRequest, volume_id: UUID) -> HttpResponse:
    """Asks first, and says what is lost."""
    volume = fetch_volume(request.user, volume_id)
    if request.method != "POST":
        return render(request, "storage/remove.html", {"volume": volume})
    try:
        remove_volume(actor=request.actor, volume_id=volume_id, now=timezone.now())
        messages.success(request, _("The home volume is being removed."))
    except DomainError as error:
        messages.error(request, " ".join(filter(None, (str(error.message), str(error.hint)))))
    own = volume.person_id == request.user.pk
    return redirect("storage") if own else redirect("team", volume.tenant.slug)
