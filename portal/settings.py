"""Settings, read from LEASEHOLD_* environment variables; the defaults are safe, not convenient."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import django_stubs_ext
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy as _

from portal.addresses import networks

django_stubs_ext.monkeypatch()

BASE_DIR = Path(__file__).resolve().parent.parent
VAR_DIR = Path(os.environ.get("LEASEHOLD_VAR", BASE_DIR / "var")).resolve()


def _flag(name: str) -> bool:
    return os.environ.get(name, "").lower() in {"1", "true", "yes", "on"}


def _secret(name: str) -> str:
    """A secret from NAME, or from the file that NAME_FILE points to."""
    if path := os.environ.get(f"{name}_FILE"):
        return Path(path).read_text().strip()
    return os.environ.get(name, "")


def _database(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": unquote(parts.path),
            "OPTIONS": {
                "transaction_mode": "IMMEDIATE",
                "timeout": 30,
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            },
            # A file, not memory: tests of concurrency need connections that exclude each other.
            "TEST": {"NAME": VAR_DIR / "test.sqlite3"},
        }
    if parts.scheme == "postgresql":
        # Compiling statements pays after many seconds: an export of a million lines took longer with it.
        options = {"options": "-c jit=off", **dict(parse_qsl(parts.query))}
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": unquote(parts.path.lstrip("/")),
            "USER": unquote(parts.username or ""),
            "PASSWORD": unquote(parts.password or ""),
            "HOST": options.pop("host", parts.hostname or ""),
            "PORT": parts.port or options.pop("port", ""),
            "CONN_MAX_AGE": 60,
            # The server binds parameters and keeps plans: half of what a small statement costs.
            "OPTIONS": {"server_side_binding": True, "prepare_threshold": 5, **options},
        }
    raise ImproperlyConfigured("LEASEHOLD_DATABASE must begin with sqlite:/// or postgresql://")


DEBUG = False
# Without one, a process invents its own: sign-ins then end with it, but nothing is guessable.
SECRET_KEY = _secret("LEASEHOLD_SECRET_KEY") or secrets.token_urlsafe(50)
ALLOWED_HOSTS = os.environ.get("LEASEHOLD_ALLOWED_HOSTS", "127.0.0.1,localhost").split(",")
SITE_URL = os.environ.get("LEASEHOLD_SITE_URL", "http://127.0.0.1:8000").rstrip("/")
HTTPS = SITE_URL.startswith("https://")
CSRF_TRUSTED_ORIGINS = [SITE_URL]

INSTALLED_APPS = [
    "portal",
    "leasing",
    "hosts",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "guardian",
    "rest_framework",
    "knox",
    "drf_spectacular",
    "axes",
    "csp",
]

MIDDLEWARE = [
    "portal.middleware.ClientAddressMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "portal.middleware.StaticFilesMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "portal.middleware.ReaderMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]

ROOT_URLCONF = "portal.urls"
ASGI_APPLICATION = "portal.asgi.application"
WSGI_APPLICATION = "portal.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": False,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "portal.pages.context.reader",
            ],
            "builtins": ["portal.templatetags.leasehold"],
        },
    }
]

DATABASES = {
    "default": _database(os.environ.get("LEASEHOLD_DATABASE", f"sqlite:///{VAR_DIR}/leasehold.sqlite3"))
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
# SQLite has no columns beside an index's keys; it does without.
SILENCED_SYSTEM_CHECKS = ["models.W040"]

AUTH_USER_MODEL = "leasing.Person"
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
    "guardian.backends.ObjectPermissionBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
LOGIN_URL = "sign-in"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "sign-in"
ANONYMOUS_USER_NAME = None
AXES_FAILURE_LIMIT = 8
AXES_COOLOFF_TIME = 0.25
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_USERNAME_FORM_FIELD = "username"
AXES_RESET_ON_SUCCESS = True
AXES_VERBOSE = False
AXES_LOCKOUT_TEMPLATE = "locked_out.html"

SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SESSION_COOKIE_SAMESITE = "Lax"
SECURE_HSTS_SECONDS = 31536000 if HTTPS else 0
BEHIND_PROXY = _flag("LEASEHOLD_BEHIND_PROXY")
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if BEHIND_PROXY else None
# Whose X-Forwarded-For is believed: nobody chooses the address that they are known by.
TRUSTED_PROXIES = networks(
    os.environ.get("LEASEHOLD_TRUSTED_PROXIES", "127.0.0.1,::1,unix" if BEHIND_PROXY else "")
)
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CSRF_FAILURE_VIEW = "portal.pages.errors.csrf_failure"
DATA_UPLOAD_MAX_MEMORY_SIZE = 256 * 1024
DATA_UPLOAD_MAX_NUMBER_FIELDS = 200
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "connect-src": [SELF],
        "font-src": [SELF],
        "img-src": [SELF, "data:"],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        "base-uri": [NONE],
    }
}

LANGUAGE_CODE = "en"
LANGUAGES = [("en", _("English")), ("zh-hans", _("Simplified Chinese"))]
LOCALE_PATHS = [BASE_DIR / "locale"]
USE_TZ = True
TIME_ZONE = "UTC"

STATIC_URL = "static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = True

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "portal.api.authentication.ApiTokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["portal.api.parsing.ShallowJSONParser"],
    "DEFAULT_PAGINATION_CLASS": "portal.api.pagination.Pages",
    "PAGE_SIZE": 50,
    "DEFAULT_SCHEMA_CLASS": "portal.api.schema.ProblemSchema",
    "EXCEPTION_HANDLER": "portal.api.exceptions.problem_response",
    "DEFAULT_THROTTLE_CLASSES": ["rest_framework.throttling.UserRateThrottle"],
    "DEFAULT_THROTTLE_RATES": {"user": "1200/min", "enrolment": "10/min"},
    # ClientAddressMiddleware has dealt with proxies.
    "NUM_PROXIES": 0,
}
REST_KNOX = {"TOKEN_TTL": None, "AUTH_HEADER_PREFIX": "Token"}
SPECTACULAR_SETTINGS = {
    "TITLE": "Leasehold",
    "DESCRIPTION": "Lease GPU workstations.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "COMPONENT_SPLIT_REQUEST": True,
    "OAS_VERSION": "3.1.0",
    "ENUM_NAME_OVERRIDES": {
        "LeaseStateEnum": "portal.api.schema.LEASE_STATES",
        "QuotaKindEnum": "leasing.models.QuotaKind",
        "InvoiceKindEnum": "leasing.models.invoices.Invoice.Kind",
        "OutageKindEnum": "portal.api.schema.OUTAGE_KINDS",
        "StretchKindEnum": "portal.api.schema.STRETCH_KINDS",
        "GpuStateEnum": "hosts.models.GPU_STATES",
        "LeaseOutcomeEnum": "portal.api.schema.LEASE_OUTCOMES",
        "ImageFormatEnum": "leasing.models.Image.Format",
        "UploadFormatEnum": "leasing.models.ImageUpload.Format",
        "NoticeTopicEnum": "portal.api.notices.TOPICS",
        "WaitlistOutcomeEnum": "portal.api.schema.WAITLIST_OUTCOMES",
    },
}

EMAIL_BACKEND = os.environ.get("LEASEHOLD_EMAIL_BACKEND", "django.core.mail.backends.smtp.EmailBackend")
EMAIL_HOST = os.environ.get("LEASEHOLD_SMTP_HOST", "localhost")
EMAIL_FILE_PATH = VAR_DIR / "mail"
DEFAULT_FROM_EMAIL = os.environ.get("LEASEHOLD_MAIL_FROM", "leasehold@localhost")

BROKER_URL = os.environ.get("LEASEHOLD_BROKER", f"redis+socket://{VAR_DIR}/broker.sock")
# How hosts reach the broker, and the account with which the portal makes theirs; without one, operators do.
BROKER_FOR_HOSTS_URL = os.environ.get("LEASEHOLD_BROKER_FOR_HOSTS", BROKER_URL)
BROKER_ADMIN_URL = _secret("LEASEHOLD_BROKER_ADMIN")
# Ed25519 key that signs commands and the audit log's heads: a file, 0600, never in the database.
SIGNING_KEY_FILE = Path(os.environ.get("LEASEHOLD_SIGNING_KEY", VAR_DIR / "portal.key"))
AUDIT_ANCHOR_FILE = Path(os.environ.get("LEASEHOLD_AUDIT_ANCHOR", VAR_DIR / "audit-anchors.jsonl"))
# Who provides and invoices, in exports by FOCUS.
PROVIDER_NAME = os.environ.get("LEASEHOLD_PROVIDER_NAME", "Leasehold")
# Told the signed heads besides: /dev/log or udp://host:port, and an https:// address.
AUDIT_SYSLOG = os.environ.get("LEASEHOLD_AUDIT_SYSLOG", "")
AUDIT_WEBHOOK = _secret("LEASEHOLD_AUDIT_WEBHOOK")
# Where people's webhooks may reach besides public addresses, and who else signs certificates there.
_allowed = networks(os.environ.get("LEASEHOLD_WEBHOOK_NETWORKS", ""))
WEBHOOK_NETWORKS = [each for each in _allowed if not isinstance(each, str)]
WEBHOOK_CA_FILE = os.environ.get("LEASEHOLD_WEBHOOK_CA", "")
# Disk images: the folder of their files, how large one may be, and how long a conversion may take.
IMAGE_STORE = Path(os.environ.get("LEASEHOLD_IMAGE_STORE", VAR_DIR / "image-store"))
IMAGE_AT_MOST_BYTES = int(os.environ.get("LEASEHOLD_IMAGE_MAX_GIB", "256")) << 30
IMAGE_CONVERSION_SECONDS = int(os.environ.get("LEASEHOLD_IMAGE_CONVERSION_MINUTES", "120")) * 60
# Where hosts dial the console gateway; the browser uses SITE_URL.
GATEWAY_URL = os.environ.get("LEASEHOLD_GATEWAY_URL", SITE_URL.replace("http", "ws", 1) + "/ws/")
# How large home volumes are that are made from now on.
HOME_GIB = int(os.environ.get("LEASEHOLD_HOME_GIB", "50"))
# How many snapshots a person may have, and how large the disks that they are of may be together.
SNAPSHOTS_PER_PERSON = int(os.environ.get("LEASEHOLD_SNAPSHOTS_PER_PERSON", "10"))
SNAPSHOT_GIB_PER_PERSON = int(os.environ.get("LEASEHOLD_SNAPSHOT_GIB_PER_PERSON", "2000"))
# After how long a workstation that nobody has used is given back; 0 is never. Needs a source that watches.
# Who bills: name and address as they stand on invoices, several lines in one.
INVOICE_ISSUER = os.environ.get("LEASEHOLD_INVOICE_ISSUER", "Leasehold")
UNUSED_AFTER_MINUTES = int(os.environ.get("LEASEHOLD_UNUSED_AFTER_MINUTES", "0"))
TICK_SECONDS = float(os.environ.get("LEASEHOLD_TICK_SECONDS", "1"))
RESEND_SECONDS = float(os.environ.get("LEASEHOLD_RESEND_SECONDS", "15"))

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "filters": {"no-secrets": {"()": "portal.logs.WithoutFeedSecrets"}},
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["no-secrets"]}
    },
    "root": {"handlers": ["stderr"], "level": os.environ.get("LEASEHOLD_LOG_LEVEL", "INFO")},
}
