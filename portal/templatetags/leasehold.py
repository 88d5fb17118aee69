"""How the pages write times, spans, money, states and icons, in the reader's language and zone."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any

from django import template
from django.templatetags.static import static
from django.utils import formats, timezone, translation
from django.utils.dates import WEEKDAYS_ABBR
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import pgettext

from hosts.models import Gpu
from leasing.billing.budgets import Forecast
from leasing.limits import Limit, Measure, plain
from leasing.models import Lease, QuotaKind, QuotaRequest, UsageSegment
from leasing.quota_setting import PersonLimit
from leasing.quotas import Standing
from leasing.terms import WHOLE_CURRENCIES
from portal.pages import words
from portal.pages.hardware_words import in_ones_own_words
from portal.pages.looks import FATE_LOOKS, STEP_LOOKS, TRUST_LOOKS, Look, look_of_gpu, look_of_lease
from portal.pages.usage_chart import Span
from portal.pages.usage_form import UsageForm

register = template.Library()
for _words in (
    words.plan_words,
    words.step_words,
    words.role_words,
    words.time_words,
    words.act_words,
    words.method_words,
    words.window_words,
):
    register.filter(_words.__name__, _words)
register.filter("plain", plain)
register.filter("own_words", in_ones_own_words)

SYMBOLS = {"EUR": "€", "USD": "$", "GBP": "£", "CNY": "¥", "JPY": "¥"}
MINUTE, HOUR, DAY = 60, 3600, 86400


@register.simple_tag
def measure_bar(measure: Measure) -> SafeString:
    """What is there, what comes on top, and where the limit is. The numbers beside it say the same."""
    limit = measure.limit.value
    scale = max(limit, measure.total) or Decimal(1)
    there, asked, mark = (f"{1000 * amount / scale:.0f}" for amount in (measure.there, measure.asked, limit))
    return format_html(
        '<svg class="measure" viewBox="0 0 1000 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="there" width="{}" height="8"/><rect class="asked" x="{}" width="{}" height="8"/>'
        '<rect class="limit" x="{}" width="{}" height="8"/></svg>',
        there,
        there,
        asked,
        mark,
        4 if measure.is_over else 0,
    )


@register.filter
def telling(measures: list[Measure]) -> list[Measure]:
    """Those that a decision turns on: how long and how far ahead only where they are exceeded."""
    return [one for one in measures if one.is_over or one.limit.kind not in ("longest", "ahead")]


@register.filter
def month_words(month: str) -> str:
    """`2026-03` as the reader says it."""
    return formats.date_format(date.fromisoformat(f"{month}-01"), "YEAR_MONTH_FORMAT")


@register.simple_tag
@lru_cache(maxsize=512)
def icon(name: str, classes: str = "") -> SafeString:
    """An icon of the sprite. It only decorates: a word stands beside it."""
    sprite = static("vendor/lucide/sprite.svg")
    return format_html(
        '<svg class="icon {}" aria-hidden="true" focusable="false"><use href="{}#{}"></use></svg>',
        classes,
        sprite,
        name,
    )


@register.simple_tag
def state(shown: Lease | Gpu | Look) -> SafeString:
    """The pill that says in what state a workstation or a GPU is."""
    return _pill(_look(shown))


@register.simple_tag
def fate(name: str) -> SafeString:
    """The pill that says what a closure means for a lease."""
    return _pill(FATE_LOOKS[name])


@register.simple_tag
def step_state(step_state_name: str) -> SafeString:
    look = STEP_LOOKS[step_state_name]
    return format_html(
        '<span class="step-mark tone-{}">{}<span class="visually-hidden">{}</span></span>',
        look.tone,
        icon(look.icon, "turning" if look.moving else ""),
        look.word,
    )


@register.simple_tag
def trust(proven: bool) -> SafeString:
    """Whether a method was shown to work on this hardware."""
    return _pill(TRUST_LOOKS[proven])


@register.filter
def tone(shown: Lease | Gpu) -> str:
    return _look(shown).tone


@register.filter
def backticks(text: str) -> SafeString:
    """Words between backticks as code."""
    parts = enumerate(str(text).split("`"))
    return format_html_join(
        "", "{}", ((format_html("<code>{}</code>", part) if at % 2 else part,) for at, part in parts)
    )


@register.filter
def moment(at: datetime | None) -> SafeString | str:
    """A time in the reader's zone, as short as it can be said; UTC in its title."""
    return "–" if at is None else _timed(at, moment_words(at))


