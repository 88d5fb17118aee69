"""The image's layers are built once for the same inputs, and again when an input changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.hypervisor import image


class Builder:
    """Writes a file, and counts how often it was asked to; fails when told to."""

    def __init__(self) -> None:
        self.calls = 0
        self.broken = False

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "disk").write_text("half")
        if self.broken:
            raise RuntimeError("no space left")
        (folder / "disk").write_text("whole")


def test_same_inputs_are_built_once(tmp_path: Path) -> None:
    build = Builder()
    first = image.layer(tmp_path, "base", "one", build)
    assert image.layer(tmp_path, "base", "one", build) == first
    assert build.calls == 1
    assert (first / "disk").read_text() == "whole"


def test_a_changed_input_replaces_the_layer(tmp_path: Path) -> None:
    build = Builder()
    first = image.layer(tmp_path, "base", "one", build)
    second = image.layer(tmp_path, "base", "two", build)
    assert (first.exists(), second.exists()) == (False, True)


def test_a_failed_build_leaves_nothing_and_keeps_the_old_layer(tmp_path: Path) -> None:
    build = Builder()
    first = image.layer(tmp_path, "base", "one", build)
    build.broken = True
    with pytest.raises(RuntimeError):
        image.layer(tmp_path, "base", "two", build)
    assert list(tmp_path.glob("base-*")) == [first]


def test_the_source_tree_is_an_input_and_what_is_compiled_from_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "ROOT", tmp_path)
    (tmp_path / "code" / "__pycache__").mkdir(parents=True)
    (tmp_path / "code" / "module.py").write_text("pass")
    before = image.contents(("code",))
    (tmp_path / "code" / "__pycache__" / "module.pyc").write_bytes(b"compiled")
    assert image.contents(("code",)) == before
    (tmp_path / "code" / "module.py").write_text("raise SystemExit")
    assert image.contents(("code",)) != before
