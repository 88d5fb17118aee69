"""Random histories with every fault: no promise is ever broken, and everything comes to its end.

Set LEASEHOLD_CAMPAIGN to try more of them, LEASEHOLD_FIRST_CAMPAIGN to begin with another seed. A seed that
fails is printed with its story; LEASEHOLD_FIRST_CAMPAIGN=SEED LEASEHOLD_CAMPAIGN=1 plays it again.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.agent.campaign.history import History
from tests.agent.campaign.machine_room import no_real_waiting

HISTORIES = int(os.environ.get("LEASEHOLD_CAMPAIGN", "1500"))
FIRST = int(os.environ.get("LEASEHOLD_FIRST_CAMPAIGN", "0"))
ACTS = 26


@pytest.mark.timeout(max(120, HISTORIES))
def test_every_history_keeps_its_promises_and_ends(tmp_path: Path) -> None:
    """On all cores: a history has nothing to do with any other one."""
    apart = multiprocessing.get_context("spawn")
    seeds = range(FIRST, FIRST + HISTORIES)
    with ProcessPoolExecutor(mp_context=apart, initializer=logging.disable) as cores:
        played = sum(cores.map(partial(play, tmp_path), seeds, chunksize=max(1, min(20, HISTORIES // 8))))
    assert played == HISTORIES


def play(folder: Path, seed: int) -> int:
    """One history. What goes wrong is told with the seed and the story."""
    directory = folder / str(seed)
    directory.mkdir()
    history = History(seed, directory)
    try:
        with no_real_waiting(history.clock, history.trouble):
            history.live(ACTS)
            history.come_to_an_end()
    except BaseException as error:
        error.add_note(f"seed {seed}: {' '.join(history.told)}")
        raise
    finally:
        if history.room.is_up:
            history.room.down()
    shutil.rmtree(directory)
    return 1
