"""The host worker, with a way to die: it kills itself at the boundary that a file names, once.

Run as `python -m tests.crash.killable CONFIG`, with the file's path in LEASEHOLD_CRASH_FILE.
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


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(threadName)s %(name)s: %(message)s")
    config = load_config(Path(sys.argv[1]))
    crash_file = Path(os.environ["LEASEHOLD_CRASH_FILE"])
    worker = Worker(
        config,
        load_identity(config.identity_directory),
        open_hardware(config),
        on_boundary=lambda boundary: die_at(crash_file, boundary),
    )
    return worker.run()


if __name__ == "__main__":
    sys.exit(main())
