"""Random histories of the portal and a host's own code, with every fault: nothing is ever found wrong.

Set LEASEHOLD_PORTAL_CAMPAIGN to try more of them, LEASEHOLD_FIRST_PORTAL_CAMPAIGN to begin with another seed.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from django.conf import settings
from django.db import transaction

from leasing.fsck import run_checks
from tests.agent.campaign.machine_room import no_real_waiting
from tests.domain.portal_history import PortalHistory
from tests.quick_files import quick_directory

pytestmark = pytest.mark.django_db
HISTORIES = int(os.environ.get("LEASEHOLD_PORTAL_CAMPAIGN", "2"))
FIRST = int(os.environ.get("LEASEHOLD_FIRST_PORTAL_CAMPAIGN", "0"))
ACTS = 30


@pytest.mark.timeout(max(120, 30 * HISTORIES))
def test_every_history_keeps_its_promises_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL + 1)
    for seed in range(FIRST, FIRST + HISTORIES):
        savepoint = transaction.savepoint()
        settings.AUDIT_ANCHOR_FILE.unlink(missing_ok=True)
        with TemporaryDirectory(dir=quick_directory()) as folder:
            play(seed, Path(folder))
        transaction.savepoint_rollback(savepoint)


def play(seed: int, directory: Path) -> None:
    """One history. What goes wrong is told with the seed and the story."""
    history = PortalHistory(seed, directory)
    try:
        with no_real_waiting(history.clock, history.trouble):
            history.live(ACTS)
            assert run_checks(history.clock.now) == []
            history.come_to_an_end()
            assert run_checks(history.clock.now) == []
    except BaseException as error:
        error.add_note(f"seed {seed}: {' '.join(history.told)}")
        raise
    finally:
        if history.room.is_up:
            history.room.down()
