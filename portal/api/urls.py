"""The addresses of the API, below /api/v1/."""

from __future__ import annotations

from django.urls import path
from django.views.decorators.cache import cache_page
from drf_spectacular.views import SpectacularAPIView

from portal.api import (
    approvals,
    availability,
    changing,
    enrolment,
    feeds,
    fleet,
    hosts,
    leases,
    maintenance,
    me,
    quotas,
    records,
    series,
    slots,
)

schema = SpectacularAPIView.as_view(authentication_classes=[], permission_classes=[], throttle_classes=[])

urlpatterns = [
    path("schema/", cache_page(3600)(schema), name="api-schema"),
    path("me/", me.MeView.as_view(), name="api-me"),
    path("tenants/", me.TenantList.as_view(), name="api-tenants"),
    path("flavors/", me.FlavorList.as_view(), name="api-flavors"),
    path("images/", me.ImageList.as_view(), name="api-images"),
    path("tokens/", me.TokenList.as_view(), name="api-tokens"),
    path("tokens/<slug:token_key>/", me.TokenDetail.as_view(), name="api-token"),
    path("feeds/", feeds.FeedList.as_view(), name="api-feeds"),
    path("feeds/<uuid:feed_id>/", feeds.FeedDetail.as_view(), name="api-feed"),
    path("quote/", slots.QuoteView.as_view(), name="api-quote"),
    path("slots/", slots.SlotsView.as_view(), name="api-slots"),
    path("availability/", availability.AvailabilityView.as_view(), name="api-availability"),
    path("leases/", leases.LeaseList.as_view(), name="api-leases"),
    path("leases/<uuid:lease_id>/", leases.LeaseDetail.as_view(), name="api-lease"),
    path("leases/<uuid:lease_id>/end/", leases.EndView.as_view(), name="api-lease-end"),
    path("leases/<uuid:lease_id>/end-at/", changing.EndAtView.as_view(), name="api-lease-end-at"),
    path("leases/<uuid:lease_id>/window/", changing.ChangeView.as_view(), name="api-lease-window"),
    path("leases/<uuid:lease_id>/in-use/", leases.InUseView.as_view(), name="api-lease-in-use"),
    path("leases/<uuid:lease_id>/power/", leases.PowerView.as_view(), name="api-lease-power"),
    path("leases/<uuid:lease_id>/approve/", approvals.ApproveView.as_view(), name="api-lease-approve"),
    path("leases/<uuid:lease_id>/reject/", approvals.RejectView.as_view(), name="api-lease-reject"),
    path("leases/<uuid:lease_id>/revoke/", approvals.RevokeView.as_view(), name="api-lease-revoke"),
    path("approvals/", approvals.RequestList.as_view(), name="api-approvals"),
    path("leases/<uuid:lease_id>/console/", leases.ConsoleView.as_view(), name="api-lease-console"),
    path("series/", series.SeriesList.as_view(), name="api-series-list"),
    path("series/preview/", series.SeriesPreview.as_view(), name="api-series-preview"),
    path("series/<uuid:series_id>/", series.SeriesDetail.as_view(), name="api-series"),
    path("series/<uuid:series_id>/cancel/", series.SeriesCancel.as_view(), name="api-series-cancel"),
    path("series/<uuid:series_id>/approve/", series.SeriesApprove.as_view(), name="api-series-approve"),
    path("series/<uuid:series_id>/reject/", series.SeriesReject.as_view(), name="api-series-reject"),
    path("limits/", quotas.LimitsView.as_view(), name="api-limits"),
    path("quota-requests/", quotas.QuotaRequestList.as_view(), name="api-quota-requests"),
    path(
        "quota-requests/<uuid:request_id>/decision/",
        quotas.QuotaDecisionView.as_view(),
        name="api-quota-decision",
    ),
    path("hosts/", fleet.HostList.as_view(), name="api-hosts"),
    path("hosts/<uuid:host_id>/", fleet.HostDetail.as_view(), name="api-host"),
    path("hosts/<uuid:host_id>/check-up/", hosts.CheckUpView.as_view(), name="api-host-check-up"),
    path("hosts/<uuid:host_id>/inspect/", hosts.InspectView.as_view(), name="api-host-inspect"),
    path("hosts/<uuid:host_id>/name/", hosts.NameView.as_view(), name="api-host-name"),
    path("hosts/<uuid:host_id>/account/", hosts.AccountView.as_view(), name="api-host-account"),
    path("hosts/<uuid:host_id>/token/", enrolment.HostTokenView.as_view(), name="api-host-token"),
    path("hosts/<uuid:host_id>/retire/", hosts.RetireView.as_view(), name="api-host-retire"),
    path("enrolment/", enrolment.EnrolView.as_view(), name="api-enrolment"),
    path("enrolment/rekey/", enrolment.RekeyView.as_view(), name="api-rekey"),
    path("enrolment-tokens/", enrolment.EnrolmentTokenList.as_view(), name="api-enrolment-tokens"),
    path(
        "enrolment-tokens/<int:token_id>/",
        enrolment.EnrolmentTokenDetail.as_view(),
        name="api-enrolment-token",
    ),
    path("found-cards/", fleet.FoundCardList.as_view(), name="api-found-cards"),
    path("found-cards/<int:card_id>/admit/", fleet.AdmitView.as_view(), name="api-card-admit"),
    path("gpus/", fleet.GpuList.as_view(), name="api-gpus"),
    path("gpus/<uuid:gpu_id>/", fleet.GpuDetail.as_view(), name="api-gpu"),
    path("gpus/<uuid:gpu_id>/readmit/", fleet.ReadmitView.as_view(), name="api-gpu-readmit"),
    path("gpus/<uuid:gpu_id>/withdraw/", fleet.WithdrawView.as_view(), name="api-gpu-withdraw"),
    path("closures/", maintenance.ClosureList.as_view(), name="api-closures"),
    path("closures/preview/", maintenance.DrainPreview.as_view(), name="api-drain-preview"),
    path(
        "closures/<int:closure_id>/preview/", maintenance.ChangePreview.as_view(), name="api-closure-preview"
    ),
    path("closures/<int:closure_id>/change/", maintenance.ChangeView.as_view(), name="api-closure-change"),
    path("closures/<int:closure_id>/lift/", maintenance.LiftView.as_view(), name="api-closure-lift"),
    path("scrub-records/", records.ScrubRecordList.as_view(), name="api-scrub-records"),
    path("audit/", records.AuditList.as_view(), name="api-audit"),
    path("usage/", records.UsageList.as_view(), name="api-usage"),
    path("usage/csv/", records.UsageCsv.as_view(), name="api-usage-csv"),
]
