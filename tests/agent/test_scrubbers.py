"""Which scrubbers may run: the built-in one, and those on root's list whose bytes have the listed digest."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hosts.agent.scrubbers import UntrustedScrubber, load_scrubbers

PLUGIN = '''"""A plug-in."""
from dataclasses import dataclass

@dataclass
class Scrubber:
    name: str = "vendor"
    version: str = "7"
    kind: str = "overwrite"
    proven_on: tuple = ()
    def run(self, place): raise NotImplementedError
'''


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "vendor_scrub_plugin.py"
    path.write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    yield path
    sys.modules.pop("vendor_scrub_plugin", None)


def allow(plugin: Path, *, name: str = "vendor", kind: str = "Scrubber", digest: str = "") -> Path:
    digest = digest or hashlib.sha256(plugin.read_bytes()).hexdigest()
    path = plugin.with_name("scrubbers.toml")
    path.write_text(f'[scrubbers.{name}]\nobject = "{plugin.stem}:{kind}"\nsha256 = "{digest}"\n')
    path.chmod(0o644)
    return path


def test_without_a_list_there_are_the_built_in_scrubbers() -> None:
    found = load_scrubbers()
    assert {name: each.scrubber.kind for name, each in found.items()} == {
        "bar": "overwrite",
        "nvidia-clear": "claim",
    }
    assert all(len(each.digest) == 64 and each.scrubber.name == name for name, each in found.items())


def test_a_listed_plugin_is_loaded_with_its_digest(plugin: Path) -> None:
    installed = load_scrubbers(allow(plugin))["vendor"]
    assert (installed.scrubber.name, installed.scrubber.version) == ("vendor", "7")
    assert installed.digest == hashlib.sha256(PLUGIN.encode()).hexdigest()


def test_a_changed_plugin_is_not_run(plugin: Path) -> None:
    path = allow(plugin)
    plugin.write_text(PLUGIN + "raise SystemExit\n")
    with pytest.raises(UntrustedScrubber, match="does not have the digest"):
        load_scrubbers(path)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_list_that_others_may_write_is_refused(plugin: Path, mode: int) -> None:
    path = allow(plugin)
    path.chmod(mode)
    with pytest.raises(UntrustedScrubber, match="writable by root alone"):
        load_scrubbers(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_list_that_is_not_roots_is_refused(plugin: Path) -> None:
    path = allow(plugin)
    os.chown(path, 65534, 65534)
    with pytest.raises(UntrustedScrubber, match="owned by root"):
        load_scrubbers(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "bar"}, "cannot be replaced"),
        ({"name": "nvidia-clear"}, "cannot be replaced"),
        ({"name": "other"}, "calls itself 'vendor'"),
        ({"kind": "Absent"}, "is not a class"),
        ({"digest": "0" * 64}, "does not have the digest"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(plugin: Path, change: dict[str, str], words: str) -> None:
    with pytest.raises(UntrustedScrubber, match=words):
        load_scrubbers(allow(plugin, **change))


@pytest.mark.parametrize(
    "text",
    ["scrubbers = 1", "not toml", '[scrubbers.a]\nobject = "a:B"', '[scrubbers.a]\nobject = 1\nsha256=""'],
)
def test_a_malformed_list_is_refused(plugin: Path, text: str) -> None:
    path = allow(plugin)
    path.write_text(text)
    with pytest.raises(UntrustedScrubber, match="is not a list of scrubbers"):
        load_scrubbers(path)


def test_an_absent_list_or_module_is_refused(plugin: Path) -> None:
    with pytest.raises(UntrustedScrubber, match="is not a list of scrubbers"):
        load_scrubbers(plugin.with_name("absent.toml"))
    path = allow(plugin)
    path.write_text(path.read_text().replace(plugin.stem, "no_such_module"))
    with pytest.raises(UntrustedScrubber, match="no module no_such_module"):
        load_scrubbers(path)
