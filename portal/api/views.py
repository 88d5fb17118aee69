"""What the API's views share: the actor, checked input, and lists in pages."""

from __future__ import annotations

from typing import Any, TypeVar

from django.db.models import Model
from knox.models import AuthToken
from rest_framework import generics
from rest_framework.request import Request
from rest_framework.serializers import Serializer
from rest_framework.views import APIView

from leasing.actors import Actor
from leasing.models import Person
from portal.console.admission import credential_of_token
from portal.middleware import actor_of

M = TypeVar("M", bound=Model)


def person_of(request: Request) -> Person:
    """Whoever is signed in: IsAuthenticated has let nobody else through."""
    person: Person = request.user  # type: ignore[assignment]
    return person


def api_actor(request: Request) -> Actor:
    return actor_of(request._request, person_of(request), token=getattr(request.auth, "token_key", ""))


def credential_of_request(request: Request) -> str:
    """What stands for the browser session or the token that a request came with."""
    if isinstance(request.auth, AuthToken):
        return credential_of_token(request.auth.token_key)
    return request.session.session_key or ""


def checked(serializer: type[Serializer[Any]], data: Any, **context: Any) -> dict[str, Any]:
    """Validated input; raises REST framework's ValidationError."""
    bound = serializer(data=data, context=context)
    bound.is_valid(raise_exception=True)
    valid: dict[str, Any] = bound.validated_data
    return valid


class ActionView(APIView):
    """A view of one act or object."""


class ListView(generics.ListAPIView[M]):
    """A list in pages. The queryset holds only what the person may see."""
