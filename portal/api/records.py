"""What was done and what it cost: audit, scrub records, usage."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import renderers, serializers
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request
from rest_framework.response import Response

from leasing import policy
from leasing.audit.search import Search, find
from leasing.errors import NotVisible
from leasing.models import AuditEntry, Person, ScrubRecord, UsageSegment
from leasing.usage import usage_csv
from portal.api.fields import EARLIEST, LATEST, MomentField
from portal.api.serializers import AuditEntrySerializer, ScrubRecordSerializer, UsageSerializer
from portal.api.views import ActionView, ListView, checked, person_of
from portal.pages.usage import within
from portal.pages.words import acts_of


class AuditFilterSerializer(serializers.Serializer[dict[str, Any]]):
    action = serializers.CharField(
        required=False, max_length=60, help_text="such as lease.end, or lease for all that happens to leases"
    )
    actor = serializers.CharField(required=False, max_length=200)
    subject = serializers.CharField(
        required=False, max_length=80, help_text="such as lease:<id>, or a workstation's name"
    )
    tenant = serializers.SlugField(required=False)
    since = MomentField(required=False)
    before = MomentField(required=False)

    def search(self) -> Search:
        """Of valid input."""
        told = self.validated_data
        actions = acts_of(told.get("action", ""))
        return Search(actions=actions, **{name: told[name] for name in told if name != "action"})


class ScrubFilterSerializer(serializers.Serializer[dict[str, Any]]):
    gpu = serializers.UUIDField(required=False)
    lease = serializers.UUIDField(required=False)


class PeriodSerializer(serializers.Serializer[dict[str, Any]]):
    """`[since, before)`; segments that touch it are listed whole."""

    since = MomentField(required=False, default=EARLIEST)
    before = MomentField(required=False, default=LATEST)
    tenant = serializers.SlugField(required=False)


class CsvRenderer(renderers.BaseRenderer):
    """Text that is CSV already."""

    media_type = "text/csv"
    format = "csv"
    charset = "utf-8"

    def render(self, data: Any, accepted_media_type: Any = None, renderer_context: Any = None) -> Any:
        return data if isinstance(data, str) else renderers.JSONRenderer().render(data)


class AuditPages(CursorPagination):
    """By the entry's number: the last page costs what the first does."""

    ordering = "-id"
    page_size = 50
    max_page_size = 200
    page_size_query_param = "limit"


class AuditList(ListView[AuditEntry]):
    serializer_class = AuditEntrySerializer
    queryset = AuditEntry.objects.none()
    pagination_class = AuditPages

    def get_queryset(self) -> QuerySet[AuditEntry]:
        person = person_of(self.request)
        if not policy.reads_audit(person):
            raise NotVisible(_("There is nothing here."))
        chosen = AuditFilterSerializer(data=self.request.query_params.dict())
        chosen.is_valid(raise_exception=True)
        return find(policy.visible_audit(person).select_related("tenant", "leaf"), chosen.search())

    @extend_schema(parameters=[AuditFilterSerializer])
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """The audit log of your tenants, newest first; all of it for auditors."""
        return super().get(request, *args, **kwargs)


class ScrubRecordList(ListView[ScrubRecord]):
    serializer_class = ScrubRecordSerializer
    queryset = ScrubRecord.objects.none()

    def get_queryset(self) -> QuerySet[ScrubRecord]:
        chosen = checked(ScrubFilterSerializer, self.request.query_params.dict())
        named = {f"{name}_id": value for name, value in chosen.items()}
        return policy.visible_scrubs(person_of(self.request)).filter(**named).order_by("-recorded_at", "-id")

    @extend_schema(parameters=[ScrubFilterSerializer])
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """The evidence of scrubs: of your leases, or of every GPU for operators and auditors."""
        return super().get(request, *args, **kwargs)


class UsageList(ListView[UsageSegment]):
    serializer_class = UsageSerializer
    queryset = UsageSegment.objects.none()

    def get_queryset(self) -> QuerySet[UsageSegment]:
        return _segments(self.request)

    def get_serializer_context(self) -> dict[str, Any]:
        return {**super().get_serializer_context(), "now": timezone.now()}

    @extend_schema(parameters=[PeriodSerializer])
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Usage segments of your tenants, with what each costs up to now."""
        return super().get(request, *args, **kwargs)


class UsageCsv(ActionView):
    renderer_classes = [CsvRenderer, renderers.JSONRenderer]

    @extend_schema(parameters=[PeriodSerializer], responses={(200, "text/csv"): OpenApiTypes.STR})
    def get(self, request: Request) -> Response:
        """The same as CSV: one line per segment."""
        text = "".join(usage_csv(_segments(request), now=timezone.now()))
        disposition = {"Content-Disposition": 'attachment; filename="usage.csv"'}
        return Response(text, headers=disposition, content_type="text/csv; charset=utf-8")


def _segments(request: Request) -> QuerySet[UsageSegment]:
    person: Person = person_of(request)
    if not policy.billed_tenants(person).exists():
        raise NotVisible(_("There is nothing here."))
    chosen = checked(PeriodSerializer, request.query_params.dict())
    segments = within(policy.visible_usage(person), chosen["since"], chosen["before"])
    if "tenant" in chosen:
        segments = segments.filter(lease__tenant__slug=chosen["tenant"])
    return segments.order_by("starts_at", "id")
