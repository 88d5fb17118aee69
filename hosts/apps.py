"""Django application of the inventory."""

from django.apps import AppConfig


class HostsConfig(AppConfig):
    name = "hosts"
