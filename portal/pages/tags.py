"""What a workstation is charged to inside its team: project and cost centre."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from leasing.tags import set_tags
from portal.middleware import PersonRequest
from portal.pages.actions import action


@action
def tag(request: PersonRequest, lease_id: UUID) -> str:
    set_tags(
        actor=request.actor,
        lease_id=lease_id,
        project=request.POST.get("project", ""),
        cost_centre=request.POST.get("cost_centre", ""),
        now=timezone.now(),
    )
    messages.success(request, _("Saved. What was invoiced stays as it is."))
    return reverse("workstation", args=[lease_id])
