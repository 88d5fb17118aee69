"""What a check finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import NamedTuple


class Finding(NamedTuple):
    """An invariant does not hold for `subject`, which is `kind:id`; `check` is the id of who found it."""

    subject: str
    problem: str
    check: str = ""


Check = Callable[[datetime], Iterator[Finding]]
