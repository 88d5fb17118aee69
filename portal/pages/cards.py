"""A card in words: what tells it from others, what else its host reads of it, and what of it has changed."""

from __future__ import annotations

from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from leasing.cards import changes

Row = tuple[str | Promise, str]

# What tells one card from another, and a changed one from an unchanged one.
PARTS: dict[str, str | Promise] = {
    "vendor_device": _("PCI ids"),
    "subsystem": _("Board's PCI ids"),
    "serial": _("Serial number"),
    "firmware": _("Revision"),
    "rom_sha256": _("Digest of its ROM"),
    "modes": _("Modes"),
}


def identity_rows(fingerprint: dict[str, Any]) -> list[Row]:
    """What is known of it."""
    return [(words, fingerprint[name]) for name, words in PARTS.items() if fingerprint.get(name)]


def change_rows(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str | Promise, str, str]]:
    """Each part that changed: what it was, and what it is."""
    return [(PARTS[name], before.get(name, ""), after.get(name, "")) for name in changes(before, after)]


def detail_rows(details: dict[str, Any]) -> list[Row]:
    """What its host could read; what it could not is left out."""
    driver = f"{details.get('driver', '')} {details.get('driver_version', '')}".strip()
    rows: list[Row] = [
        (_("Board"), details.get("board", "")),
        (_("Firmware (VBIOS)"), details.get("vbios", "")),
        (_("Called by its driver"), details.get("serial", "")),
        (_("Driver on the host"), driver),
        (_("PCIe link"), details.get("link", "")),
        (_("Behind"), " → ".join(details.get("path", ()))),
        (_("Near the processors"), details.get("cpus", "")),
    ]
    return [row for row in rows if row[1]]
