"""The fleet over the API, for operators; auditors may read it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from hosts.models import FoundCard, Gpu, GpuModel, Host
from leasing import fleet as service
from leasing import policy
from leasing.cards import history_of
from leasing.errors import InvalidRequest, NotVisible
from leasing.packing import room_now
from portal.api.fields import StrictSerializer
from portal.api.serializers import FoundCardSerializer, GpuSerializer, HappeningSerializer, HostSerializer
from portal.api.views import ActionView, ListView, api_actor, checked, person_of
from portal.pages.history import happening

HAPPENINGS_AT_MOST = 500


class AdmitSerializer(StrictSerializer[dict[str, Any]]):
    model = serializers.SlugField(help_text="Slug of the GPU model")


class ReadmitSerializer(StrictSerializer[dict[str, Any]]):
    accepted = serializers.CharField(
        required=False,
        default="",
        max_length=16,
        help_text="Seal of a changed card that is accepted so",
    )


class WithdrawSerializer(StrictSerializer[dict[str, Any]]):
    reason = serializers.CharField(max_length=200)


class RoomSerializer(serializers.Serializer[Any]):
    """Of one GPU model, at this moment: what nobody has or holds and nothing closes."""

    gpu_model = serializers.CharField(source="model.slug")
    gpus = serializers.IntegerField(help_text="All of the model")
    free = serializers.IntegerField()
    hosts = serializers.IntegerField(help_text="Those that have GPUs of the model")
    free_hosts = serializers.IntegerField(help_text="Those of which all GPUs of the model are free")
    largest = serializers.IntegerField(help_text="The most that are free on one host")


class RoomView(ActionView):
    @extend_schema(responses=RoomSerializer(many=True))
    def get(self, request: Request) -> Response:
        """What is free now of each GPU model, and how much of it together: how whole the hosts are left."""
        policy.require_fleet_reader(person_of(request))
        room = room_now(GpuModel.objects.order_by("slug"), now=timezone.now())
        return Response(RoomSerializer(room, many=True).data)


class HostList(ListView[Host]):
    """Hypervisors that are in service."""

    serializer_class = HostSerializer
    queryset = Host.objects.none()

    def get_queryset(self) -> QuerySet[Host]:
        policy.require_fleet_reader(person_of(self.request))
        return service.accepting_hosts(
            Host.objects.filter(retired_at=None).order_by("name"), now=timezone.now()
        )


class HostDetail(ActionView):
    @extend_schema(responses=HostSerializer)
    def get(self, request: Request, host_id: UUID) -> Response:
        """One hypervisor."""
        policy.require_fleet_reader(person_of(request))
        host = service.accepting_hosts(Host.objects.filter(pk=host_id), now=timezone.now()).first()
        if host is None:
            raise NotVisible(_("There is no such host."))
        return Response(HostSerializer(host).data)


class FoundCardList(ListView[FoundCard]):
    """Cards as the hosts last reported them; `refusal` says why one cannot be leased."""

    serializer_class = FoundCardSerializer
    queryset = FoundCard.objects.none()

    def get_queryset(self) -> QuerySet[FoundCard]:
        policy.require_fleet_reader(person_of(self.request))
        cards = FoundCard.objects.present().select_related("host").prefetch_related("host__gpus")
        return cards.order_by("host__name", "address")


class AdmitView(ActionView):
    @extend_schema(request=AdmitSerializer, responses={201: GpuSerializer})
    def post(self, request: Request, card_id: int) -> Response:
        """Take a found card into service; it is offered once its intake has proven it clean."""
        policy.require_operator(person_of(request))
        slug = checked(AdmitSerializer, request.data)["model"]
        model = GpuModel.objects.filter(slug=slug).first()
        if model is None:
            raise InvalidRequest(_("There is no such GPU model."), field="model")
        gpu = service.admit_gpu(
            actor=api_actor(request), card_id=card_id, model_id=model.pk, now=timezone.now()
        )
        return Response(GpuSerializer(gpu).data, status=status.HTTP_201_CREATED)


class GpuList(ListView[Gpu]):
    """GPUs in service or quarantine."""

    serializer_class = GpuSerializer
    queryset = Gpu.objects.none()

    def get_queryset(self) -> QuerySet[Gpu]:
        policy.require_fleet_reader(person_of(self.request))
        return Gpu.objects.select_related("host", "model").order_by("host__name", "address")


class GpuDetail(ActionView):
    @extend_schema(responses=GpuSerializer)
    def get(self, request: Request, gpu_id: UUID) -> Response:
        """One GPU."""
        policy.require_fleet_reader(person_of(request))
        gpu = Gpu.objects.select_related("host", "model").filter(pk=gpu_id).first()
        if gpu is None:
            raise NotVisible(_("There is no such GPU."))
        return Response(GpuSerializer(gpu).data)


class GpuHistory(ActionView):
    @extend_schema(responses=HappeningSerializer(many=True))
    def get(self, request: Request, gpu_id: UUID) -> Response:
        """What happened to a GPU and its card, the newest first; the audit log has all of it."""
        policy.require_fleet_reader(person_of(request))
        gpu = Gpu.objects.filter(pk=gpu_id).first()
        if gpu is None:
            raise NotVisible(_("There is no such GPU."))
        life = [happening(entry) for entry in history_of(gpu)[:HAPPENINGS_AT_MOST]]
        return Response(HappeningSerializer(life, many=True).data)


class ReadmitView(ActionView):
    @extend_schema(request=ReadmitSerializer, responses=GpuSerializer)
    def post(self, request: Request, gpu_id: UUID) -> Response:
        """Let a GPU that is out of service try its intake again.

        A card that is not what it was is refused (`card-changed`) unless `accepted` is its seal in the list
        of found cards.
        """
        policy.require_operator(person_of(request))
        accepted = checked(ReadmitSerializer, request.data)["accepted"]
        gpu = service.readmit_gpu(
            actor=api_actor(request), gpu_id=gpu_id, accepted=accepted, now=timezone.now()
        )
        return Response(GpuSerializer(gpu).data)


class WithdrawView(ActionView):
    @extend_schema(request=WithdrawSerializer, responses=GpuSerializer)
    def post(self, request: Request, gpu_id: UUID) -> Response:
        """Take a GPU that nobody uses out of service."""
        policy.require_operator(person_of(request))
        reason = checked(WithdrawSerializer, request.data)["reason"]
        gpu = service.withdraw_gpu(actor=api_actor(request), gpu_id=gpu_id, reason=reason, now=timezone.now())
        return Response(GpuSerializer(gpu).data)
