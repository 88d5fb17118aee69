"""The description of the API: every operation also names the problems that it may answer with."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Literal

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import inline_serializer
from rest_framework import serializers

from leasing.availability.sweep import Kind
from leasing.models import WaitlistEntry
from leasing.states.lease import LeaseState, Outcome
from portal.api.problems import MEDIA_TYPE

LEASE_STATES = [(state.value, state.value) for state in LeaseState]
LEASE_OUTCOMES = [(outcome.value, outcome.value) for outcome in Outcome]
WAITLIST_OUTCOMES = WaitlistEntry.Outcome.choices
OUTAGE_KINDS = [(kind, kind) for kind in ("host", "gpu", "model")]
STRETCH_KINDS = [(kind.value, kind.value) for kind in Kind]

# RFC 9457 problem details. `hint` says what to do; `errors` names the fields at fault.
PROBLEM = inline_serializer(
    "Problem",
    {
        "type": serializers.CharField(),
        "title": serializers.CharField(),
        "status": serializers.IntegerField(),
        "detail": serializers.CharField(),
        "hint": serializers.CharField(allow_blank=True),
        "errors": inline_serializer(
            "FieldFault",
            {"field": serializers.CharField(allow_blank=True), "detail": serializers.CharField()},
            many=True,
        ),
        "instance": serializers.CharField(required=False),
    },
)


class ProblemSchema(AutoSchema):
    """REST framework's schema of a view, with problems added."""

    def _get_response_bodies(self, direction: Literal["request", "response"] = "response") -> Any:
        bodies = super()._get_response_bodies(direction)
        reference = self.resolve_serializer(PROBLEM, "response").ref
        for status in self._problems():
            content = {MEDIA_TYPE: {"schema": reference}}
            bodies.setdefault(str(status), {"description": HTTPStatus(status).phrase, "content": content})
        return bodies

    def _problems(self) -> Iterator[int]:
        yield from (400, 401, 403, 404, 406, 429)
        if self.method == "POST":
            yield from (409, 413, 415)


class ApiTokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How the description of the API names it."""

    target_class = "portal.api.authentication.ApiTokenAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {
            "type": "apiKey",
            "in": "header",
            "name": "Authorization",
            "description": "The word “Token”, a space, and a token of your account page.",
        }
