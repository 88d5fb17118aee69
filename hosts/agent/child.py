"""Runs kernel calls that may never return in a child process with a deadline.

A wedged kernel thread then costs one card and one process, never the worker. The child is a fresh program,
not a fork of a threaded one, and imports the standard library only, so that it starts fast.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hosts.agent import vfio
from hosts.agent.stuck import end, reap_stuck

Writes = Sequence[tuple[str, str]]


def write_each(writes: Writes) -> None:
    """Write each text to its (existing) file, in one system call each; stop at the first OSError."""
    for path, text in writes:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from error
        finally:
            os.close(descriptor)


def run_program(command: Sequence[str]) -> None:
    """Run it to its end; OSError with what it complained about if it fails."""
    held = os.dup(2)  # a program that no signal ends holds the pipe that the caller reads, who so knows of it
    done = subprocess.run(command, check=False, capture_output=True, text=True, pass_fds=(held,))
    os.close(held)
    if done.returncode:
        told = (done.stderr or done.stdout).strip()[-300:] or f"status {done.returncode}"
        raise OSError(errno.EIO, told, command[0])


OPERATIONS: dict[str, Callable[..., None]] = {
    "write": write_each,
    "hot-reset": vfio.hot_reset,
    "run": run_program,
}


def write_in_child(writes: Writes, *, seconds: float) -> None:
    """As `write_each`, in a child. OSError as there, TimeoutError, ChildStuckError."""
    call("write", [list(pair) for pair in writes], seconds=seconds)


def hot_reset_in_child(group: Path, address: str, *, seconds: float) -> None:
    """As `vfio.hot_reset`, in a child. OSError as there, TimeoutError, ChildStuckError."""
    call("hot-reset", str(group), address, seconds=seconds)


def run_in_child(command: Sequence[str], *, seconds: float) -> None:
    """As `run_program`, in a child. OSError as there, TimeoutError, ChildStuckError."""
    call("run", list(command), seconds=seconds)


def call(
    operation: str,
    *arguments: Any,
    seconds: float,
    kill: Callable[[int, int], None] = os.killpg,
) -> None:
    """Run one of OPERATIONS in a child.

    Its OSError is raised here; TimeoutError when it had to be killed, ChildStuckError when it would not die.
    """
    reap_stuck()
    child = subprocess.Popen(
        [sys.executable, "-m", "hosts.agent.child", operation, json.dumps(arguments)],
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        answer, complaint = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        end(child, kill=kill)
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    _raise_answer(answer, complaint, child.returncode)


def _raise_answer(answer: bytes, complaint: bytes, status: int) -> None:
    if status != 0:
        raise ChildProcessError(complaint.decode(errors="replace").strip()[-500:] or f"status {status}")
    failure = json.loads(answer)
    if failure is not None:
        raise OSError(*failure)


def main(operation: str, arguments: str) -> None:
    """The child's side: print null, or the arguments of an OSError."""
    failure: list[Any] | None = None
    try:
        OPERATIONS[operation](*json.loads(arguments))
    except OSError as error:
        failure = [error.errno, error.strerror, error.filename]
    json.dump(failure, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
