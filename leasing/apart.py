"""A card serves whole or in slices, never both. The database refuses it too (leasing.guards)."""

from __future__ import annotations

from django.utils.translation import gettext as _

from hosts.models import Division, FoundCard, Gpu
from leasing.errors import WrongState


def open_division(gpu: Gpu) -> Division | None:
    """Of the GPU's card, from its order until the card is whole again."""
    return Division.objects.filter(gpu=gpu, state__in=Division.OPEN).first()


def whole_of(card: FoundCard) -> Gpu | None:
    """The GPU of which the found card is a slice. WrongState if that was not divided by the portal."""
    if not card.part:
        return None
    standing = Division.objects.filter(
        gpu__host=card.host_id, gpu__address=card.part["parent"], state=Division.State.STANDS
    )
    division = standing.select_related("gpu").first()
    if division is None:
        raise WrongState(
            _("It is a slice of a card that was not divided by this portal."),
            hint=_("Take the slices away on the host, and divide the card here."),
        )
    return division.gpu


def require_apart(gpu: Gpu) -> None:
    """WrongState if its card would serve in both ways at once."""
    if open_division(gpu):
        raise WrongState(_("Its card is divided into slices."), hint=_("Make the card whole again first."))
    if gpu.parent_id is None:
        return
    if not Division.objects.filter(gpu=gpu.parent_id, state=Division.State.STANDS).exists():
        raise WrongState(_("It is a slice of a card that is not divided any more."))
