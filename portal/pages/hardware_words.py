"""What is kept in English of hardware and in histories, in the language of whoever reads it.

Evidence and the audit log are signed and sealed in the words in which something was judged. Sentences that
are known are said anew; what is not known, and what people wrote, stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from django.utils.translation import get_language, gettext, override
from django.utils.translation import gettext_noop as _

from hosts.protocol.findings import TOPICS
from leasing.reasons import TEXTS

_OF_PROOF = (
    _("The card was not reset."),
    _("The host did not look into the memory itself."),
    _("The card is not what it was: %(fields)s changed."),
    _("Policy asks for the method '%(method)s', which was not used."),
    _("%(method)s wrote only %(written)s of %(reached)s bytes."),
    _("%(method)s itself read %(places)s places that were not as written."),
    _("The size of the card's memory is not known."),
    _("%(reached)s of %(all)s bytes were overwritten by a proven method; policy asks for %(permille)s ‰."),
    _("The method '%(method)s' is not proven on %(device)s: it never suffices alone."),
    _("The method '%(method)s' is somebody's claim: it never suffices alone."),
    _("Looking through '%(window)s' is not proven on this hardware."),
    _("%(refused)s of %(all)s canaries could not be written: nothing can be proven."),
    _("The memory was not read back."),
    _("%(read)s of %(all)s bytes were read back; policy asks for all."),
    _("%(found)s of %(all)s canaries survived the scrub."),
    _("%(count)s blocks are not zero, the first at byte %(first)s."),
    _("%(count)s blocks are not zero."),
)
_OF_STATES = (
    _("Its card is at %(address)s now."),
    _("The host no longer sees it."),
    _("Its identity or firmware has changed: %(changes)s."),
    _("It was proven clean under the kernel %(proven)s; its host runs %(kernel)s now."),
    _("The host has lost its journal."),
    _("The portal was restored from a backup."),
    _("Its scrub came to no verdict."),
    _("Its card is made whole again."),
    _("The host was started anew; its kernel was %(before)s, and is %(kernel)s."),
    _("The card was off the bus and came back."),
    _("It was %(state)s, and nothing on the host explained it."),
)
_PLACE = re.compile(r"%\((\w+)\)([sd])")
# A fact ends before the next sentence begins.
_FACT = r"(?:(?!\. ).){1,160}?"
LEAST_LETTERS = 10


def in_ones_own_words(text: str) -> str:
    """The same sentences in the active language."""
    if (get_language() or "en").startswith("en"):
        return text
    said, at = [], 0
    while at < len(text):
        words, at = _next(text, at)
        said.append(words)
    return " ".join(said)


def _next(text: str, at: int) -> tuple[str, int]:
    """The sentence that begins there, and where the next one does."""
    for pattern, template in _known():
        if found := pattern.match(text, at):
            kinds = dict(_PLACE.findall(template))
            facts = {name: _fact(name, kinds[name], fact) for name, fact in found.groupdict().items()}
            return gettext(template) % facts, found.end()
    end = text.find(". ", at)
    return (text[at:], len(text)) if end < 0 else (text[at : end + 1], end + 2)


def _fact(name: str, kind: str, told: str) -> str | int:
    if kind == "d":
        return int(told)
    return in_ones_own_words(told) if name == "reason" else told


@cache
def _known() -> list[tuple[re.Pattern[str], str]]:
    """The most telling first."""
    templates = {*_OF_PROOF, *_OF_STATES, *_of_hosts(), *_of_leases()}
    letters = {each: len(_PLACE.sub("", each)) for each in templates}
    telling = sorted((each for each in templates if letters[each] >= LEAST_LETTERS), key=letters.__getitem__)
    return [(_pattern(each), each) for each in reversed(telling)]


def _of_hosts() -> Iterator[str]:
    for topic in TOPICS.values():
        for outcome in topic.outcomes.values():
            yield from filter(None, (outcome.finding, outcome.change))


def _of_leases() -> Iterator[str]:
    with override("en"):
        return iter([str(text) for text in TEXTS.values()])


def _pattern(template: str) -> re.Pattern[str]:
    parts, at, seen = [], 0, set()
    for place in _PLACE.finditer(template):
        name, kind = place.groups()
        fact = r"\d{1,12}" if kind == "d" else ".{1,1500}" if place.end() == len(template) else _FACT
        parts += [re.escape(template[at : place.start()].replace("%%", "%"))]
        parts += [f"(?P={name})" if name in seen else f"(?P<{name}>{fact})"]
        seen.add(name)
        at = place.end()
    return re.compile("".join(parts) + re.escape(template[at:].replace("%%", "%")) + r"(?: |\Z)", re.DOTALL)
