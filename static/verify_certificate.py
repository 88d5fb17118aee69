#!/usr/bin/env python3
"""Checks a scrub certificate of Leasehold, offline and without Leasehold.

    python3 verify_certificate.py certificate.json --key KEY [--anchors FILE]

KEY is the portal's public key in hex, or a file with it, from somebody whom you trust; not from the
certificate. `--anchors` names the file of heads that the portal writes outside its database: the head of the
certificate must then be one of them. Needs Python 3.11 and PyNaCl (`pip install pynacl`).

Exits with 0 if the certificate is authentic and every GPU was proven clean, with 3 if it is authentic and one
was not, with 1 if it is not authentic, with 2 if it could not be checked.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

FORMAT = "leasehold/scrub-certificate/1"
HEAD_CONTEXT = b"leasehold/audit-head/1\n"
CLEAN, FORGED, UNUSABLE, NOT_CLEAN = 0, 1, 2, 3


class NotAuthentic(Exception):
    """The certificate does not prove what it says; the text says where."""


def main() -> int:
    options = arguments()
    try:
        certificate = json.loads(options.certificate.read_bytes())
        key = read_key(options.key)
        anchors = options.anchors.read_text() if options.anchors else None
    except (OSError, ValueError) as error:
        print(f"Cannot be checked: {error}", file=sys.stderr)
        return UNUSABLE
    try:
        scrubs = check(certificate, key, anchors)
    except (NotAuthentic, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        detail = str(error) if isinstance(error, NotAuthentic) else f"it is malformed ({error!r})"
        print(f"NOT AUTHENTIC: {detail}")
        return FORGED
    return report(certificate, scrubs, anchored=anchors is not None)


def check(certificate: dict[str, Any], key: bytes, anchors: str | None) -> list[dict[str, Any]]:
    """What the log says of each scrub; NotAuthentic unless all of it is proven."""
    if certificate["format"] != FORMAT:
        raise NotAuthentic(f"it is no {FORMAT}")
    head = certificate["head"]
    check_head(head, key)
    if anchors is not None:
        check_anchored(head, anchors)
    if not certificate["scrubs"]:
        raise NotAuthentic("it certifies no scrub")
    return [check_scrub(scrub, head, certificate["lease"]) for scrub in certificate["scrubs"]]


def check_head(head: dict[str, Any], key: bytes) -> None:
    from nacl.exceptions import BadSignatureError
    from nacl.signing import VerifyKey

    signed_at = datetime.fromisoformat(head["signed_at"]).isoformat()
    facts = {"root": head["root_hash"], "signed_at": signed_at, "size": head["size"]}
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    try:
        VerifyKey(key).verify(HEAD_CONTEXT + text.encode(), bytes.fromhex(head["signature"]))
    except BadSignatureError:
        raise NotAuthentic("the head of the log is not signed by this key") from None


def check_anchored(head: dict[str, Any], anchors: str) -> None:
    known = [json.loads(line) for line in anchors.splitlines() if line.strip()]
    if not any((one["size"], one["root_hash"]) == (head["size"], head["root_hash"]) for one in known):
        raise NotAuthentic("its head was never written down outside")


def check_scrub(scrub: dict[str, Any], head: dict[str, Any], lease: str) -> dict[str, Any]:
    entry = scrub["entry"].encode()
    leaf = hashlib.sha256(b"\x00" + entry).digest()
    path = [bytes.fromhex(node) for node in scrub["path"]]
    if root_of(leaf, scrub["index"], head["size"], path).hex() != head["root_hash"]:
        raise NotAuthentic(f"entry {scrub['index']} is not in the log that the head signs")
    told = json.loads(entry)
    detail: dict[str, Any] = told["detail"]
    if told["action"] != "gpu.evidence" or detail["lease"] != lease:
        raise NotAuthentic(f"entry {scrub['index']} is about something else")
    if hashlib.sha256(scrub["evidence"].encode()).hexdigest() != detail["evidence_sha256"]:
        raise NotAuthentic(f"the evidence of entry {scrub['index']} is not what was judged")
    return detail | {"gpu": told["subject"], "evidence": json.loads(scrub["evidence"])}


def root_of(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """The root that the path leads to, as RFC 9162 §2.1.3.2 computes it; NotAuthentic if it does not fit."""
    if not 0 <= index < size:
        raise NotAuthentic(f"leaf {index} lies outside the {size} of the log")
    node, last = leaf, size - 1
    for sibling in path:
        if last == 0:
            raise NotAuthentic("a path is too long")
        if index & 1 or index == last:
            node = hashlib.sha256(b"\x01" + sibling + node).digest()
            while index and not index & 1:
                index, last = index >> 1, last >> 1
        else:
            node = hashlib.sha256(b"\x01" + node + sibling).digest()
        index, last = index >> 1, last >> 1
    if last:
        raise NotAuthentic("a path is too short")
    return node


def report(certificate: dict[str, Any], scrubs: list[dict[str, Any]], *, anchored: bool) -> int:
    print(f"Authentic: workstation {certificate['machine']}, lease {certificate['lease']}")
    print(f"Log of {certificate['head']['size']} entries, signed {certificate['head']['signed_at']}", end="")
    print(", written down outside" if anchored else "")
    for scrub in scrubs:
        methods = ", ".join(f"{one['name']} {one['version']}" for one in scrub["evidence"]["methods"])
        verdict = "proven clean" if scrub["passed"] else "NOT proven clean"
        simulated = " (SIMULATED)" if scrub["simulated"] else ""
        print(f"  {scrub['model']} at {scrub['address']} of {scrub['host']}, tenure {scrub['tenure']}:")
        print(f"    {verdict}{simulated}, {scrub['finished_at']}, by {methods or 'nothing'}")
        for reason in scrub["reasons"]:
            print(f"    {reason}")
    return CLEAN if all(scrub["passed"] for scrub in scrubs) else NOT_CLEAN


def read_key(text: str) -> bytes:
    """From hex, or a file with it."""
    file = Path(text)
    return bytes.fromhex(file.read_text().strip() if file.is_file() else text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, add_help=True
    )
    parser.add_argument("certificate", type=Path)
    parser.add_argument("--key", required=True, help="the portal's public key in hex, or a file with it")
    parser.add_argument("--anchors", type=Path, help="the heads that were written down outside")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
