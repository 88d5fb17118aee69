"""The host worker, with a way to die: it kills itself at the boundary that a file names, once.

Run as `python -m tests.crash.killable CONFIG CRASH_FILE`. The imports take most of a start, so they are done
once: each line on standard input forks a worker, whose process id and exit status are the answer.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

from hosts.agent.config import load_config
from hosts.agent.hardware import open_hardware
from hosts.agent.identity import load_identity
from hosts.agent.worker import Worker


def die_at(crash_file: Path, boundary: str) -> None:
    """No handler runs, nothing is flushed: as if the power of this process were cut."""
    if crash_file.exists() and crash_file.read_text() == boundary:
        crash_file.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def run_worker(config_path: Path, crash_file: Path) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(threadName)s %(name)s: %(message)s")
    config = load_config(config_path)
    worker = Worker(
        config,
        load_identity(config.identity_path),
        open_hardware(config),
        on_boundary=lambda boundary: die_at(crash_file, boundary),
    )
    return worker.run()


def main() -> None:
    for _ in sys.stdin:
        worker = os.fork()
        if worker == 0:
            os._exit(run_worker(Path(sys.argv[1]), Path(sys.argv[2])))
        print(worker, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
