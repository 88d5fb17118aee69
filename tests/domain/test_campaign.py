"""Random histories of the portal and a host's own code, with every fault: nothing is ever found wrong.

How many there are follows from --histories, and which from --first-seed.
"""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from django.conf import settings
from django.db import transaction

from leasing.fsck import run_checks
from tests.agent.campaign.history import seeds_of
from tests.agent.campaign.machine_room import no_real_waiting
from tests.domain.portal_history import PortalHistory
from tests.quick_files import quick_directory

pytestmark = pytest.mark.django_db
HISTORIES = 2
ACTS = 10


@pytest.mark.timeout(0)  # as long as so many take
def test_every_history_keeps_its_promises_and_ends(
    caplog: pytest.LogCaptureFixture, pytestconfig: pytest.Config
) -> None:
    caplog.set_level(logging.CRITICAL + 1)
    for seed in seeds_of(pytestconfig, HISTORIES):
        savepoint = transaction.savepoint()
        settings.AUDIT_ANCHOR_FILE.unlink(missing_ok=True)
        with TemporaryDirectory(dir=quick_directory()) as folder:
            play(seed, Path(folder))
        transaction.savepoint_rollback(savepoint)


def play(seed: int, directory: Path) -> None:
    """One history. What goes wrong is told with the seed and the story."""
    history = PortalHistory(seed, directory)
    try:
        with no_real_waiting(history.room):
            history.live(ACTS)
            assert run_checks(history.clock.now) == []
            history.come_to_an_end()
            assert run_checks(history.clock.now) == []
    except BaseException as error:
        error.add_note(f"seed {seed}: {' '.join(history.told)}")
        raise
    finally:
        history.close()
