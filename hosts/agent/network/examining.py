"""What networks of machines need of this host, as `doctor` judges it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

from hosts.agent.doctor.facts import FilterFacts
from hosts.agent.network.ruleset import TABLE
from hosts.agent.network.ways import NFT_SECONDS

# A service's PATH may lack the places where such programs are.
SYSTEM_PATH = "/usr/sbin:/sbin:/usr/local/sbin"


def examine_filter() -> FilterFacts:
    """Asks nftables for its version and its chains; nothing is changed."""
    dnsmasq = shutil.which("dnsmasq", path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}") or ""
    try:
        version, chains = _ask("--version"), json.loads(_ask("--json", "list", "chains"))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return FilterFacts(error=_why(error), dnsmasq=dnsmasq)
    return FilterFacts(nft=version.strip(), dnsmasq=dnsmasq, dropping=tuple(dropping(chains)))


def dropping(listed: dict[str, Any]) -> Iterator[str]:
    """The chains, not ours, that see what is forwarded and drop what none of their rules is about."""
    for each in listed["nftables"]:
        chain = each.get("chain", {})
        others = chain.get("table") != TABLE and chain.get("family") in ("ip", "inet")
        if others and chain.get("hook") == "forward" and chain.get("policy") == "drop":
            yield f"{chain['family']} {chain['table']} {chain['name']}"


def _ask(*words: str) -> str:
    done = subprocess.run(["nft", *words], capture_output=True, text=True, timeout=NFT_SECONDS, check=True)
    return done.stdout


def _why(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return str(error.stderr).strip() or str(error)
    return str(error)
