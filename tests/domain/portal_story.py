"""The real portal and a host's own code in peace, for stories that are told step by step."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from leasing.actors import SYSTEM
from leasing.booking import request_lease
from leasing.fleet import admit_gpu
from leasing.models import Lease
from tests.domain.portal_history import PortalHistory


class PortalStory(PortalHistory):
    """Nothing happens that the story does not say."""

    def begin(self) -> None:
        """All GPUs are in service, and clean."""
        self.calm = True
        self.exchange()
        for card in self.host.found_cards.all():
            model = self.models[card.address]
            admit_gpu(actor=SYSTEM, card_id=card.pk, model_id=model.pk, now=self.clock.now)
        self.until(lambda: not self._unclean())

    def book(self, *, length: timedelta, starts: timedelta = timedelta(0), of_nvidia: bool = False) -> Lease:
        """On a card of which there are two, or on the third, which is of another model."""
        begin, flavor = self.clock.now + starts, self.flavors[2 if of_nvidia else 0]
        return request_lease(
            actor=self._ada(), tenant=self.world.studio, flavor=flavor, image=self.image,
            starts_at=begin, ends_at=begin + length, now=self.clock.now,
        )  # fmt: skip

    def until(self, is_done: Callable[[], bool]) -> None:
        self._until(is_done)
        assert is_done()

    def are(self, state: str, *leases: Lease) -> bool:
        return set(self._leases(state)) == set(leases)

    def running(self) -> set[str]:
        return {facts.name for facts in self.room.machines.machines() if facts.is_active}
