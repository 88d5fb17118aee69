"""Django application of the pages and the API."""

from django.apps import AppConfig


class PortalConfig(AppConfig):
    name = "portal"

    def ready(self) -> None:
        from portal import celery  # noqa: F401 - what is sent from here goes to the configured broker
