"""The form of the book page: what, for whom, with which system, when, how long, and how it is repeated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django import forms
from django.db.models import Exists
from django.urls import reverse
from django.utils.dates import WEEKDAYS_ABBR
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from hosts.models import UsbDevice
from leasing.devices import chosen_devices, devices_with_models
from leasing.errors import DomainError, InvalidRequest, NotVisible
from leasing.extras import PLAIN, Extras, extras_for
from leasing.models import Flavor, Image, Person, Tenant
from leasing.models.leases import LONGEST_TAG
from leasing.recurrence import Pattern
from leasing.snapshots_kept import snapshot_named
from leasing.timing import PAST_TOLERANCE
from portal.middleware import PersonRequest
from portal.pages.context import roles_in

LENGTHS = {
    "1h": (gettext_lazy("1 hour"), timedelta(hours=1)),
    "2h": (gettext_lazy("2 hours"), timedelta(hours=2)),
    "4h": (gettext_lazy("4 hours"), timedelta(hours=4)),
    "8h": (gettext_lazy("8 hours"), timedelta(hours=8)),
    "1d": (gettext_lazy("1 day"), timedelta(days=1)),
    "1w": (gettext_lazy("1 week"), timedelta(weeks=1)),
}
WEEKS = {
    1: gettext_lazy("every week"),
    2: gettext_lazy("every 2nd week"),
    3: gettext_lazy("every 3rd week"),
    4: gettext_lazy("every 4th week"),
}
SOON, UNTIL = "soon", "until"
# The fields of what a workstation has beside its GPUs.
EXTRAS = ("with_home", "snapshot", "usb")
# What the address of the book page may say beside them.
IN_ADDRESS = (
    *("tenant", "flavor", "image", "days"),
    *("when", "starts_at", "earliest", "ends_by", "length", "ends_at", "longest"),
)
LOCAL_TIME = "%Y-%m-%dT%H:%M"
YEARS = range(2000, 2100)


class LocalTimeField(forms.DateTimeField):
    """A date and time in the reader's zone; the moment is in UTC, where an hour is an hour on every day."""

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
        return None if at is None else at.astimezone(UTC)


def chosen_end(given: str) -> datetime:
    """The end that a form of one field names. Raises InvalidRequest."""
    try:
        ends_at: datetime | None = LocalTimeField().clean(given)
    except forms.ValidationError as error:
        raise InvalidRequest(error.messages[0], field="ends_at") from error
    if ends_at is None:
        raise InvalidRequest(_("Say until when."), field="ends_at")
    return ends_at


class DatesField(forms.CharField):
    """Dates in ISO 8601 with commas between them, as a button says them."""

    def clean(self, value: Any) -> frozenset[date]:
        text = super().clean(value)
        try:
            return frozenset(map(date.fromisoformat, filter(None, text.split(","))))
        except ValueError as error:
            raise forms.ValidationError(_("These are not dates.")) from error


@dataclass(frozen=True)
class Choices:
    """What a person may choose from, read once for a page."""

    tenants: list[Tenant]
    flavors: list[Flavor]
    images: list[Image]
    devices: list[Device]


@dataclass(frozen=True)
class Device:
    """A USB device that can be chosen, and the flavors with which it can be had."""

    device: UsbDevice
    flavors: list[Flavor]


def choices_for(request: PersonRequest) -> Choices:
    """Raises NotVisible for whoever is a member of no team."""
    tenants = [tenant for tenant, roles in roles_in(request, request.user).items() if "member" in roles]
    if not tenants:
        raise NotVisible(_("You are not a member of any team, so you cannot book."))
    offered = Flavor.objects.filter(offered=True).select_related("model").order_by("gpu_count", "name")
    # Where nothing is plugged in, nothing more is asked of the database.
    flavors = list(offered.annotate(any_device=Exists(UsbDevice.objects.filter(gone_at=None))))
    images = list(Image.objects.filter(offered=True))
    any_device = any(flavor.any_device for flavor in flavors)
    return Choices(tenants, [*flavors], images, _devices([*flavors]) if any_device else [])


def _devices(flavors: list[Flavor]) -> list[Device]:
    found = [
        Device(device, [flavor for flavor in flavors if flavor.model_id in models])
        for device, models in devices_with_models()
    ]
    return [one for one in found if one.flavors]


class ListedField(forms.TypedChoiceField):
    """One of the things of a list, by its slug."""

    def offer(self, listed: Sequence[Tenant | Flavor | Image]) -> None:
        of_slug = {one.slug: one for one in listed}
        self.choices = [(slug, str(one)) for slug, one in of_slug.items()]
        self.coerce = of_slug.__getitem__


