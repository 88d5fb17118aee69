"""Signing in and out, each with its audit entry."""

from __future__ import annotations

from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView, LogoutView
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from leasing.audit.log import record, record_sparingly
from leasing.models import Person
from portal.middleware import actor_of, stranger_of


class SignIn(LoginView):
    template_name = "sign_in.html"
    redirect_authenticated_user = True

    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        person = form.get_user()
        with transaction.atomic():
            response = super().form_valid(form)
            _record(self.request, "person.sign-in", person)
        return response

    def form_invalid(self, form: AuthenticationForm) -> HttpResponse:
        """What was typed is recorded only if it is somebody's name: it may as well be a password."""
        typed = str(form.data.get("username", "")).replace("\x00", "")[:150]
        person = Person.objects.filter(username=typed).first()
        record_sparingly(
            action="person.sign-in-fail",
            actor=stranger_of(self.request),
            subject=f"person:{person.pk}" if person else "person:unknown",
            now=timezone.now(),
            person=person.username if person else None,
            locked=bool(getattr(self.request, "axes_locked_out", False)),
        )
        return super().form_invalid(form)


class SignOut(LogoutView):
    """By POST only, so that no link or picture can do it."""

    http_method_names = ["post", "options"]

    def post(self, request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
        if isinstance(request.user, Person):
            _record(request, "person.sign-out", request.user)
        return super().post(request, *args, **kwargs)


def _record(request: HttpRequest, action: str, person: Person) -> None:
    record(
        action=action,
        actor=actor_of(request, person),
        subject=f"person:{person.pk}",
        now=timezone.now(),
        person=person.username,
    )
