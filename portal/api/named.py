"""What a request names by its slug. InvalidRequest, with the field, for what cannot be named."""

from __future__ import annotations

from django.utils.translation import gettext as _

from leasing import policy
from leasing.errors import InvalidRequest
from leasing.models import Flavor, Image, Person, Tenant


def tenant_named(person: Person, slug: str | None) -> Tenant:
    tenants = policy.tenants_with_role(person, "member")
    found = list(tenants.filter(slug=slug) if slug else tenants[:2])
    if len(found) == 1:
        return found[0]
    if slug is None and found:
        raise InvalidRequest(_("You are in several teams."), hint=_("Say which: “tenant”."), field="tenant")
    raise InvalidRequest(
        _("There is no such team, or you are not a member of it."),
        hint=_("See /api/v1/tenants/."),
        field="tenant",
    )


def flavor_named(slug: str) -> Flavor:
    found = Flavor.objects.filter(slug=slug, offered=True).select_related("model").first()
    if found is None:
        raise InvalidRequest(
            _("There is no such workstation."), hint=_("See /api/v1/flavors/."), field="flavor"
        )
    return found


def image_named(slug: str) -> Image:
    found = Image.objects.filter(slug=slug, offered=True).first()
    if found is None:
        raise InvalidRequest(_("There is no such image."), hint=_("See /api/v1/images/."), field="image")
    return found
