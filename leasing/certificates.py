"""Scrub certificates: what a lease's GPUs went through after it, in a form that can be checked without us.

A certificate has the evidence of each scrub, the audit entry that knows it by its digest, and the proof that
this entry is in the log whose head is signed and written down outside. `static/verify_certificate.py` checks
it with nothing but the portal's public key.
"""

from __future__ import annotations

from datetime import datetime

import msgspec
from django.conf import settings
from django.utils.translation import gettext as _

from leasing.audit.anchor import Head
from leasing.audit.log import canonical
from leasing.audit.proofs import NotProvable, prove_entries
from leasing.errors import WrongState
from leasing.keys import public_key
from leasing.models import Lease

FORMAT = "leasehold/scrub-certificate/1"


class CertifiedScrub(msgspec.Struct, frozen=True, kw_only=True):
    """`evidence` and `entry` are JSON texts, exactly as they were hashed; `path` is in hex."""

    evidence: str
    entry: str
    index: int
    path: list[str]


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """Every scrub that followed a lease, oldest first. `key`, in hex, signed the `head`."""

    format: str
    portal: str
    issued_at: datetime
    lease: str
    machine: str
    key: str
    head: Head
    scrubs: list[CertifiedScrub]


def certificate_of(lease: Lease, *, now: datetime) -> Certificate:
    """Raises WrongState if there is nothing to certify, or nothing sealed yet."""
    scrubs = list(lease.scrubs.order_by("recorded_at", "id"))
    if not scrubs:
        raise WrongState(
            _("No GPU of this workstation has been cleaned yet."), hint=_("Come back when it has ended.")
        )
    try:
        proofs = prove_entries([scrub.entry_id for scrub in scrubs])
    except NotProvable as error:
        raise WrongState(
            _("The evidence waits for its place in the sealed log."), hint=_("Try again in a minute.")
        ) from error
    return Certificate(
        format=FORMAT,
        portal=settings.SITE_URL,
        issued_at=now,
        lease=str(lease.pk),
        machine=lease.machine_name,
        key=public_key(),
        head=proofs[0].head,
        scrubs=[
            CertifiedScrub(
                evidence=canonical(scrub.evidence), entry=proof.text, index=proof.index, path=proof.path
            )
            for scrub, proof in zip(scrubs, proofs, strict=True)
        ],
    )


def as_json(certificate: Certificate) -> bytes:
    return msgspec.json.format(msgspec.json.encode(certificate), indent=2)
