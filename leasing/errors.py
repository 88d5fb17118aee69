"""What can go wrong in the domain, in words for the person who asked. Messages are translated lazily."""

from __future__ import annotations

from django.utils.functional import Promise

Words = str | Promise


class DomainError(Exception):
    """`message` says what happened, `hint` what to do; `field` names the input at fault, if one is."""

    code = "refused"

    def __init__(self, message: Words, *, hint: Words = "", field: str = "", code: str = "") -> None:
        super().__init__(str(message))
        self.message = message
        self.hint = hint
        self.field = field
        self.code = code or self.code

    def faults(self) -> list[tuple[str, Words]]:
        """Each input at fault, and what is wrong with it."""
        return [(self.field, self.message)] if self.field else []


class InvalidRequest(DomainError):
    """The input is well-formed but asks for something that cannot be."""

    code = "invalid"


class NothingFree(DomainError):
    """No GPU can serve the window that was asked for."""

    code = "nothing-free"


class WrongState(DomainError):
    """The object is not in a state in which this can be done."""

    code = "wrong-state"


class NotAllowed(DomainError):
    """The person sees the object but may not do this with it."""

    code = "not-allowed"


class NotVisible(DomainError):
    """There is no such object, or none that this person may know of: the two look the same."""

    code = "not-found"
