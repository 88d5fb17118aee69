"""The calendar: what of a GPU model is free and busy by day, week, two weeks or month."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django import forms
from django.contrib.auth.decorators import login_required
from django.core.paginator import Page, Paginator
from django.http import HttpResponse
from django.shortcuts import render
from django.utils import formats, timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, pgettext
from django.views.decorators.http import require_safe

from hosts.models import GpuModel
from leasing import policy
from leasing.availability.pool import HostPage, Pool, choose_pool, read_hosts, read_overview
from leasing.errors import NotVisible
from leasing.models import Flavor
from portal.middleware import PersonRequest
from portal.pages.calendar_chart import BAR, Drawing
from portal.pages.calendar_windows import (
    DAY,
    FIRST_DAY,
    LAST_DAY,
    View,
    edges_of,
    first_day,
    next_day,
    previous_day,
)
from portal.pages.context import roles_in

HOSTS = 5
ONE_TO_SIX_DIGITS = re.compile(r"[1-9][0-9]{0,5}")
VIEWS: dict[View, str | Promise] = {
    View.DAY: gettext_lazy("Day"),
    View.WEEK: gettext_lazy("Week"),
    View.TWO_WEEKS: gettext_lazy("Two weeks"),
    View.MONTH: gettext_lazy("Month"),
}


class CalendarForm(forms.Form):
    """Which window; the address holds it."""

    view = forms.ChoiceField(choices=[(view.value, view.value) for view in View], required=False)
    day = forms.DateField(required=False)

    def clean_day(self) -> date | None:
        day: date | None = self.cleaned_data["day"]
        if day is not None and not FIRST_DAY <= day <= LAST_DAY:
            raise forms.ValidationError(_("This date is out of range. Choose one of the next weeks."))
        return day


@dataclass(frozen=True)
class Choice:
    """A link that changes one thing of what is shown."""

    word: str | Promise
    address: str
    current: bool = False


@dataclass(frozen=True)
class Shown:
    """What the address asks for."""

    pool: Pool
    view: View
    first: date
    today: date

    def address(self, **changes: str) -> str:
        chosen = {"model": self.pool.model.slug, "view": self.view.value, "day": self.first.isoformat()}
        if self.pool.flavor is not None:
            chosen["flavor"] = self.pool.flavor.slug
        return f"?{urlencode({name: value for name, value in (chosen | changes).items() if value})}"


@login_required
@require_safe
def calendar(request: PersonRequest) -> HttpResponse:
    now = timezone.now()
    models = list(policy.visible_models(request.user))
    if not models:
        require_reader(request)
        return render(request, "calendar/calendar.html", {"shown": None})
    form = CalendarForm(request.GET)
    form.is_valid()
    zone = ZoneInfo(request.user.timezone)
    pool, flavors = choose_pool(
        models, request.GET.get("model") or models[0].slug, request.GET.get("flavor", "")
    )
    if pool.flavor is None and flavors:
        pool = Pool(pool.model, flavors[0])
    today = now.astimezone(zone).date()
    shown = _shown(pool, form, today)
    edges = edges_of(shown.view, shown.first, zone)
    if len(edges) < 2:
        form.add_error("day", _("There was no such day here: the calendar skipped it."))
        shown = _shown(pool, form, today)
        edges = edges_of(shown.view, shown.first, zone)
    context = {
        "form": form,
        "shown": shown,
        "models": [_model_choice(shown, model) for model in models],
        **_links(shown, flavors),
        **_drawn(request, shown, edges, zone, now),
    }
    return render(request, "calendar/calendar.html", context, status=400 if form.errors else 200)


def require_reader(request: PersonRequest) -> None:
    """NotVisible unless the person has a part in any pool; it may be that nothing is on offer."""
    if not roles_in(request, request.user):
        raise NotVisible(_("There is nothing here."))


def _shown(pool: Pool, form: CalendarForm, today: date) -> Shown:
    view = View(form.cleaned_data.get("view") or View.WEEK)
    return Shown(pool, view, first_day(view, form.cleaned_data.get("day") or today), today)


def _model_choice(shown: Shown, model: GpuModel) -> Choice:
    return Choice(model.name, shown.address(model=model.slug, flavor=""), model == shown.pool.model)


def _links(shown: Shown, flavors: list[Flavor]) -> dict[str, Any]:
    return {
        "flavors": [
            Choice(flavor.name, shown.address(flavor=flavor.slug), flavor == shown.pool.flavor)
            for flavor in flavors
        ],
        "views": [
            Choice(word, shown.address(view=view.value), view == shown.view) for view, word in VIEWS.items()
        ],
        "earlier": shown.address(day=previous_day(shown.view, shown.first).isoformat()),
        "later": shown.address(day=next_day(shown.view, shown.first).isoformat()),
        "to_today": shown.address(day=""),
        "is_today": shown.first == first_day(shown.view, shown.today),
    }


def _heading(shown: Shown) -> str:
    last = next_day(shown.view, shown.first) - DAY
    if shown.view is View.MONTH:
        return formats.date_format(shown.first, pgettext("month and year", "F Y"))
    if shown.view is View.DAY:
        return formats.date_format(shown.first, pgettext("day of the week and date", "l, j F Y"))
    day = pgettext("day and month", "j F")
    whole = pgettext("day, month and year", "j F Y")
    return f"{formats.date_format(shown.first, day)} – {formats.date_format(last, whole)}"


def _drawn(
    request: PersonRequest, shown: Shown, edges: list[datetime], zone: ZoneInfo, now: datetime
) -> dict[str, Any]:
    may_book = any("member" in roles for roles in roles_in(request, request.user).values())
    drawing = Drawing(shown.pool, edges, zone, may_book, now)
    overview = read_overview(shown.pool, edges, now=now)
    page, found = _hosts(request, shown, edges, now)
    return {
        "heading": _heading(shown),
        "overview": overview,
        "bars": drawing.bars(overview),
        "bar_height": BAR,
        "ticks": drawing.ticks(shown.view),
        "present": drawing.present(),
        "hosts": [drawing.host(row, found.leases) for row in found.rows],
        "page": page,
    }


def _hosts(
    request: PersonRequest, shown: Shown, edges: list[datetime], now: datetime
) -> tuple[Page[int], HostPage]:
    """The page that is asked for, or else the nearest; how many there are is known once one is read."""

    def read(number: int) -> HostPage:
        offset = (number - 1) * HOSTS
        return read_hosts(request.user, shown.pool, edges[0], edges[-1], offset=offset, limit=HOSTS, now=now)

    asked = request.GET.get("page", "")
    number = int(asked) if ONE_TO_SIX_DIGITS.fullmatch(asked) else 1
    found = read(number)
    page = Paginator(range(found.count), HOSTS).get_page(asked)
    return page, found if page.number == number else read(page.number)
