"""`manage.py demo`: what `make demo` runs."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from portal.demo.processes import DemoFailed
from portal.demo.run import Demo


class Command(BaseCommand):
    help = "Run everything on this machine, with real machines and simulated GPUs."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", type=int, default=8000)

    def handle(self, *args: Any, port: int, **options: Any) -> None:
        try:
            Demo(port=port, say=self._say).run()
        except DemoFailed as error:
            raise CommandError(str(error)) from error

    def _say(self, words: str) -> None:
        self.stdout.write(words)
        self.stdout.flush()