def _timed(at: datetime, words: str) -> SafeString:
    iso = at.astimezone(UTC).isoformat(timespec="seconds")
    title = f"{iso[:10]} {iso[11:19]} UTC"
    return format_html('<time datetime="{}" title="{}">{}</time>', iso, title, words)


@register.filter
def moment_words(at: datetime) -> str:
    """The same where no markup can be."""
    return _said(timezone.localtime(at), timezone.localtime())


@register.filter
def exact(at: datetime | None) -> SafeString | str:
    """A time to the second with its zone, for paper."""
    if at is None:
        return "–"
    local = timezone.localtime(at)
    return _timed(at, f"{local:%Y-%m-%d %H:%M:%S} {local:%Z}")


@register.filter
def quota_tone(stand: Standing) -> str:
    """Red when it is used up, amber when little is left."""
    if stand.used is None or stand.used < stand.limit.value * 4 / 5:
        return "blue"
    return "amber" if stand.used < stand.limit.value else "red"


@register.filter
def day(on: date) -> str:
    """A date by itself, with its day of the week; that of a moment in the reader's zone."""
    on = timezone.localtime(on) if isinstance(on, datetime) else on
    return formats.date_format(on, pgettext("date with its day of the week", "D j M Y"))


@register.filter
def clock(at: datetime) -> SafeString:
    """The time of a day, in the reader's zone."""
    return _timed(at, formats.date_format(timezone.localtime(at), pgettext("time of today", "H:i")))


@register.filter
def kind_words(limited: Limit | QuotaRequest | PersonLimit) -> str:
    """What is limited, in words."""
    return str(QuotaKind(limited.kind).label)


@register.filter
def permille(value: int) -> str:
    """Thousandths as per cent."""
    return plain(Decimal(value) / 10)


@register.filter
def local_input(at: datetime) -> str:
    """As a field of a form takes a time, in the reader's zone."""
    return f"{timezone.localtime(at):%Y-%m-%dT%H:%M}"


