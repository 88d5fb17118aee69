"""Which images of the portal's this host is to hold, and how far each copy is, as the journal keeps it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from hosts.agent.journal import Journal
from hosts.agent.spool import Spool
from hosts.protocol.images import IMAGES_AT_MOST, CopyFacts, CopyState, HeldImage, HoldImages, ImageCopies

_KEY = "images"
REASON_AT_MOST = 200
COPIES_AT_MOST = 2 * IMAGES_AT_MOST
LOOK_SECONDS = 0.2


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """One copy. `done` bytes of it are surely on the disk. Without `wanted` it goes when nothing uses it.

    `ours`: the file under its name was put there by this program.
    """

    image: HeldImage
    state: CopyState = "waiting"
    done: Annotated[int, Meta(ge=0)] = 0
    reason: str = ""
    wanted: bool = True
    ours: bool = False

    @property
    def digest(self) -> str:
        return self.image.digest

    def path(self, directory: Path) -> Path:
        return directory / f"{self.image.name}.{self.image.format}"

    def facts(self) -> CopyFacts:
        return CopyFacts(digest=self.digest, state=self.state, done=self.done, reason=self.reason)


class Copies:
    """The copies, kept as one value: there are few, and each goal names all of them.

    `on_wanted` is told when there may be something to fetch. `untold`: something is to be reported.
    `hurried` are those that machines wait for.
    """

    def __init__(self, journal: Journal, spool: Spool, *, host: str) -> None:
        self._journal = journal
        self._spool = spool
        self._subject = f"images:{host}"
        self._reported = 0
        self._changed = threading.Condition()
        self.hurried: set[str] = set()
        self.untold = True
        self.on_wanted: Callable[[], None] = lambda: None

    def all(self) -> list[Copy]:
        with self._journal.transaction():
            text = self._journal.recall(_KEY)
        return [] if text is None else msgspec.json.decode(text, type=list[Copy])

    def find(self, digest: str) -> Copy | None:
        return next((copy for copy in self.all() if copy.digest == digest), None)

    def want(self, goal: HoldImages) -> None:
        """Inside the transaction that accepts the goal. What is known of a copy stays known."""
        named = {image.digest: image for image in goal.images}
        known = {copy.digest: copy for copy in self.all()}
        kept = [
            msgspec.structs.replace(copy, wanted=digest in named, image=named.get(digest, copy.image))
            for digest, copy in known.items()
        ]
        new = [Copy(image=image) for digest, image in named.items() if digest not in known]
        self._write([*kept, *new])
        self.untold = True
        self.on_wanted()

    def change(self, digest: str, **fields: object) -> None:
        """Write what has become of a copy, and tell whoever waits."""
        with self._journal.transaction():
            copies = self.all()
            reason = str(fields.get("reason", ""))[:REASON_AT_MOST]
            self._write(
                msgspec.structs.replace(copy, **{**fields, "reason": reason})
                if copy.digest == digest
                else copy
                for copy in copies
            )
        with self._changed:
            self._changed.notify_all()

    def forget(self, digest: str) -> None:
        with self._journal.transaction():
            self._write(copy for copy in self.all() if copy.digest != digest)

    def await_held(self, digest: str, *, seconds: float, is_over: Callable[[], bool]) -> Copy | None:
        """Have it fetched before all others, and wait; the copy as it then is. `is_over` ends the waiting."""
        with self._changed:
            self.hurried.add(digest)
        self.on_wanted()
        deadline = time.monotonic() + seconds
        while (copy := self.find(digest)) and copy.state != "held" and time.monotonic() < deadline:
            with self._changed:
                self._changed.wait(LOOK_SECONDS)
            if is_over():
                break
        return copy

    def take_hurried(self) -> set[str]:
        """Those that somebody waits for since this was asked last."""
        with self._changed:
            hurried, self.hurried = self.hurried, set()
        return hurried

    def report(self, *, even_if_waiting: bool = True) -> None:
        """Tell the portal of all copies; of mere progress only once the last report has arrived."""
        if not even_if_waiting and self._spool.holds(self._reported):
            return
        with self._journal.transaction():
            facts = tuple(copy.facts() for copy in self.all())
            told = ImageCopies(copies=facts[:COPIES_AT_MOST])
            self._reported = self._spool.add(told, self._spool.origin_of(self._subject))

    def _write(self, copies: Iterable[Copy]) -> None:
        self._journal.remember(_KEY, msgspec.json.encode(list(copies)).decode())
