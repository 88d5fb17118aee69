"""What tests/suites.toml promises: no test is left out, and all of it ends in time."""

from __future__ import annotations

import tomllib
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
SUITES = tomllib.loads((TESTS / "suites.toml").read_text(encoding="utf-8"))
WHOLE_RUN = 25 * 60
BARE_MACHINE = 150


# It starts a Debian's own systemd, which not every machine allows: `make roles`.
BY_HAND = {"tests/deployment"}


def test_every_folder_with_tests_is_in_a_suite() -> None:
    holding = {f"tests/{path.relative_to(TESTS).parts[0]}" for path in TESTS.rglob("test_*.py")}
    in_suites = {folder for suite in SUITES.values() for folder in suite.get("tests", [])}
    assert holding - in_suites == BY_HAND


def test_all_budgets_and_an_installation_fit_into_the_whole() -> None:
    alone = [suite["budget"] for suite in SUITES.values() if "beside" not in suite]
    assert sum(alone) + BARE_MACHINE <= WHOLE_RUN
    beside = [suite for suite in SUITES.values() if "beside" in suite]
    others = set.intersection(*(set(suite["beside"]) for suite in beside))
    assert sum(suite["budget"] for suite in beside) <= sum(SUITES[other]["budget"] for other in others)
