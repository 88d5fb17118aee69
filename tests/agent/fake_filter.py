"""nft without a kernel: it keeps the rules that it was given, and says what a reader of them would see."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from hosts.agent.network.ways import NetworkError


class FakeFilter:
    """Called as `run_nft` is. `refuses` lets it fail; it survives the worker, and not a reboot."""

    def __init__(self) -> None:
        self.refuses = False
        self.rules: Mapping[str, Any] | None = None
        self.writes = 0

    def __call__(self, rules: Mapping[str, Any] | None) -> str:
        if self.refuses:
            raise NetworkError("nft refused the packet filter: Operation not permitted")
        if rules is not None:
            self.rules, self.writes = rules, self.writes + 1
        return json.dumps(self.rules)

    def forget(self) -> None:
        self.rules = None

    @property
    def admitted(self) -> set[str]:
        """Bridges from and to which something is let through."""
        return {
            element["concat"][0]
            for each in self._added("set")
            if each["name"] == "lanes"
            for element in each.get("elem", ())
        }

    @property
    def forwards(self) -> dict[int, tuple[str, int]]:
        """Forwarded ports: whose address they lead to, and which port there."""
        found = {}
        for rule in self._added("rule"):
            *matches, verdict = rule["expr"]
            if "dnat" in verdict:
                found[matches[-1]["match"]["right"]] = (verdict["dnat"]["addr"], verdict["dnat"]["port"])
        return found

    def _added(self, kind: str) -> Iterator[dict[str, Any]]:
        for order in (self.rules or {"nftables": ()})["nftables"]:
            if kind in order.get("add", {}):
                yield order["add"][kind]
