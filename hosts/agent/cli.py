"""`leasehold-host`: make the host's keys, run its worker, and ask the worker that runs."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from hosts.agent.config import ConfigError, load_config
from hosts.agent.control_socket import ask
from hosts.agent.hardware import open_hardware
from hosts.agent.identity import IdentityError, create_identity, load_identity
from hosts.agent.journal import JournalError
from hosts.agent.machines import HypervisorError
from hosts.agent.scrubbers import UntrustedScrubber
from hosts.agent.worker import Worker

DEFAULT_CONFIG = Path("/etc/leasehold/host.toml")
LOG_FORMAT = "%(asctime)s %(levelname)s %(threadName)s %(name)s: %(message)s"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the process's exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options.config))
    except (ConfigError, IdentityError, JournalError, HypervisorError, UntrustedScrubber) as error:
        print(error, file=sys.stderr)
        return 2


def run(config_path: Path) -> int:
    """Be the host's worker until told to stop."""
    config = load_config(config_path)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    identity = load_identity(config.identity_directory)
    return Worker(config, identity, open_hardware(config)).run()


def init(config_path: Path) -> int:
    """Make the host's keys and print their public halves as JSON."""
    config = load_config(config_path)
    identity = create_identity(config.identity_directory)
    print(json.dumps({"host": config.host, **identity.public_halves()}))
    return 0


def status(config_path: Path) -> int:
    """Print where the running worker stands, as JSON."""
    return _print_answer(config_path, "status")


def journal(config_path: Path) -> int:
    """Print the running worker's latest plans, as JSON."""
    return _print_answer(config_path, "journal")


def _print_answer(config_path: Path, question: str) -> int:
    path = load_config(config_path).socket_path
    try:
        print(json.dumps(ask(path, question), indent=2))
    except OSError as error:
        print(f"No worker answers at {path}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="leasehold-host", description="Leasehold's program for hypervisors."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (run, init, status, journal):
        sub = commands.add_parser(command.__name__, help=command.__doc__)
        sub.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="default: %(default)s")
        sub.set_defaults(command=command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
