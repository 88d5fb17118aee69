"""What an outage may be about, by its kind and what people know it by."""

from __future__ import annotations

from uuid import UUID

from django.utils.translation import gettext as _

from hosts.models import Gpu, GpuModel, Host
from leasing.errors import InvalidRequest


def outage_subject(kind: str, key: str) -> Host | Gpu | GpuModel:
    """A host or GPU by its id, a model by its slug. Raises InvalidRequest."""
    found: Host | Gpu | GpuModel | None = None
    if kind == "model":
        found = GpuModel.objects.filter(slug=key).first()
    elif kind in ("host", "gpu") and (pk := _uuid(key)) is not None:
        found = (Host if kind == "host" else Gpu).objects.filter(pk=pk).first()
    if found is None:
        raise InvalidRequest(_("Say what had the outage: a host, a GPU or a model."), field="what")
    return found


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
