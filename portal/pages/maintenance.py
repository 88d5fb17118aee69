"""Closing hosts and GPUs for maintenance: from when until when, whom that affects, and only then the deed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.http import require_http_methods, require_safe

from hosts.models import Gpu, Host
from leasing import policy
from leasing.errors import DomainError, NotVisible
from leasing.fleet import present_host
from leasing.maintenance import service
from leasing.maintenance.plan import Plan, Unmovable
from leasing.maintenance.standing import standings_of
from leasing.models import Closure
from portal.api.problems import status_of
from portal.middleware import PersonRequest
from portal.pages.actions import action, back_of
from portal.pages.booking_form import LocalTimeField, add_domain_error
from portal.templatetags.leasehold import local_input

SHOWN_PAST = 50
PLANNED = require_http_methods(["GET", "HEAD", "POST"])


class TimesForm(forms.Form):
    """From when, until when, and what becomes of those that can move nowhere."""

    starts_at = LocalTimeField()
    ends_at = LocalTimeField()
    unmovable = forms.ChoiceField(
        required=False,
        choices=[
            (Unmovable.STAY, gettext_lazy("start there as booked")),
            (Unmovable.WAIT, gettext_lazy("wait for an equal GPU")),
            (Unmovable.CANCEL, gettext_lazy("are cancelled")),
        ],
    )

    def asked(self) -> dict[str, Any]:
        """As the services take it."""
        given = self.cleaned_data
        return {**given, "unmovable": Unmovable(given["unmovable"] or Unmovable.STAY)}


@dataclass(frozen=True)
class _Job:
    """A new closure of `what`, or other times for one that is there: how it is tried, and how it is done."""

    what: Host | Gpu
    preview: Callable[..., Plan]
    confirm: Callable[..., Plan]
    closure: Closure | None = None
    first: dict[str, str] = field(default_factory=dict)


@login_required
@PLANNED
def drain_host(request: PersonRequest, host_id: UUID) -> HttpResponse:
    policy.require_operator(request.user)
    return _answer(request, _new(present_host(host_id)))


@login_required
@PLANNED
def drain_gpu(request: PersonRequest, gpu_id: UUID) -> HttpResponse:
    policy.require_operator(request.user)
    gpu = Gpu.objects.select_related("host", "model").filter(pk=gpu_id).first()
    if gpu is None:
        raise NotVisible(_("There is no such GPU."))
    return _answer(request, _new(gpu))


@login_required
@PLANNED
def closure(request: PersonRequest, closure_id: int) -> HttpResponse:
    """Other times for a closure; with those that it has, whom it affects now."""
    policy.require_operator(request.user)
    found = service.closures().filter(pk=closure_id).first()
    if found is None:
        raise NotVisible(_("There is no such closure."))
    return _answer(request, _change(found))


@login_required
@require_safe
def closures(request: PersonRequest) -> HttpResponse:
    """What is closed, will be, and was."""
    policy.require_fleet_reader(request.user)
    now = timezone.now()
    context = {
        "open": standings_of(service.open_closures(now=now), now=now),
        "past": service.closures().filter(ends_at__lte=now)[:SHOWN_PAST],
        "may_operate": policy.is_operator(request.user),
    }
    return render(request, "fleet/closures.html", context)


@action
def lift(request: PersonRequest, closure_id: int) -> str:
    service.lift_closure(actor=request.actor, closure_id=closure_id, now=timezone.now())
    messages.success(request, _("Lifted: it can be booked again. What has moved stays where it is."))
    return back_of(request)


def _new(what: Host | Gpu) -> _Job:
    return _Job(what, partial(service.preview_drain, what=what), partial(service.drain, what=what))


def _change(found: Closure) -> _Job:
    first = {
        "starts_at": local_input(found.starts_at),
        "ends_at": "" if found.ends_at is None else local_input(found.ends_at),
        "reason": found.reason,
    }
    preview = partial(service.preview_change, closure_id=found.pk)
    confirm = partial(service.change_closure, closure_id=found.pk)
    return _Job(found.gpu or found.host, preview, confirm, found, first)


def _answer(request: PersonRequest, job: _Job) -> HttpResponse:
    if request.method != "POST":
        given = request.GET if request.GET else job.first
        return _page(request, job, TimesForm(given), reason=given.get("reason", ""))
    form, reason = TimesForm(request.POST), request.POST.get("reason", "")
    if not form.is_valid():
        return _page(request, job, form, reason=reason)
    try:
        plan = job.confirm(
            actor=request.actor,
            reason=reason,
            seen=request.POST.get("seen", ""),
            now=timezone.now(),
            **form.asked(),
        )
    except NotVisible:
        raise
    except DomainError as error:
        return _page(request, job, form, reason=reason, refused=error)
    messages.success(request, _done_words(len(plan.moves)))
    return redirect("fleet")


def _done_words(moved: int) -> str:
    if not moved:
        return _("Done. Nobody had to move.")
    return ngettext("Done. %(n)d lease has moved.", "Done. %(n)d leases have moved.", moved) % {"n": moved}


def _page(
    request: PersonRequest,
    job: _Job,
    form: TimesForm,
    *,
    reason: str,
    refused: DomainError | None = None,
) -> HttpResponse:
    """With the plan as it would be by now, whatever was refused."""
    now = timezone.now()
    plan = _previewed(request, job, form)
    wrong = 400 if plan is None else 200
    context = {
        "what": job.what,
        "gpu": job.what if isinstance(job.what, Gpu) else None,
        "closure": job.closure,
        "begun": job.closure is not None and job.closure.starts_at <= now,
        "form": form,
        "refused": refused if plan is not None else None,
        "plan": plan,
        "reason": reason,
        "now": now,
        "zone": request.user.timezone,
    }
    return render(request, "fleet/drain.html", context, status=status_of(refused) if refused else wrong)


def _previewed(request: PersonRequest, job: _Job, form: TimesForm) -> Plan | None:
    """None, with the fault written into the form, if there can be no plan."""
    if not form.is_valid():
        return None
    try:
        return job.preview(actor=request.actor, now=timezone.now(), **form.asked())
    except DomainError as error:
        add_domain_error(form, error)
        return None
