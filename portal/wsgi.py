"""WSGI entry point: pages and API, for production servers that keep live updates and consoles apart."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")

application = get_wsgi_application()

from leasing.checks import require_guards  # noqa: E402 - needs the settings
from portal.settling import settle  # noqa: E402 - needs the settings

require_guards()
settle()
