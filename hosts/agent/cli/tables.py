"""Answers as a terminal shows them: tables, and the doctor's advice."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import msgspec

from hosts.protocol.checkup import Check, CheckUp
from hosts.protocol.findings import TOPICS, put_in_words

WIDTH = 100
_MARKS = {"fail": "FAIL", "warn": "warn", "pass": "ok", "skip": "–"}
_INDENT = " " * 6


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Left-aligned columns as wide as they need be; a dash for what is empty."""
    cells = [list(heads), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def show_check_up(found: CheckUp, *, only_problems: bool) -> str:
    """Host first, then each card, with what was read; problems with why they matter and what to change."""
    shown = [each for each in found.checks if not only_problems or each.verdict in ("fail", "warn")]
    shown.sort(key=lambda check: check.subject)
    parts = [_section(subject, list(checks)) for subject, checks in groupby(shown, key=lambda c: c.subject)]
    if found.simulated:
        parts.insert(0, "The GPUs of this host are simulated.")
    return "\n\n".join([*parts, _summary(found)])


def with_words(found: CheckUp) -> dict[str, Any]:
    """As programs are told of it: codes, and the words for them."""
    told: dict[str, Any] = msgspec.to_builtins(found)
    for check, each in zip(found.checks, told["checks"], strict=True):
        each.update(vars(put_in_words(check, TOPICS)))
    return told


def show_status(status: dict[str, Any]) -> str:
    facts = table(
        ("HOST", "PORTAL", "VERSION", "PROTOCOL", "REPORTS WAITING"),
        [[status[name] for name in ("host", "portal", "version", "protocol", "reports_waiting")]],
    )
    gpus = table(
        ("GPU", "STATE", "TENURE", "LEASE"),
        ([gpu[name] for name in ("address", "state", "tenure", "lease")] for gpu in status["gpus"]),
    )
    machines = table(
        ("MACHINE OF LEASE", "STATE", "WANTED", "ENDS"),
        ([each[name] for name in ("lease", "state", "desired", "ends_at")] for each in status["machines"]),
    )
    plans = f"Plans under way:\n{show_journal(status['plans'])}"
    parts = [facts, gpus, machines, *_images(status["images"]), plans, *_differences(status["differences"])]
    return "\n\n".join(parts)


def _images(copies: list[dict[str, Any]]) -> list[str]:
    """Those that come from the portal; nothing if there are none."""
    rows = [[copy[name] for name in ("name", "state", "percent", "reason")] for copy in copies]
    return [table(("IMAGE", "STATE", "PERCENT", "WHY"), rows)] if rows else []


def _differences(found: list[dict[str, Any]]) -> list[str]:
    """As `doctor` shows them; nothing if all is as it should be."""
    checks = msgspec.convert(found, type=list[Check])
    if not checks:
        return []
    lines = (line for check in checks for line in _lines(check, where=check.subject))
    return ["\n".join(["Not as it should be:", *lines])]


def show_journal(plans: list[dict[str, Any]]) -> str:
    columns = ("plan", "kind", "subject", "state", "next_step", "added_at", "ended_at", "failure")
    heads = ("PLAN", "KIND", "SUBJECT", "STATE", "NEXT STEP", "ADDED", "ENDED", "FAILURE")
    shown = map(_with_percent, plans)
    return table(heads, ([_short(name, plan[name]) for name in columns] for plan in shown))


def _with_percent(plan: dict[str, Any]) -> dict[str, Any]:
    """How far its step has come, where that is known, stands behind the step's name."""
    percent = plan.get("percent")
    return plan if percent is None else {**plan, "next_step": f"{plan['next_step']} {percent} %"}


def show_inventory(inventory: dict[str, Any]) -> str:
    facts = table(
        ("CPUS", "MEMORY", "DISK", "KERNEL", "WORKER"),
        [
            [
                inventory["cpu_count"],
                f"{inventory['memory_mib'] // 1024} GiB",
                f"{inventory['disk_gib']} GiB",
                inventory["kernel"],
                inventory["worker_version"],
            ]
        ],
    )
    cards = table(
        ("CARD", "NAME", "MEMORY", "VBIOS", "DRIVER", "LINK", "GROUP", "NUMA", "MAY BE LEASED"),
        (
            [
                card["address"],
                card["name"],
                f"{card['memory_bytes'] // 1024**2} MiB",
                card["details"]["vbios"],
                f"{card['details']['driver']} {card['details']['driver_version']}".strip(),
                card["details"]["link"],
                card["iommu_group"],
                card["numa_node"],
                card["refusal"] or "yes",
            ]
            for card in inventory["cards"]
        ),
    )
    parts = [facts, cards, *_slices(inventory["cards"]), *_not_touched(inventory), *_simulated(inventory)]
    return "\n\n".join(parts)


def _not_touched(inventory: dict[str, Any]) -> list[str]:
    """Only a worker knows what these are."""
    left_out = ", ".join(inventory.get("not_touched", ()))
    return (
        [f"Not looked at: {left_out}. A machine may have it, or the kernel hangs on it."] if left_out else []
    )


def _slices(cards: list[dict[str, Any]]) -> list[str]:
    """Which cards are divided into what, and how others could be; nothing where there is neither."""
    tables = []
    made = [
        [card["part"]["parent"], card["address"], card["part"]["kind"], card["part"]["profile"]]
        for card in cards
        if card["part"]
    ]
    if made:
        tables.append(table(("DIVIDED CARD", "SLICE", "KIND", "PROFILE"), sorted(made)))
    ways = [
        [card["address"], way["name"], way["kind"], way["title"], way["most"], _mib(way["memory_bytes"])]
        for card in cards
        for way in card["profiles"]
    ]
    if ways:
        tables.append(table(("CAN BE DIVIDED", "PROFILE", "KIND", "NAME", "MOST", "MEMORY EACH"), ways))
    return tables


def _mib(size: int) -> str:
    return f"{size // 1024**2} MiB" if size else ""


def _simulated(inventory: dict[str, Any]) -> list[str]:
    return ["The GPUs of this host are simulated."] if inventory["simulated"] else []


def _section(subject: str, checks: list[Check]) -> str:
    return "\n".join([subject or "Host", *(line for check in checks for line in _lines(check))])


def _lines(check: Check, where: str = "") -> Iterator[str]:
    words = put_in_words(check, TOPICS)
    title = f"{where} {words.title}".lstrip()
    yield f"  {_MARKS[check.verdict]:<4}  {title}: {words.finding}"
    if check.verdict in ("fail", "warn"):
        yield from _wrapped(words.why)
        yield from _wrapped(words.change)
        yield from (f"{_INDENT}    {line}" for line in words.lines.splitlines())
    yield from (f"{_INDENT}  ({each.source}: {each.value})" for each in check.read)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{_INDENT}  ", subsequent_indent=f"{_INDENT}  ")


def _summary(found: CheckUp) -> str:
    verdicts = [check.verdict for check in found.checks]
    failed, warned = verdicts.count("fail"), verdicts.count("warn")
    left_out = f" {found.left_out} more are not shown." if found.left_out else ""
    return f"{len(verdicts)} checks: {failed} failed, {warned} warnings.{left_out}"


def _short(name: str, value: Any) -> Any:
    """Times to the second; a failure's first line."""
    if name in ("added_at", "ended_at") and value:
        return str(value)[:19].replace("T", " ")
    return str(value).partition("\n")[0][:80] if name == "failure" else value


def _cell(value: object) -> str:
    return "–" if value is None or value == "" else str(value)
