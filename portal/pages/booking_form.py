"""The form of the book page: what, for whom, with which system, when and how long."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from leasing import policy
from leasing.errors import DomainError, InvalidRequest
from leasing.models import Flavor, Image, Person, Tenant

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


def chosen_end(given: str) -> datetime:
    """The end that a form of one field names. Raises InvalidRequest."""
    try:
        ends_at: datetime | None = LocalTimeField().clean(given)
    except forms.ValidationError as error:
        raise InvalidRequest(error.messages[0], field="ends_at") from error
    if ends_at is None:
        raise InvalidRequest(_("Say until when."), field="ends_at")
    return ends_at


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


def add_domain_error(form: forms.Form, error: DomainError) -> None:
    """Beside the field at fault, with what to do."""
    field = error.field if error.field in form.fields else None
    words = " ".join(filter(None, (str(error.message), str(error.hint))))
    form.add_error(field, words)
