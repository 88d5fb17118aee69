"""How the GPUs of a model are cleaned: the methods, how much a proven one has to reach, what is read back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db import transaction
from django.utils.translation import gettext as _

from hosts.models import GpuModel
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.errors import InvalidRequest, NotVisible
from leasing.fleet import authorise
from leasing.locking import locked

MOST_METHODS = 8
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def set_scrub_policy(
    *,
    actor: Actor,
    model: str,
    methods: Sequence[str],
    required_reach_permille: int,
    read_back: str,
    now: datetime,
) -> GpuModel:
    """From its next scrub on, a GPU of this model is cleaned and judged so; what is clean stays so."""
    authorise(actor)
    _check(methods, required_reach_permille, read_back)
    with transaction.atomic():
        found = locked(GpuModel.objects.filter(slug=model)).first()
        if found is None:
            raise NotVisible(_("There is no such GPU model."))
        before = _told(found)
        found.scrub_methods = list(methods)
        found.required_reach_permille = required_reach_permille
        found.read_back = read_back
        found.save(update_fields=["scrub_methods", "required_reach_permille", "read_back"])
        facts: dict[str, Any] = {"before": before, "after": _told(found)}
        record(action="model.scrub-policy", actor=actor, subject=f"model:{found.slug}", now=now, **facts)
    return found


def _check(methods: Sequence[str], reach: int, read_back: str) -> None:
    if not 1 <= len(methods) <= MOST_METHODS or len(set(methods)) != len(methods):
        raise InvalidRequest(
            _("Name one to %(most)d methods, each once.") % {"most": MOST_METHODS}, field="methods"
        )
    for name in methods:
        if not _NAME.fullmatch(name):
            raise InvalidRequest(
                _("“%(name)s” is not the name of a method.") % {"name": name}, field="methods"
            )
    if not 1 <= reach <= 1000:
        raise InvalidRequest(_("The reach is more than 0 % and at most 100 %."), field="reach")
    if read_back not in GpuModel.ReadBack.values:
        raise InvalidRequest(_("Choose what is read back."), field="read_back")


def _told(model: GpuModel) -> dict[str, Any]:
    return {
        "methods": model.scrub_methods,
        "required_reach_permille": model.required_reach_permille,
        "read_back": model.read_back,
    }
