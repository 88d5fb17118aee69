"""Where notices point to: addresses of the portal's pages, as browsers see them."""

from __future__ import annotations

from django.conf import settings

from leasing.models import Lease, Series


def of_lease(lease: Lease) -> str:
    return f"{settings.SITE_URL}/workstations/{lease.pk}/"


def of_more_time(lease: Lease) -> str:
    """Where one click keeps it longer."""
    return f"{of_lease(lease)}extend/"


def of_storage() -> str:
    return f"{settings.SITE_URL}/account/storage/"


def of_series(series: Series) -> str:
    return f"{settings.SITE_URL}/series/{series.pk}/"


def of_approvals() -> str:
    return f"{settings.SITE_URL}/approvals/"


def of_budget() -> str:
    return f"{settings.SITE_URL}/budget/"


def of_quota() -> str:
    return f"{settings.SITE_URL}/quota/"
