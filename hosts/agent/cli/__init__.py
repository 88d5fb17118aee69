"""`leasehold-host`: the one program that an operator meets on a hypervisor."""

from hosts.agent.cli.program import main

__all__ = ["main"]