@register.filter
def span(value: timedelta | int | float | None) -> str:
    """A duration in its two largest units: `3 h 20 min`."""
    if value is None:
        return "–"
    seconds = int(value.total_seconds() if isinstance(value, timedelta) else value)
    if seconds < MINUTE:
        return _("%(n)d s") % {"n": max(0, seconds)}
    if seconds < HOUR:
        return _("%(n)d min") % {"n": seconds // MINUTE}
    if seconds < DAY:
        return _two(_("%(n)d h") % {"n": seconds // HOUR}, _("%(n)d min"), seconds % HOUR // MINUTE)
    return _two(_("%(n)d d") % {"n": seconds // DAY}, _("%(n)d h"), seconds % DAY // HOUR)


@register.filter
def exact_span(seconds: int) -> str:
    """Hours, minutes and seconds of a bill; what is taken back has a minus."""
    hours, rest = divmod(abs(seconds), HOUR)
    sign = "−" if seconds < 0 else ""
    return f"{sign}{hours}:{rest // MINUTE:02d}:{rest % MINUTE:02d}"


@register.filter
def stamp(at: datetime) -> SafeString:
    """A time to the second, for columns on paper."""
    return _timed(at, f"{timezone.localtime(at):%Y-%m-%d %H:%M:%S}")


@register.filter
def part_of(forecast: Forecast, value: Decimal) -> str:
    """What is used and booked, in per cent of a budget."""
    return f"{plain(forecast.certain * 100 / value)} %" if value else "–"


@register.filter
def weekdays(days: str) -> str:
    """ISO weekdays such as 12345, in words."""
    return ", ".join(str(WEEKDAYS_ABBR[int(day) - 1]) for day in sorted(days))


@register.filter
def whole_seconds(value: timedelta) -> int:
    """For scripts that count down."""
    return max(0, int(value.total_seconds()))


@register.filter
def precise(value: timedelta) -> str:
    """A short duration, with tenths of a second below ten."""
    seconds = value.total_seconds()
    return span(value) if seconds >= 10 else _("%(n).1f s") % {"n": max(0.0, seconds)}


@register.filter
def seconds(value: float) -> str:
    return precise(timedelta(seconds=value))


@register.filter
def until(later: datetime, now: datetime) -> timedelta:
    return later - now


@register.simple_tag
def money(amount: Decimal | None, currency: str, places: int | None = None) -> str:
    """An amount with its currency's sign, or its code where the sign is not well known."""
    if amount is None:
        return "–"
    decimals = places if places is not None else (0 if currency in WHOLE_CURRENCIES else 2)
    figure = formats.number_format(abs(amount), decimal_pos=decimals, use_l10n=True, force_grouping=True)
    sign = SYMBOLS.get(currency)
    minus = "−" if amount < 0 else ""
    return f"{minus}{sign}{figure}" if sign else f"{minus}{figure} {currency}"


@register.simple_tag
def amount(value: Decimal, currency: str) -> str:
    """Money, or hours where there is no currency."""
    if currency:
        return money(value, currency)
    return formats.number_format(value, decimal_pos=1, use_l10n=True, force_grouping=True)


@register.simple_tag
def narrowed(form: UsageForm, by: str, key: str, then_by: str = "") -> str:
    """The usage pages' filter, narrowed to one of those that it is divided by."""
    return form.address(**{by: key, "by": then_by})


@register.simple_tag
def within(form: UsageForm, span: Span) -> str:
    """The same for the time of one bar."""
    return form.address(month="", since=span.first.isoformat(), through=span.last.isoformat())


@register.filter
def hours(seconds_of_gpus: int) -> str:
    return formats.number_format(Decimal(seconds_of_gpus) / 3600, decimal_pos=1, force_grouping=True)


@register.filter
def cause_words(cause: str) -> str:
    """Why a line of usage is there."""
    return str(UsageSegment.Cause(cause).label)


@register.filter
def gib(mebibytes: int) -> str:
    if mebibytes < 1024:
        return f"{mebibytes} MiB"
    return f"{formats.number_format(mebibytes / 1024, decimal_pos=0)} GiB"


@register.filter
def amount_of_bytes(count: int) -> str:
    """Bytes in the largest binary unit that keeps at least one whole."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"


@register.simple_tag(takes_context=True)
def query(context: dict[str, Any], **changes: Any) -> str:
    """The page's address with these parameters changed, or left out: the address always holds the filter."""
    parameters = context["request"].GET.copy()
    for name, value in changes.items():
        parameters.pop(name, None)
        if value is not None:
            parameters[name] = value
    return f"?{parameters.urlencode()}"


def _look(shown: Lease | Gpu | Look) -> Look:
    if isinstance(shown, Lease):
        return look_of_lease(shown)
    return look_of_gpu(shown) if isinstance(shown, Gpu) else shown


def _pill(look: Look) -> SafeString:
    return _pill_of(look.tone, look.icon, str(look.word), "turning" if look.moving else "")


@lru_cache(maxsize=512)
def _pill_of(tone: str, icon_name: str, word: str, moving: str) -> SafeString:
    return format_html('<span class="state tone-{}">{}{}</span>', tone, icon(icon_name, moving), word)


def _said(at: datetime, today: datetime) -> str:
    days = (at.date() - today.date()).days
    if days == 0:
        pattern = pgettext("time of today", "H:i")
    elif -2 < days < 7:
        pattern = pgettext("day of the week and time", "D H:i")
    elif at.year == today.year:
        pattern = pgettext("day, month and time", "j M H:i")
    else:
        pattern = pgettext("day, month, year and time", "j M Y H:i")
    return _written(at.replace(tzinfo=None), pattern, translation.get_language())


@lru_cache(maxsize=4096)
def _written(at: datetime, pattern: str, _language: str) -> str:
    """Large pages say hundreds of moments, and the same again when they are fetched anew."""
    return formats.date_format(at, pattern)


def _two(large: str, small: str, count: int) -> str:
    return f"{large} {small % {'n': count}}" if count else large
