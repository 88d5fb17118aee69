"""What was done and what it cost: audit, scrub records, usage."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.http import StreamingHttpResponse
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
from leasing.exports.export import FORMS, PARQUET, XLSX, export_usage
from leasing.exports.filter import Billed, UsageFilter
from leasing.models import AuditEntry, InvoiceLine, ScrubRecord, UsageSegment
from portal.api.fields import MomentField
from portal.api.serializers import AuditEntrySerializer, ScrubRecordSerializer, UsageSerializer
from portal.api.views import ActionView, ListView, api_actor, checked, person_of
from portal.pages.words import acts_of
from portal.streaming import streamed


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


class UsageFilterSerializer(serializers.Serializer[dict[str, Any]]):
    """Lines that touch `[since, before)`, or the month of each team's own zone, are listed whole."""

    since = MomentField(required=False)
    before = MomentField(required=False)
    month = serializers.RegexField(
        r"^20\d\d-(0[1-9]|1[0-2])$", required=False, help_text="such as 2026-03, in each team's own zone"
    )
    tenant = serializers.SlugField(required=False)
    person = serializers.CharField(required=False, max_length=150)
    model = serializers.SlugField(required=False, help_text="of the GPU")
    project = serializers.CharField(required=False, max_length=60)
    cost_centre = serializers.CharField(required=False, max_length=60)
    lease = serializers.UUIDField(required=False)


class ExportSerializer(UsageFilterSerializer):
    form = serializers.ChoiceField(choices=list(FORMS), default="csv", help_text="of the file")


class AnyRenderer(renderers.JSONRenderer):
    """Refusals are JSON, whatever kind of file was asked for."""

    media_type = "*/*"


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
        person = person_of(self.request)
        if not policy.invoiced_tenants(person).exists():
            raise NotVisible(_("There is nothing here."))
        chosen = UsageFilter(**checked(UsageFilterSerializer, self.request.query_params.dict()))
        mine = Billed(policy.visible_usage(person), InvoiceLine.objects.filter(corrects__isnull=False))
        return chosen.of(mine).segments.order_by("starts_at", "id")

    def get_serializer_context(self) -> dict[str, Any]:
        return {**super().get_serializer_context(), "now": timezone.now()}

    @extend_schema(parameters=[UsageFilterSerializer])
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Usage segments of your tenants, with what each costs up to now."""
        return super().get(request, *args, **kwargs)


class UsageExport(ActionView):
    renderer_classes = [AnyRenderer]

    @extend_schema(
        parameters=[ExportSerializer],
        responses={
            (200, "text/csv"): OpenApiTypes.STR,
            (200, XLSX): OpenApiTypes.BINARY,
            (200, PARQUET): OpenApiTypes.BINARY,
        },
    )
    def get(self, request: Request) -> StreamingHttpResponse:
        """The same as a file, sent while it is made: CSV, Excel, Parquet, or FOCUS 1.2 as CSV or Parquet."""
        person = person_of(request)
        if not policy.billed_tenants(person).exists():
            raise NotVisible(_("There is nothing here."))
        chosen = checked(ExportSerializer, request.query_params.dict())
        made = export_usage(
            actor=api_actor(request),
            billed=Billed.of_tenants(policy.billed_tenants(person)),
            form=chosen.pop("form"),
            chosen=UsageFilter(**chosen),
            now=timezone.now(),
        )
        return streamed(request._request, made.pieces, made.name, made.media_type)
