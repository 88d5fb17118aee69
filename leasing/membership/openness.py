"""Whether anything new may be booked for a tenant. Pure."""

from __future__ import annotations

from django.utils.translation import gettext as _

from leasing.errors import WrongState
from leasing.models import Tenant


def require_open(tenant: Tenant) -> None:
    """WrongState if nothing new is booked for it. Whoever acts on the answer has locked the tenant."""
    if tenant.closed_at is not None:
        raise WrongState(
            _("The team is closed: nothing new is booked for it."), hint=_("Choose another team.")
        )
    if tenant.no_bookings_since is not None:
        raise WrongState(
            _("The operators have stopped bookings for now."), hint=_("Try again when they have lifted that.")
        )
