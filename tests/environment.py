"""Loaded before Django's settings: tests write into a folder of their own and need no broker."""

import atexit
import os
import shutil
import tempfile

import pytest

_var = tempfile.mkdtemp(prefix="leasehold-var-")
atexit.register(shutil.rmtree, _var, ignore_errors=True)

os.environ["LEASEHOLD_VAR"] = _var
os.environ.setdefault("LEASEHOLD_BROKER", "memory://")
os.environ.setdefault("LEASEHOLD_DATABASE", f"sqlite:///{_var}/leasehold.sqlite3")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-golden", action="store_true", help="Write the golden files anew instead of comparing"
    )
    parser.addoption(
        "--histories", type=int, metavar="N", help="Play so many random histories in each fault campaign"
    )
    parser.addoption(
        "--first-seed", type=int, default=0, metavar="SEED", help="Begin the fault campaigns with this seed"
    )
    parser.addoption("--pictures", metavar="FOLDER", help="Draw every page of the portal into this folder")
    parser.addoption(
        "--slow", action="store_true", help="Also run what is marked `slow`, each of which takes minutes"
    )
