"""How lines become a total with tax, and what is left to credit. Pure.

Tax is computed once for each invoice, on its net total. A credit note bears the tax by which that of what is
left of the invoice falls: whatever is credited in however many steps, nothing remains when all is credited.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from leasing.terms import HUNDRED, line_amount, rounded


@dataclass(frozen=True)
class Totals:
    """`gross` is net and tax."""

    net: Decimal
    tax: Decimal

    @property
    def gross(self) -> Decimal:
        return self.net + self.tax


@dataclass(frozen=True)
class Owed:
    """Seconds and money of one line that are still owed, after what was credited."""

    seconds: int
    amount: Decimal


def tax_on(net: Decimal, percent: Decimal, currency: str) -> Decimal:
    return rounded(net * percent / HUNDRED, currency)


def totals_of(amounts: Iterable[Decimal], percent: Decimal, currency: str) -> Totals:
    net = sum(amounts, Decimal(0))
    return Totals(net, tax_on(net, percent, currency))


def credit_totals(amounts: Iterable[Decimal], *, left: Decimal, percent: Decimal, currency: str) -> Totals:
    """Of a credit note with these amounts, none above zero, when so much net was left of the invoice."""
    net = sum(amounts, Decimal(0))
    return Totals(net, tax_on(left + net, percent, currency) - tax_on(left, percent, currency))


def credit_for(owed: Owed, *, seconds_due: int, rate_per_hour: Decimal, currency: str) -> Owed | None:
    """How much less is due of a line, as seconds and money below zero; None if it is all due."""
    if seconds_due >= owed.seconds:
        return None
    amount = line_amount(seconds=seconds_due, rate_per_hour=rate_per_hour, currency=currency)
    return Owed(seconds_due - owed.seconds, amount - owed.amount)
