"""Input of the API: fields that say what is wrong, and serializers that refuse what they do not know."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, TypeVar

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from rest_framework import serializers

from leasing.models.catalogue import MOST_USB_DEVICES

T = TypeVar("T")
EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


class MomentField(serializers.DateTimeField):
    """A moment, ISO 8601 with its zone; in UTC inside. One without a zone could mean any of 38 moments."""

    default_error_messages = {
        "naive": gettext_lazy("Say the zone: end with “Z” or an offset such as “+02:00”."),
        "range": gettext_lazy("This moment is out of range."),
    }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(default_timezone=UTC, **kwargs)

    def enforce_timezone(self, value: datetime) -> datetime:
        if value.tzinfo is None:
            self.fail("naive")
        try:
            moment = value.astimezone(UTC)
        except OverflowError:
            self.fail("range")
        if not EARLIEST <= moment < LATEST:
            self.fail("range")
        return moment


class StrictSerializer(serializers.Serializer[T]):
    """A misspelt field is an error, not a silent default."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict) and (unknown := set(data) - set(self.fields)):
            raise serializers.ValidationError(
                {str(name)[:100]: _("There is no such field.") for name in sorted(map(str, unknown))}
            )
        return super().to_internal_value(data)


class DevicesField(serializers.ListField):
    """Numbers of USB devices, from /api/v1/usb-devices/."""

    child = serializers.IntegerField(min_value=1, max_value=2**53)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=MOST_USB_DEVICES, **kwargs)
