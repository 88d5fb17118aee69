"""The book page: what, with which system, when and how long; the price is there before the button."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods, require_safe

from leasing import policy
from leasing.booking import approval_reason, quote_lease, request_lease
from leasing.errors import DomainError, NotVisible
from leasing.limits import check_window
from leasing.models import Flavor, Image, Lease, Person, Tenant
from leasing.pricing import Quote, rate_of
from leasing.reasons import Reason
from leasing.slots import Slot, find_slots, longest_end
from portal.middleware import PersonRequest

LENGTHS = {
    "1h": (gettext_lazy("1 hour"), timedelta(hours=1)),
    "2h": (gettext_lazy("2 hours"), timedelta(hours=2)),
    "4h": (gettext_lazy("4 hours"), timedelta(hours=4)),
    "8h": (gettext_lazy("8 hours"), timedelta(hours=8)),
    "1d": (gettext_lazy("1 day"), timedelta(days=1)),
    "1w": (gettext_lazy("1 week"), timedelta(weeks=1)),
}
UNTIL = "until"
LOCAL_TIME = "%Y-%m-%dT%H:%M"
YEARS = range(2000, 2100)


class LocalTimeField(forms.DateTimeField):
    """A date and time in the reader's zone."""

    def __init__(self, **kwargs: Any) -> None:
        widget = forms.DateTimeInput(attrs={"type": "datetime-local"}, format=LOCAL_TIME)
        super().__init__(widget=widget, required=False, **kwargs)
        self.error_messages["invalid"] = gettext_lazy(
            "This is not a date and time, such as 2027-03-01 14:30."
        )

    def to_python(self, value: Any) -> datetime | None:
        try:
            at = super().to_python(value)
        except OverflowError:
            at = None
        if value and (at is None or at.year not in YEARS):
            raise forms.ValidationError(_("This date is out of range. Choose one of the next weeks."))
        return at


