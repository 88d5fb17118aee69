"""What became of the fleet's time, for those who run it or pay for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from leasing import policy
from leasing.errors import NotVisible
from leasing.fleet_use import ModelUse, fleet_use
from leasing.models import Person
from portal.middleware import PersonRequest
from portal.pages.usage_form import UsageForm, midnight

KINDS = ("used", "unused", "repair", "idle")


@dataclass(frozen=True)
class Share:
    """One piece of a model's bar, in per cent of its time."""

    kind: str
    seconds: int
    x: str
    width: str
    percent: Decimal


@dataclass(frozen=True)
class Row:
    model: ModelUse
    shares: list[Share]

    @property
    def hours(self) -> list[Decimal]:
        return [Decimal(share.seconds) / 3600 for share in self.shares]


@login_required
@require_safe
def use(request: PersonRequest) -> HttpResponse:
    if not may_read(request.user):
        raise NotVisible(_("There is nothing here."))
    form, now = UsageForm(request.user, request.GET.dict()), timezone.now()
    if not form.is_valid():
        return render(request, "fleet/use.html", {"form": form}, status=400)
    first, last = form.days
    found = fleet_use(midnight(first), midnight(last + timedelta(days=1)), now=now)
    rows = [_row(one) for one in found if one.there]
    return render(request, "fleet/use.html", {"form": form, "rows": rows})


def may_read(person: Person) -> bool:
    return policy.reads_fleet(person) or policy.is_money_manager(person)


def _row(model: ModelUse) -> Row:
    shares, at = [], Decimal(0)
    for kind in KINDS:
        seconds: int = getattr(model, kind)
        percent = Decimal(100 * seconds) / model.there
        shares.append(Share(kind, seconds, f"{at:.3f}%", f"{percent:.3f}%", percent))
        at += percent
    return Row(model, shares)
