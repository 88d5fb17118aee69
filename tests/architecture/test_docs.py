"""What the documentation says that can be compared with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    targets = LINK.findall((ROOT / page).read_text(encoding="utf-8"))
    assert not [target for target in targets if not (ROOT / page.parent / target).exists()]


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs" / "adr"
    listed = set(LINK.findall((folder / "README.md").read_text(encoding="utf-8")))
    assert listed == {path.name for path in folder.glob("[0-9]*.md")}


def test_every_test_that_shows_how_a_failure_is_handled_exists() -> None:
    """`agent/test_x.py::test_y`; `…` stands for the file that was named last."""
    named = re.findall(
        r"`((?:agent|domain|crash)/\w+\.py|…)(?:::(\w+))?`",
        (ROOT / "docs/failures.md").read_text(encoding="utf-8"),
    )
    file = ""
    for path, test in named:
        file = file if path == "…" else path
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in text, (file, test)
    assert len(named) > 30