class BookingForm(forms.Form):
    """Only the shape of the input; whether it can be had is for leasing.booking to say."""

    tenant = forms.ModelChoiceField(Tenant.objects.none(), to_field_name="slug", empty_label=None)
    flavor = forms.ModelChoiceField(
        Flavor.objects.filter(offered=True).select_related("model"), to_field_name="slug", empty_label=None
    )
    image = forms.ModelChoiceField(Image.objects.filter(offered=True), to_field_name="slug", empty_label=None)
    when = forms.ChoiceField(choices=[("now", gettext_lazy("now")), ("at", gettext_lazy("from"))])
    starts_at = LocalTimeField()
    length = forms.ChoiceField(
        choices=[*((name, word) for name, (word, _length) in LENGTHS.items()), (UNTIL, gettext_lazy("until"))]
    )
    ends_at = LocalTimeField()
    purpose = forms.CharField(required=False, max_length=500)

    def __init__(self, person: Person, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.person = person
        tenants = policy.tenants_with_role(person, "member").order_by("name")
        self.fields["tenant"].queryset = tenants  # type: ignore[attr-defined]
        for name in ("tenant", "flavor", "image"):
            self.fields[name].error_messages["invalid_choice"] = _(
                "This cannot be chosen. Choose another one."
            )

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        if given.get("when") == "at" and not given.get("starts_at") and "starts_at" not in self.errors:
            self.add_error("starts_at", _("Say from when, or choose “now”."))
        if given.get("length") == UNTIL and not given.get("ends_at") and "ends_at" not in self.errors:
            self.add_error("ends_at", _("Say until when, or choose a length."))
        return given

    def starts(self) -> datetime | None:
        """None means now."""
        return self.cleaned_data["starts_at"] if self.cleaned_data["when"] == "at" else None

    def ends(self, now: datetime) -> datetime:
        if self.cleaned_data["length"] == UNTIL:
            ends_at: datetime = self.cleaned_data["ends_at"]
            return ends_at
        return (self.starts() or now) + LENGTHS[self.cleaned_data["length"]][1]


PROPOSALS = 3


@dataclass(frozen=True)
class Proposal:
    """A window that is free, and the address of this page with it filled in."""

    slot: Slot
    address: str


@dataclass(frozen=True)
class Offer:
    """What the page says before the button is pressed."""

    quote: Quote
    starts_at: datetime
    ends_at: datetime
    approval_because: Reason
    free: bool
    longest: datetime | None
    proposals: list[Proposal]


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def book(request: PersonRequest) -> HttpResponse:
    now = timezone.now()
    require_member(request.user)
    if request.method != "POST":
        suggested = _suggested(request)
        form = BookingForm(request.user, initial=suggested)
        return _page(request, form, offer_of(BookingForm(request.user, suggested), now), now)
    form = BookingForm(request.user, request.POST)
    if "show_price" in request.POST:
        return _page(request, form, offer_of(form, now), now)
    lease = _booked(request, form, now) if form.is_valid() else None
    if lease is None:
        offer = offer_of(BookingForm(request.user, request.POST), now)
        return _page(request, form, offer, now, status=400)
    messages.success(request, _booked_words(lease))
    return redirect("workstation", lease.pk)


@login_required
@require_safe
def book_price(request: PersonRequest) -> HttpResponse:
    """The price and what follows from the choice so far, as a fragment; works on an unfinished form."""
    now = timezone.now()
    require_member(request.user)
    form = BookingForm(request.user, request.GET)
    return render(request, "book/_price.html", {"offer": offer_of(form, now), "form": form})


def require_member(person: Person) -> None:
    if not policy.tenants_with_role(person, "member").exists():
        raise NotVisible(_("You are not a member of any team, so you cannot book."))


def offer_of(form: BookingForm, now: datetime) -> Offer | None:
    """The offer for a form; None, with the fault written beside its field, if there can be none."""
    if not form.is_valid():
        return None
    chosen = form.cleaned_data
    starts_at, ends_at = form.starts() or now, form.ends(now)
    try:
        check_window(starts_at, ends_at, now=now)
        quote = quote_lease(flavor=chosen["flavor"], starts_at=starts_at, ends_at=ends_at)
    except DomainError as error:
        add_domain_error(form, error)
        return None
    because = approval_reason(
        tenant=chosen["tenant"],
        person=form.person,
        flavor=chosen["flavor"],
        starts_at=starts_at,
        ends_at=ends_at,
        now=now,
    )
    return Offer(quote, starts_at, ends_at, because, *_availability(form, starts_at, ends_at, now))


def _availability(
    form: BookingForm, starts_at: datetime, ends_at: datetime, now: datetime
) -> tuple[bool, datetime | None, list[Proposal]]:
    """Whether it is free then; if not, until when it would be, and when it is for as long as wanted."""
    flavor, duration = form.cleaned_data["flavor"], ends_at - starts_at
    slots = find_slots(flavor, duration, earliest=starts_at, count=PROPOSALS, now=now)
    if slots and slots[0].starts_at <= max(starts_at, now):
        return True, None, []
    longest = longest_end(flavor, max(starts_at, now), until=ends_at, now=now)
    return False, longest, [Proposal(slot, _address_of(form, slot)) for slot in slots]


def _address_of(form: BookingForm, slot: Slot) -> str:
    """Up to the next whole minute, which is all that the form can say."""
    starts_at = slot.starts_at + (-slot.starts_at.timestamp() % 60) * timedelta(seconds=1)
    names = ("tenant", "flavor", "image", "length", "ends_at")
    chosen = {name: form.data[name] for name in names if name in form.data}
    zone = ZoneInfo(form.person.timezone)
    window = {"when": "at", "starts_at": starts_at.astimezone(zone).strftime(LOCAL_TIME)}
    if chosen.get("length") == UNTIL:
        ends_at = starts_at + (slot.ends_at - slot.starts_at)
        window["ends_at"] = ends_at.astimezone(zone).strftime(LOCAL_TIME)
    return f"{reverse('book')}?{urlencode(chosen | window)}"


def add_domain_error(form: forms.Form, error: DomainError) -> None:
    """Beside the field at fault, with what to do."""
    field = error.field if error.field in form.fields else None
    words = " ".join(filter(None, (str(error.message), str(error.hint))))
    form.add_error(field, words)


def _booked(request: PersonRequest, form: BookingForm, now: datetime) -> Lease | None:
    chosen = form.cleaned_data
    try:
        return request_lease(
            actor=request.actor,
            tenant=chosen["tenant"],
            flavor=chosen["flavor"],
            image=chosen["image"],
            starts_at=form.starts(),
            ends_at=form.ends(now),
            purpose=chosen["purpose"],
            now=now,
        )
    except DomainError as error:
        add_domain_error(form, error)
        return None


def _booked_words(lease: Lease) -> str:
    if lease.needs_approval_because:
        return _("Asked. You will be told by e-mail when it has been decided.")
    return _("Booked. Everything that happens to it is shown here.")


def _suggested(request: PersonRequest) -> dict[str, Any]:
    """What is chosen at first: the address may say, as “book again” does."""
    tenant = policy.tenants_with_role(request.user, "member").order_by("name").first()
    flavor = Flavor.objects.filter(offered=True).first()
    image = Image.objects.filter(offered=True).first()
    first = {
        "tenant": tenant and tenant.slug,
        "flavor": flavor and flavor.slug,
        "image": image and image.slug,
        "when": "now",
        "length": "4h",
    }
    names = ("tenant", "flavor", "image", "when", "starts_at", "length", "ends_at")
    return first | {name: request.GET[name] for name in names if name in request.GET}


def _page(
    request: PersonRequest, form: BookingForm, offer: Offer | None, now: datetime, *, status: int = 200
) -> HttpResponse:
    flavors = Flavor.objects.filter(offered=True).select_related("model")
    context = {
        "form": form,
        "offer": offer,
        "flavors": [(flavor, rate_of(flavor, at=now)) for flavor in flavors],
        "images": Image.objects.filter(offered=True),
        "tenants": policy.tenants_with_role(request.user, "member").order_by("name"),
        "lengths": [(name, word) for name, (word, _length) in LENGTHS.items()],
        "zone": request.user.timezone,
    }
    return render(request, "book/book.html", context, status=status)
