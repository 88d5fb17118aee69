"""How somebody wants to hear of things: by e-mail, in the browser, at a webhook; what is new for a page."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.cache import cache
from django.http import HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from leasing import hooks
from leasing.errors import DomainError, InvalidRequest
from leasing.hook_client import LONGEST_URL, HookRefused
from leasing.models import HookDelivery
from leasing.notice_topics import TOPIC_WORDS
from portal.api.problems import status_of
from portal.middleware import PersonRequest
from portal.pages.actions import action

SHOWN = 10
TRIES_AN_HOUR = 20
LARGEST = 2**63 - 1


@login_required
@require_safe
def choices(request: PersonRequest) -> HttpResponse:
    return _page(request)


@action
def choose(request: PersonRequest) -> str:
    ways = {way: request.POST.getlist(way)[: len(TOPIC_WORDS)] for way in hooks.WAYS}
    hooks.choose_ways(actor=request.actor, ways=ways, now=timezone.now())
    messages.success(request, _("Saved."))
    return reverse("notices")


@login_required
@require_POST
def set_webhook(request: PersonRequest) -> HttpResponse:
    """Keep the address, and show the secret, this once."""
    url = request.POST.get("url", "")[: LONGEST_URL + 1]
    try:
        secret = hooks.set_hook(actor=request.actor, url=url, now=timezone.now())
    except DomainError as error:
        return _page(request, refused=error, url=url)
    return _page(request, secret=secret)


@action
def remove_webhook(request: PersonRequest) -> str:
    hooks.remove_hook(actor=request.actor, now=timezone.now())
    messages.success(request, _("The webhook is removed."))
    return reverse("notices")


@action
def try_webhook(request: PersonRequest) -> str:
    """Send a test, and say what came back."""
    counted = f"webhook-tries:{request.user.pk}"
    cache.add(counted, 0, 3600)
    if cache.incr(counted) > TRIES_AN_HOUR:
        raise InvalidRequest(_("That was often enough for this hour."))
    try:
        answer = hooks.try_hook(actor=request.actor, now=timezone.now())
    except HookRefused as refused:
        messages.error(request, str(hooks.words_of(refused)))
        return reverse("notices")
    facts = {"status": answer.status, "seconds": f"{answer.seconds:.2f}"}
    if answer.is_taken:
        messages.success(request, _("It answered %(status)s after %(seconds)s s.") % facts)
    else:
        words = _("It answered %(status)s after %(seconds)s s; only 200 to 299 mean that it has the notice.")
        messages.error(request, words % facts)
    return reverse("notices")


@login_required
@require_safe
def news(request: PersonRequest) -> JsonResponse:
    """Notices for this browser after the one that it has shown last."""
    given = request.GET.get("after", "")
    after = min(int(given), LARGEST) if given.isascii() and given.isdecimal() and len(given) < 20 else None
    newest, found = hooks.notices_for_browser(request.user, after=after)
    shown = [
        {
            "id": notice.pk,
            "subject": notice.subject,
            "text": notice.body[:300],
            "link": reverse("workstation", args=[notice.lease_id]) if notice.lease_id else reverse("home"),
        }
        for notice in found
    ]
    return JsonResponse({"newest": newest, "notices": shown})


def _page(
    request: PersonRequest, *, secret: str = "", refused: DomainError | None = None, url: str = ""
) -> HttpResponse:
    chosen = hooks.settings_of(request.user)
    deliveries = HookDelivery.objects.filter(notice__recipient=request.user).select_related("notice")
    newest, _none = hooks.notices_for_browser(request.user, after=None)
    rows = [
        (topic.value, words, [(way, topic.value in getattr(chosen, way)) for way in hooks.WAYS])
        for topic, words in TOPIC_WORDS.items()
    ]
    context: dict[str, Any] = {
        "chosen": chosen,
        "rows": rows,
        "secret": secret,
        "refused": refused,
        "url": url or chosen.url,
        "longest": LONGEST_URL,
        "newest": newest,
        "deliveries": [(one, hooks.CAUSES.get(one.answer, one.answer)) for one in deliveries[:SHOWN]],
    }
    return render(request, "notices.html", context, status=status_of(refused) if refused else 200)
