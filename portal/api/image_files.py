"""Files of images over the API: operators bring them in piece after piece, hosts fetch them likewise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any
from uuid import UUID

from django.db.models import QuerySet
from django.http import HttpResponse
from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.exceptions import ValidationError
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response

from hosts.protocol.images import PIECE_BYTES
from leasing import policy
from leasing.imaging import copies, uploads
from leasing.models import ImageCopy, ImageUpload
from portal.api.enrolment import EnvelopeSerializer
from portal.api.fields import StrictSerializer
from portal.api.views import ActionView, ListView, api_actor, checked, person_of
from portal.middleware import client_address


class PieceParser(BaseParser):
    """Bytes as they are, no more than a piece may have."""

    media_type = "application/octet-stream"

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> dict[str, bytes]:
        return {"data": stream.read(PIECE_BYTES + 1)}


class UploadSerializer(serializers.ModelSerializer[ImageUpload]):
    reason = serializers.CharField(read_only=True, help_text="Why it is not usable")
    digest = serializers.CharField(
        source="stored.digest", read_only=True, default="", help_text="SHA-256 of the raw disk, when ready"
    )
    piece_bytes = serializers.SerializerMethodField(help_text="How large a piece may be")

    class Meta:
        model = ImageUpload
        fields = [
            "id", "file_name", "format", "size", "received", "state", "percent", "reason", "digest",
            "piece_bytes", "created_at",
        ]  # fmt: skip
        read_only_fields = fields

    def get_piece_bytes(self, upload: ImageUpload) -> int:
        return PIECE_BYTES


class NewUploadSerializer(StrictSerializer[dict[str, Any]]):
    file_name = serializers.CharField(max_length=200)
    format = serializers.ChoiceField(ImageUpload.Format.choices)
    size = serializers.IntegerField(min_value=1, max_value=2**50, help_text="Bytes")
    digest = serializers.CharField(
        max_length=64, required=False, default="", allow_blank=True, help_text="The SHA-256 it must have"
    )


class ImageUploads(ListView[ImageUpload]):
    """Files on their way in, and those that are ready to become a version of an image."""

    serializer_class = UploadSerializer
    queryset = ImageUpload.objects.none()

    def get_queryset(self) -> QuerySet[ImageUpload]:
        policy.require_fleet_reader(person_of(self.request))
        return uploads.uploads()

    @extend_schema(request=NewUploadSerializer, responses={201: UploadSerializer})
    def post(self, request: Request) -> Response:
        """Say what is about to come; then PUT its pieces, each at the offset `received`."""
        policy.require_operator(person_of(request))
        said = checked(NewUploadSerializer, request.data)
        upload = uploads.begin_upload(actor=api_actor(request), now=timezone.now(), **said)
        return Response(UploadSerializer(upload).data, status=status.HTTP_201_CREATED)


class ImageUploadView(ActionView):
    """One upload. It goes on where it stood, from another machine too, if it was cut short."""

    parser_classes = (PieceParser,)

    @extend_schema(responses=UploadSerializer)
    def get(self, request: Request, upload_id: UUID) -> Response:
        """How far it is."""
        policy.require_fleet_reader(person_of(request))
        return Response(UploadSerializer(uploads.known_upload(upload_id)).data)

    @extend_schema(
        parameters=[OpenApiParameter("offset", int, required=True, description="Equal to `received`")],
        request={"application/octet-stream": OpenApiTypes.BINARY},
        responses=UploadSerializer,
    )
    def put(self, request: Request, upload_id: UUID) -> Response:
        """Add the next piece. After the last one it is checked and converted."""
        policy.require_operator(person_of(request))
        offset = request.query_params.get("offset", "")
        if not (offset.isascii() and offset.isdigit()) or len(offset) > 16:
            raise ValidationError({"offset": _("Say at which byte the piece begins.")})
        upload = uploads.add_piece(
            actor=api_actor(request),
            upload_id=upload_id,
            offset=int(offset),
            data=_piece(request.data),
            now=timezone.now(),
        )
        return Response(UploadSerializer(upload).data)

    @extend_schema(responses={204: None})
    def delete(self, request: Request, upload_id: UUID) -> Response:
        """Forget it, and its file in the store if no version is made of it."""
        policy.require_operator(person_of(request))
        uploads.remove_upload(actor=api_actor(request), upload_id=upload_id, now=timezone.now())
        return Response(status=status.HTTP_204_NO_CONTENT)


def _piece(parsed: Any) -> bytes:
    piece: bytes = parsed["data"]
    return piece


class ImageCopySerializer(serializers.ModelSerializer[ImageCopy]):
    host = serializers.CharField(source="host.name", read_only=True)
    digest = serializers.CharField(source="stored.digest", read_only=True)
    file_name = serializers.CharField(source="stored.name", read_only=True)
    percent = serializers.IntegerField(read_only=True)

    class Meta:
        model = ImageCopy
        fields = ["host", "digest", "file_name", "wanted", "state", "percent", "reason", "changed_at"]
        read_only_fields = fields


class ImageCopies(ListView[ImageCopy]):
    """Which host has which image, or how far it is with it."""

    serializer_class = ImageCopySerializer
    queryset = ImageCopy.objects.none()

    def get_queryset(self) -> QuerySet[ImageCopy]:
        policy.require_fleet_reader(person_of(self.request))
        return copies.known_copies()


class HostImageView(ActionView):
    """For hosts that are enrolled: their signature says who asks."""

    authentication_classes = ()
    permission_classes = ()
    throttle_classes = ()

    @extend_schema(
        request=EnvelopeSerializer,
        responses={(206, "application/octet-stream"): OpenApiTypes.BINARY, 204: None},
        auth=[],
    )
    def post(self, request: Request) -> HttpResponse:
        """The next data of an image; 204 if there is only a hole up to its end."""
        envelope = checked(EnvelopeSerializer, request.data)["envelope"]
        address = client_address(request._request)
        piece, size = copies.serve_piece(envelope=envelope, address=address, now=timezone.now())
        if piece is None:
            return HttpResponse(status=status.HTTP_204_NO_CONTENT)
        last = piece.offset + len(piece.data) - 1
        return HttpResponse(
            piece.data,
            status=status.HTTP_206_PARTIAL_CONTENT,
            content_type="application/octet-stream",
            headers={"Content-Range": f"bytes {piece.offset}-{last}/{size}", "Cache-Control": "no-store"},
        )
