"""A team's people: members and roles, invitations, somebody's leaving, and the end of the team."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from leasing import policy, snapshots_kept
from leasing.errors import DomainError, NotAllowed, NotVisible
from leasing.homes import left_behind
from leasing.membership import closing, invitations, leaving, members
from leasing.models import Person, Tenant
from portal.api.problems import status_of
from portal.middleware import PersonRequest
from portal.pages.actions import action

SHOWN = require_http_methods(["GET", "HEAD", "POST"])


@login_required
@require_safe
def teams(request: PersonRequest) -> HttpResponse:
    """Those that the person leads; straight to the only one."""
    found = list(policy.tenants_with_role(request.user, "owner", "approver"))
    if not found:
        raise NotVisible(_("There is nothing here."))
    if len(found) == 1:
        return redirect("team", found[0].slug)
    return render(request, "teams/teams.html", {"teams": found})


@login_required
@require_safe
def team(request: PersonRequest, slug: str) -> HttpResponse:
    return _page(request, members.fetch_team(request.user, slug))


@action
def add(request: PersonRequest, slug: str) -> str:
    person = members.add_member(
        actor=request.actor,
        slug=slug,
        username=request.POST.get("username", "")[:150],
        roles=request.POST.getlist("roles"),
        now=timezone.now(),
    )
    messages.success(request, _("%(person)s belongs to the team.") % {"person": person})
    return reverse("team", args=[slug])


@action
def change(request: PersonRequest, slug: str, username: str) -> str:
    tenant = members.fetch_team(request.user, slug)
    person = _member(tenant, username)
    roles = request.POST.getlist("roles")
    members.set_roles(actor=request.actor, slug=slug, person=person, roles=roles, now=timezone.now())
    messages.success(request, _("The roles of %(person)s are changed.") % {"person": person})
    return reverse("team", args=[slug])


@login_required
@require_POST
def invite(request: PersonRequest, slug: str) -> HttpResponse:
    """Send it, and show its link, this once."""
    tenant = members.fetch_team(request.user, slug)
    days = request.POST.get("days", "")
    given: dict[str, Any] = {"email": request.POST.get("email", ""), "roles": request.POST.getlist("roles")}
    try:
        _made, link = invitations.invite(
            actor=request.actor,
            slug=slug,
            days=int(days) if days in map(str, invitations.LIFETIMES) else 7,
            now=timezone.now(),
            **given,
        )
    except (NotAllowed, NotVisible):
        raise
    except DomainError as error:
        return _page(request, tenant, refused=error, given=given)
    return _page(request, tenant, new_link=link)


@action
def withdraw(request: PersonRequest, slug: str, invitation_id: UUID) -> str:
    made = invitations.withdraw_invitation(
        actor=request.actor, slug=slug, invitation_id=invitation_id, now=timezone.now()
    )
    messages.success(
        request, _("The invitation of %(email)s leads nowhere any more.") % {"email": made.email}
    )
    return reverse("team", args=[slug])


@login_required
@SHOWN
def leave(request: PersonRequest, slug: str, username: str) -> HttpResponse:
    """What becomes of a person's workstations first, then the deed."""
    found, refused = leaving.preview_leaving(actor=request.actor, slug=slug, username=username), None
    if request.method == "POST":
        heirs = {
            lease.pk: request.POST.get(f"heir-{lease.pk}", "")[:150]
            for lease in [*found.ahead, *found.running]
        }
        try:
            leaving.leave_team(
                actor=request.actor,
                slug=slug,
                username=username,
                heirs=heirs,
                seen=request.POST.get("seen", ""),
                now=timezone.now(),
            )
        except (NotAllowed, NotVisible):
            raise
        except DomainError as error:
            refused = error
        else:
            messages.success(request, _("%(person)s has left the team.") % {"person": found.person})
            stays = policy.tenants_with_role(request.user, "owner", "approver").filter(slug=slug).exists()
            return redirect("team", slug) if stays else redirect("account")
    context = {
        "found": found,
        "itself": found.person == request.user,
        "refused": refused,
        "colleagues": policy.people_with_role(found.tenant, "member").exclude(pk=found.person.pk),
        "given": request.POST,
    }
    return render(request, "teams/leave.html", context, status=status_of(refused) if refused else 200)


@login_required
@SHOWN
def close(request: PersonRequest, slug: str) -> HttpResponse:
    """What the end of the team means first, then the deed, by typing its name."""
    now, refused = timezone.now(), None
    found = closing.preview_closing(actor=request.actor, slug=slug, now=now)
    if request.method == "POST":
        typed, seen = request.POST.get("typed", "")[:200], request.POST.get("seen", "")
        try:
            closing.close_tenant(actor=request.actor, slug=slug, typed=typed, seen=seen, now=now)
        except (NotAllowed, NotVisible):
            raise
        except DomainError as error:
            refused = error
        else:
            messages.success(request, _("%(team)s is closed.") % {"team": found.tenant})
            return redirect("home")
    context = {"found": found, "refused": refused}
    return render(request, "teams/close.html", context, status=status_of(refused) if refused else 200)


def _page(
    request: PersonRequest,
    tenant: Tenant,
    *,
    new_link: str = "",
    refused: DomainError | None = None,
    given: dict[str, Any] | None = None,
) -> HttpResponse:
    owns = policy.has_role(request.user, tenant, "owner")
    context = {
        "team": tenant,
        "members": members.members_of(tenant),
        "owns": owns,
        "roles": policy.ROLES if owns else ("member",),
        "left_behind": left_behind(tenant),
        "snapshots_left": snapshots_kept.left_behind(tenant),
        "invitations": invitations.open_invitations(tenant, now=timezone.now()),
        "lifetimes": invitations.LIFETIMES,
        "new_link": new_link,
        "refused": refused,
        "given": given or {"roles": ["member"]},
    }
    return render(request, "teams/team.html", context, status=status_of(refused) if refused else 200)


def _member(tenant: Tenant, username: str) -> Person:
    found = next((one for one in members.members_of(tenant) if one.person.username == username), None)
    if found is None:
        raise NotVisible(_("There is no such person in the team."))
    return found.person