class BookingForm(forms.Form):
    """Only the shape of the input; whether it can be had is for leasing.booking to say."""

    tenant = ListedField()
    flavor = ListedField()
    image = ListedField()
    when = forms.ChoiceField(
        choices=[
            ("now", gettext_lazy("now")),
            (SOON, gettext_lazy("as soon as possible")),
            ("at", gettext_lazy("from")),
        ]
    )
    starts_at = LocalTimeField()
    earliest = LocalTimeField()
    ends_by = LocalTimeField()
    slot = forms.CharField(required=False, max_length=100)
    longest = forms.BooleanField(required=False)
    length = forms.ChoiceField(
        choices=[*((name, word) for name, (word, _length) in LENGTHS.items()), (UNTIL, gettext_lazy("until"))]
    )
    ends_at = LocalTimeField()
    weekdays = forms.TypedMultipleChoiceField(
        choices=[(number + 1, name) for number, name in WEEKDAYS_ABBR.items()], coerce=int, required=False
    )
    last_on = forms.DateField(required=False)
    every_weeks = forms.ChoiceField(choices=list(WEEKS.items()), required=False)
    without = DatesField(required=False)
    usb = forms.TypedMultipleChoiceField(coerce=int, required=False)
    purpose = forms.CharField(required=False, max_length=500)
    project = forms.CharField(required=False, max_length=LONGEST_TAG)
    cost_centre = forms.CharField(required=False, max_length=LONGEST_TAG)
    with_home = forms.BooleanField(required=False)
    snapshot = forms.UUIDField(required=False)

    def __init__(self, person: Person, choices: Choices, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.person = person
        listed: dict[str, Sequence[Tenant | Flavor | Image]]
        listed = {"tenant": choices.tenants, "flavor": choices.flavors, "image": choices.images}
        usb = self.fields["usb"]
        assert isinstance(usb, forms.TypedMultipleChoiceField)  # noqa: S101 - declared above
        usb.choices = [(one.device.pk, str(one.device)) for one in choices.devices]
        for name, things in listed.items():
            field = self.fields[name]
            assert isinstance(field, ListedField)  # noqa: S101 - declared above
            field.offer(things)
            field.error_messages["invalid_choice"] = _("This cannot be chosen. Choose another one.")

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        if given.get("when") == "at" and not given.get("starts_at") and "starts_at" not in self.errors:
            self.add_error("starts_at", _("Say from when, or choose “now”."))
        if given.get("length") == UNTIL and not given.get("ends_at") and "ends_at" not in self.errors:
            self.add_error("ends_at", _("Say until when, or choose a length."))
        if self.is_soon and given.get("length") == UNTIL:
            self.add_error("length", _("Choose how long you need it, or from when."))
        if self.is_soon and given.get("weekdays"):
            self.add_error("when", _("Say from when, for what is repeated."))
        if given.get("weekdays") and not given.get("last_on") and "last_on" not in self.errors:
            self.add_error("last_on", _("Say until which date it is repeated."))
        if given.get("last_on") and not given.get("weekdays") and "weekdays" not in self.errors:
            self.add_error("weekdays", _("Choose the days on which it is repeated, or clear the date."))
        if given.get("weekdays") and given.get("usb"):
            self.add_error("usb", _("Book it, then choose devices for each date on its page."))
        return given

    @property
    def is_soon(self) -> bool:
        """Whether the first time that is free is to be found."""
        return bool(self.data.get("when") == SOON)

    def starts(self) -> datetime | None:
        """From when on; None means now."""
        return self.cleaned_data.get(_STARTS.get(self.cleaned_data["when"], ""))

    @property
    def deadline(self) -> datetime | None:
        """By when what is found must have ended."""
        return self.cleaned_data["ends_by"] if self.is_soon else None

    def ends(self, now: datetime) -> datetime:
        if self.cleaned_data["length"] == UNTIL:
            ends_at: datetime = self.cleaned_data["ends_at"]
            return ends_at
        return (self.starts() or now) + LENGTHS[self.cleaned_data["length"]][1]

    def window(self, now: datetime) -> tuple[datetime, datetime]:
        """From when until when; of what is to be found, the first window that would do."""
        starts_at, ends_at = self.starts() or now, self.ends(now)
        late = max(starts_at, now) - starts_at if self.is_soon else timedelta(0)
        return starts_at + late, ends_at + late

    def shown(self, starts_at: datetime) -> str:
        """A slot that was found, as the form keeps it together with what it was found for."""
        wanted = json.dumps([str(self[name].value() or "") for name in _FINDS])
        return f"{starts_at.isoformat()} {hashlib.sha256(wanted.encode()).hexdigest()[:16]}"

    def found(self, now: datetime) -> tuple[datetime, datetime]:
        """The window that was found and shown. Raises InvalidRequest if it is not what is asked for now."""
        starts_at, (first, its_end) = self._slot(), self.window(now)
        if starts_at is not None and starts_at >= first - PAST_TOLERANCE:
            ends_at = starts_at + (its_end - first)
            if ends_at <= (self.deadline or ends_at):
                return starts_at, ends_at
        raise InvalidRequest(
            _("Nothing is booked yet."), hint=_("See first which time was found for it."), field="when"
        )

    def _slot(self) -> datetime | None:
        """The start that was shown for what is chosen."""
        said = self.cleaned_data["slot"]
        with suppress(ValueError):
            starts_at = datetime.fromisoformat(said.partition(" ")[0])
            if starts_at.tzinfo and starts_at.year in YEARS and said == self.shown(starts_at):
                return starts_at
        return None

    def local(self, at: datetime) -> str:
        """A moment as the form says it, in the person's zone."""
        return at.astimezone(ZoneInfo(self.person.timezone)).strftime(LOCAL_TIME)

    def address(self, *, without: Collection[str] = (), **changes: str) -> str:
        """The book page with the choice so far, changed."""
        chosen: dict[str, Any] = {name: self.data[name] for name in IN_ADDRESS if name in self.data}
        for name in EXTRAS:
            if name not in without and (value := self[name].value()):
                chosen[name] = "1" if value is True else value
        return f"{reverse('book')}?{urlencode(chosen | changes, doseq=True)}"

    def extras(self) -> Extras:
        """What is chosen beside the GPUs, as far as it can be had at all. Raises InvalidRequest."""
        chosen = self.cleaned_data
        if not {"tenant", "flavor", *EXTRAS} <= chosen.keys():
            return PLAIN
        devices = chosen_devices(chosen["flavor"], chosen["usb"])
        return extras_for(chosen["tenant"], self.person, devices=devices, **self.storage())

    def storage(self) -> dict[str, Any]:
        """What outlives workstations and is to be with these. Raises InvalidRequest."""
        snapshot = self.cleaned_data["snapshot"]
        return {
            "with_home": self.cleaned_data["with_home"],
            "snapshot": snapshot_named(self.person, snapshot) if snapshot else None,
        }

    @property
    def is_repeated(self) -> bool:
        return bool(self.cleaned_data["weekdays"])

    def pattern(self, now: datetime) -> Pattern:
        """What is repeated, in the reader's zone. Raises InvalidRequest for what lasts longer than a day."""
        zone = ZoneInfo(self.person.timezone)
        starts = (self.starts() or now).astimezone(zone).replace(tzinfo=None)
        if self.cleaned_data["length"] == UNTIL:
            ends = self.ends(now).astimezone(zone).replace(tzinfo=None)
        else:
            ends = starts + LENGTHS[self.cleaned_data["length"]][1]
        if not timedelta(0) < ends - starts <= timedelta(days=1):
            raise InvalidRequest(
                _("What is repeated lasts a day at most."), hint=_("Choose an earlier end."), field="ends"
            )
        return Pattern(
            weekdays=frozenset(self.cleaned_data["weekdays"]),
            starts=starts.time().replace(second=0, microsecond=0),
            ends=ends.time().replace(second=0, microsecond=0),
            zone=self.person.timezone,
            first_on=starts.date(),
            last_on=self.cleaned_data["last_on"],
            every_weeks=int(self.cleaned_data["every_weeks"] or 1),
        )


# What decides which slot is found.
_FINDS = ("tenant", "flavor", "earliest", "ends_by", "length", *EXTRAS)
# Which field says from when on.
_STARTS = {"at": "starts_at", SOON: "earliest"}
# What the rules call their fields, where this form calls them otherwise.
_FIELDS = {"first_on": "starts_at", "ends": "length"}


def add_domain_error(form: forms.Form, error: DomainError) -> None:
    """Beside the field at fault, with what to do."""
    name = _FIELDS.get(error.field, error.field)
    field = name if name in form.fields else None
    words = " ".join(filter(None, (str(error.message), str(error.hint))))
    form.add_error(field, words)
