"""A card serves whole or in slices, never both. The database refuses it too (leasing.guards)."""

from __future__ import annotations

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils.translation import gettext as _

from hosts.models import Division, FoundCard, Gpu
from leasing.errors import WrongState


def open_division(gpu: Gpu) -> Division | None:
    """Of the GPU's card, from its order until the card is whole again."""
    return Division.objects.filter(gpu=gpu, state__in=Division.OPEN).first()


def without_former_slices(gpus: QuerySet[Gpu]) -> QuerySet[Gpu]:
    """Leaves out slices of cards that are whole again: they are kept for their history alone."""
    divided = Division.objects.filter(gpu=OuterRef("parent"), state__in=Division.OPEN)
    return gpus.filter(Q(parent=None) | Q(Exists(divided)))


def may_serve(gpu: Gpu) -> bool:
    """Whether its card does not serve in the other way."""
    try:
        require_apart(gpu)
    except WrongState:
        return False
    return True


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
