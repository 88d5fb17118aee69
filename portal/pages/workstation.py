"""One workstation: how it is, what can be done with it, what it costs, what happened, and the evidence."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from hosts.models import UsbDevice
from leasing import policy
from leasing.access import rdp_file, ways_in
from leasing.changing import change_end
from leasing.choosing_devices import choose_devices
from leasing.considerations import considerations
from leasing.console import open_console
from leasing.devices import devices_for
from leasing.ending import end_lease
from leasing.errors import DomainError, InvalidRequest, NotVisible, WrongState
from leasing.goals import PowerAction
from leasing.idleness import say_in_use
from leasing.metering import terms
from leasing.models import Extension, Guest, Lease, Person
from leasing.models.catalogue import MOST_USB_DEVICES
from leasing.more_time import EXTENDABLE, more_time
from leasing.power import switch_power
from leasing.preparing import usual_preparation
from leasing.snapshots import obstacle
from leasing.states.lease import AHEAD, LeaseState
from leasing.states.snapshot import COMING
from leasing.timing import GUEST_PATIENCE
from leasing.usage import lease_cost
from portal.api.problems import plain_problem, status_of
from portal.middleware import PersonRequest
from portal.pages.actions import action, back_of
from portal.pages.booking_form import chosen_end
from portal.pages.history import history_of
from portal.pages.home import passed_permille
from portal.pages.together import colleagues_of, together_on

POWER_ACTIONS: dict[str, PowerAction] = {"on": "on", "off": "off", "restart": "restart"}
ENDABLE = frozenset({LeaseState.REQUESTED, LeaseState.SCHEDULED, LeaseState.PROVISIONING, LeaseState.ACTIVE})


@login_required
@require_safe
def workstation(request: PersonRequest, lease_id: UUID) -> HttpResponse:
    lease = policy.fetch_lease(request.user, lease_id, "view")
    return render(request, "workstation/workstation.html", _shown(request.user, lease, timezone.now()))


@login_required
@require_safe
def workstation_live(request: PersonRequest, lease_id: UUID) -> HttpResponse:
    """The part of the page that changes while one looks."""
    lease = policy.fetch_lease(request.user, lease_id, "view")
    return render(request, "workstation/_live.html", _shown(request.user, lease, timezone.now()))


@action
def switch(request: PersonRequest, lease_id: UUID) -> str:
    wanted = POWER_ACTIONS.get(request.POST.get("action", ""))
    if wanted is None:
        raise InvalidRequest(_("A machine is switched on, off, or restarted."))
    switch_power(actor=request.actor, lease_id=lease_id, action=wanted, now=timezone.now())
    messages.success(request, _("Asked the host. The state below follows by itself."))
    return _page_of(lease_id)


@action
def choose(request: PersonRequest, lease_id: UUID) -> str:
    """Other devices, or none."""
    given = request.POST.getlist("usb")[: 2 * MOST_USB_DEVICES]
    usb = {int(each) for each in given if each.isascii() and each.isdecimal() and len(each) < 16}
    choose_devices(actor=request.actor, lease_id=lease_id, usb=usb, now=timezone.now())
    messages.success(request, _("The devices are noted."))
    return _page_of(lease_id)


@action
def in_use(request: PersonRequest, lease_id: UUID) -> str:
    """Its person says that they are using it."""
    say_in_use(actor=request.actor, lease_id=lease_id, now=timezone.now())
    messages.success(request, _("Noted: you are using it, so it stays yours until its end."))
    return back_of(request) if "back" in request.POST else _page_of(lease_id)


@action
def end_at(request: PersonRequest, lease_id: UUID) -> str:
    """Another end, later or earlier."""
    policy.fetch_lease(request.user, lease_id, "use")
    ends_at = chosen_end(request.POST.get("ends_at", ""))
    lease = change_end(actor=request.actor, lease_id=lease_id, ends_at=ends_at, now=timezone.now())
    if lease.extensions.filter(state=Extension.State.PENDING).exists():
        messages.success(request, _("Asked the host. The new end counts as soon as it has confirmed it."))
    else:
        messages.success(request, _("The new end is set."))
    return back_of(request) if "back" in request.POST else _page_of(lease_id)


@login_required
@require_safe
def extend(request: PersonRequest, lease_id: UUID) -> HttpResponse:
    """Where the warning before the end leads: each way to keep it longer is one click.

    Home loads just these into its cards, once it is shown.
    """
    now = timezone.now()
    lease = policy.fetch_lease(request.user, lease_id, "use")
    if lease.state not in EXTENDABLE:
        raise WrongState(_("This workstation cannot be changed any more."), hint=_("Book another one."))
    context: dict[str, Any] = {"lease": lease, "more": more_time(lease, now=now), "now": now}
    if request.headers.get("HX-Request"):
        return render(request, "workstation/_more_time.html", context | {"back": reverse("home")})
    return render(request, "workstation/extend.html", context)


@login_required
def end(request: PersonRequest, lease_id: UUID) -> HttpResponse:
    """Consequences first, then the end."""
    if request.method == "POST":
        return _end_now(request, lease_id)
    now = timezone.now()
    lease = policy.fetch_lease(request.user, lease_id, "end")
    if lease.state not in ENDABLE:
        raise WrongState(_("This workstation has already ended."), hint=_("Book another one."))
    shown = _shown(request.user, lease, now)
    if shown["saves"] and shown["snapshot"] is None:
        shown["why_not_saved"] = obstacle(lease, at_end=True)
    return render(request, "workstation/end.html", shown)


@action
def _end_now(request: PersonRequest, lease_id: UUID) -> str:
    save = "save" in request.POST
    lease = end_lease(actor=request.actor, lease_id=lease_id, save=save, now=timezone.now())
    if lease.state == LeaseState.ENDED:
        messages.success(request, _("Cancelled. Nothing is billed."))
    elif save:
        messages.success(request, _("Ended. Billing has stopped; its disk is copied now, and you are told."))
    else:
        messages.success(request, _("Ended. Billing has stopped; the GPU is reset and cleaned now."))
    return _page_of(lease_id)


@login_required
@require_safe
def console(request: PersonRequest, lease_id: UUID) -> HttpResponse:
    lease = policy.fetch_lease(request.user, lease_id, "control")
    return render(request, "workstation/console.html", {"lease": lease})


@login_required
@require_POST
def console_ticket(request: PersonRequest, lease_id: UUID) -> HttpResponse:
    """A one-time ticket for this browser session, as JSON; refusals as problem details."""
    try:
        opened = open_console(
            actor=request.actor,
            lease_id=lease_id,
            session_key=request.session.session_key or "",
            now=timezone.now(),
        )
    except DomainError as error:
        hint = str(error.hint)
        return plain_problem(request, status=status_of(error), detail=str(error.message), hint=hint)
    return JsonResponse({"ticket": opened.ticket, "path": f"/ws/console/{opened.session_id}/"}, status=201)


def _shown(person: Person, lease: Lease, now: datetime) -> dict[str, Any]:
    sees_cost = policy.may(person, lease, "cost")
    usable = policy.may(person, lease, "use")
    holds = lease.holds.select_related("gpu")
    return {
        "lease": lease,
        "cost": lease_cost(lease, now=now) if sees_cost else None,
        "sees_lines": policy.invoiced_tenants(person).filter(pk=lease.tenant_id).exists(),
        "terms": terms(lease) if sees_cost and lease.varied else [],
        "passed_permille": passed_permille(lease, now),
        "running": lease.state == LeaseState.ACTIVE,
        "may_use": usable and lease.state == LeaseState.ACTIVE,
        "may_control": lease.state == LeaseState.ACTIVE and policy.may(person, lease, "control"),
        "together": together_on(person, lease),
        "colleagues": colleagues_of(person, lease) if usable else (),
        "ways": ways_in(lease) if usable else None,
        "may_end": lease.state in ENDABLE and policy.may(person, lease, "end"),
        "known": considerations(lease, now=now) if _may_decide(person, lease) else None,
        "may_tag": policy.may_tag(person, lease),
        "more": more_time(lease, now=now) if usable and lease.state in ENDABLE else None,
        "movable": usable and lease.state in AHEAD,
        **_devices(lease, usable=usable),
        **_saving(lease, usable=usable),
        "steps": lease.steps.order_by("id"),
        "usually": usual_preparation(lease) if lease.state == LeaseState.PROVISIONING else None,
        **_inside(lease, now),
        "scrubs": lease.scrubs.select_related("gpu__host", "gpu__model"),
        "happened": history_of(lease),
        "disk_gib": sum(hold.gpu.share_disk_gib for hold in holds),
        "now": now,
    }


@login_required
@require_safe
def remote_desktop(request: PersonRequest, lease_id: UUID) -> HttpResponse:
    """A file that programs for Remote Desktop open."""
    lease = policy.fetch_lease(request.user, lease_id, "use")
    ways = ways_in(lease)
    way = next((each for each in ways.ways if each.is_remote_desktop), None) if ways else None
    if way is None:
        raise NotVisible(_("It is not reached by Remote Desktop."))
    answer = HttpResponse(rdp_file(way, user=lease.image.default_user), content_type="application/x-rdp")
    answer["Content-Disposition"] = f'attachment; filename="{lease.machine_name}.rdp"'
    return answer


def _saving(lease: Lease, *, usable: bool) -> dict[str, Any]:
    """Whether a snapshot of it can be had, and the one that is being taken or is to be."""
    saves = usable and lease.state == LeaseState.ACTIVE and lease.host is not None
    if not saves or lease.host is None or lease.host.pool_id is None:
        return {"saves": False}
    return {"saves": True, "snapshot": lease.snapshots.filter(state__in=COMING).first()}


def _devices(lease: Lease, *, usable: bool) -> dict[str, Any]:
    """Those it has; and those it could have, while that can be changed."""
    theirs = UsbDevice.objects.filter(leases__lease=lease).select_related("host")
    has = list(theirs) if lease.bound_to_id else []
    if not usable or lease.state not in AHEAD:
        return {"devices": has, "other_devices": []}
    could = devices_for(lease.flavor)
    return {"devices": has, "other_devices": [*has, *(one for one in could if one not in has)]}


def _runs(lease: Lease) -> bool:
    return lease.state == LeaseState.ACTIVE and lease.machine == Lease.Machine.RUNNING


def _inside(lease: Lease, now: datetime) -> dict[str, Any]:
    """What is known of its guest; by which plan it was started, and whether it should have answered."""
    guest = Guest.objects.filter(lease=lease).first() if _runs(lease) else None
    if guest is None:
        return {"guest": None}
    started = lease.steps.filter(name="confirm", state="done").order_by("finished_at").last()
    at = started.finished_at if started else None
    is_late = at is None or now - at > GUEST_PATIENCE
    return {"guest": guest, "guest_is_late": is_late, "guest_plan": started.plan if started else ""}


def _may_decide(person: Person, lease: Lease) -> bool:
    return lease.state == LeaseState.REQUESTED and policy.may(person, lease, "decide")


def _page_of(lease_id: UUID) -> str:
    return reverse("workstation", args=[lease_id])
