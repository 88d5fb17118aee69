"""Django application of the domain: makes connections cheaper, reinstalls the guards after every migrate."""

from typing import Any

from django.apps import AppConfig
from django.db.backends.signals import connection_created
from django.db.models.signals import post_migrate


class LeasingConfig(AppConfig):
    name = "leasing"

    def ready(self) -> None:
        from leasing import checks  # noqa: F401 - registers the check of the guards
        from leasing.postgres import quicken

        connection_created.connect(quicken)
        post_migrate.connect(_install_guards, sender=self)


def _install_guards(*, using: str, **_: Any) -> None:
    from django.db import connections

    from leasing.guards import install_guards

    install_guards(connections[using])
