"""Django application of the pages and the API."""

from django.apps import AppConfig


class PortalConfig(AppConfig):
    name = "portal"
