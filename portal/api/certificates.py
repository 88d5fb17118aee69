"""The scrub certificate of a lease over the API."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from leasing import policy
from leasing.certificates import as_json, certificate_of
from portal.api.views import ActionView, person_of


class CertificateView(ActionView):
    @extend_schema(responses=OpenApiTypes.OBJECT)
    def get(self, request: Request, lease_id: UUID) -> HttpResponse:
        """What the lease's GPUs went through after it, to be checked with `verify_certificate.py`."""
        lease = policy.fetch_lease(person_of(request), lease_id, "view")
        issued = certificate_of(lease, now=timezone.now())
        return HttpResponse(as_json(issued), content_type="application/json")
