"""Random histories with every fault: no promise is ever broken, and everything comes to its end.

How many there are follows from --histories, and which from --first-seed. A seed that fails is printed with
its story; --first-seed=SEED --histories=1 plays it again.
"""

from __future__ import annotations

import logging
import multiprocessing
import shutil
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.agent.campaign.faults import FAULTS
from tests.agent.campaign.history import History, seeds_of
from tests.agent.campaign.machine_room import no_real_waiting

HISTORIES = 1500
# In so many each fault happens.
ENOUGH = 10_000
ACTS = 8


@pytest.mark.timeout(0)  # as long as so many take
def test_every_history_keeps_its_promises_and_ends(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """On all cores: a history has nothing to do with any other one."""
    apart = multiprocessing.get_context("spawn")
    seeds = seeds_of(pytestconfig, HISTORIES)
    with ProcessPoolExecutor(mp_context=apart, initializer=logging.disable) as cores:
        played = cores.map(partial(play, tmp_path), seeds, chunksize=max(1, min(20, len(seeds) // 8)))
        happened = sum(played, Counter[str]())
    if len(seeds) >= ENOUGH:
        assert FAULTS - happened.keys() == set(), "never happened"


def play(folder: Path, seed: int) -> Counter[str]:
    """One history; which faults there were. What goes wrong is told with the seed and the story."""
    directory = folder / str(seed)
    directory.mkdir()
    history = History(seed, directory)
    try:
        with no_real_waiting(history.room):
            history.live(ACTS)
            history.come_to_an_end()
    except BaseException as error:
        error.add_note(f"seed {seed}: {' '.join(history.told)}")
        raise
    finally:
        history.close()
    shutil.rmtree(directory)
    return history.trouble.happened
