"""The command line: which commands there are, and how each of their failures reads."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hosts.agent.cli import commands
from hosts.agent.cli.exits import MEANINGS, CommandFailed, Exit
from hosts.agent.config import DEFAULT_CONFIG, ConfigError
from hosts.agent.identity import IdentityError
from hosts.agent.journal import JournalError
from hosts.agent.machines import HypervisorError
from hosts.agent.scrubbers import UntrustedScrubber

_EXITS = "exit status:\n" + "\n".join(f"  {int(status)}  {text}" for status, text in MEANINGS.items())
_UNUSABLE = (ConfigError, IdentityError, JournalError, UntrustedScrubber)
PLANS_SHOWN = 50

Command = Callable[[argparse.Namespace], Exit]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the process's exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except CommandFailed as error:
        return _complain(options, str(error), error.hint, error.status)
    except _UNUSABLE as error:
        return _complain(options, str(error), "", Exit.UNUSABLE)
    except HypervisorError as error:
        return _complain(options, str(error), "Is libvirt running?", Exit.NO_ANSWER)
    except KeyboardInterrupt:
        return _complain(
            options, "Stopped.", "What was ordered goes on; `leasehold-host journal` shows it.", Exit.REFUSED
        )


def _complain(options: argparse.Namespace, message: str, hint: str, status: Exit) -> int:
    if options.json:
        print(json.dumps({"error": message, "hint": hint}))
    else:
        print(f"leasehold-host: {message}", *filter(None, [hint]), sep="\n", file=sys.stderr)
    return int(status)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="leasehold-host",
        description="Leasehold's program for hypervisors.",
        epilog=_EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(command: Command) -> argparse.ArgumentParser:
        words = (command.__doc__ or "").strip()
        sub = subparsers.add_parser(command.__name__, help=words, description=f"{words.capitalize()}.")
        sub.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="default: %(default)s")
        sub.add_argument("--json", action="store_true", help="for programs")
        sub.set_defaults(command=command)
        return sub

    enrol = add(commands.enrol)
    enrol.add_argument("--portal", metavar="URL", help="such as https://portal.example")
    enrol.add_argument("--token-file", type=Path, metavar="FILE", help="holds the token; - reads it here")
    enrol.add_argument("--ca-file", type=Path, metavar="FILE", help="whom to trust besides the system's own")
    enrol.add_argument(
        "--rekey", action="store_true", help="change the keys of this host; the old sign the new"
    )
    enrol.add_argument(
        "--again", action="store_true", help="although it is enrolled: with a token made for that"
    )
    add(commands.doctor).add_argument(
        "--only-problems", action="store_true", help="leave out what is in order"
    )
    add(commands.inventory)
    add(commands.run)
    add(commands.status)
    add(commands.journal).add_argument(
        "--last", type=int, default=PLANS_SHOWN, metavar="N", help="how many plans (default: %(default)s)"
    )
    for order in (commands.scrub, commands.reset):
        add(order).add_argument("address", help="the GPU's PCI address, such as 0000:41:00.0")
    return parser
