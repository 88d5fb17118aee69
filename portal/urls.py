"""Every address of the portal."""

from __future__ import annotations

from django.urls import include, path

from portal.feeds import feed
from portal.health import healthz, readyz
from portal.live import events
from portal.pages import (
    access,
    account,
    approvals,
    audit,
    book,
    calendar,
    fleet,
    home,
    hosts,
    maintenance,
    quota,
    series,
    usage,
    workstation,
)

urlpatterns = [
    path("", home.home, name="home"),
    path("live/", home.home_live, name="home-live"),
    path("sign-in/", access.SignIn.as_view(), name="sign-in"),
    path("sign-out/", access.SignOut.as_view(), name="sign-out"),
    path("book/", book.book, name="book"),
    path("book/price/", book.book_price, name="book-price"),
    path("calendar/", calendar.calendar, name="calendar"),
    path("workstations/", home.workstations, name="workstations"),
    path("workstations/<uuid:lease_id>/", workstation.workstation, name="workstation"),
    path("workstations/<uuid:lease_id>/live/", workstation.workstation_live, name="workstation-live"),
    path("workstations/<uuid:lease_id>/power/", workstation.switch, name="workstation-power"),
    path("workstations/<uuid:lease_id>/in-use/", workstation.in_use, name="workstation-in-use"),
    path("workstations/<uuid:lease_id>/end-at/", workstation.end_at, name="workstation-end-at"),
    path("workstations/<uuid:lease_id>/extend/", workstation.extend, name="workstation-extend"),
    path("workstations/<uuid:lease_id>/end/", workstation.end, name="workstation-end"),
    path("workstations/<uuid:lease_id>/console/", workstation.console, name="console"),
    path("workstations/<uuid:lease_id>/console/ticket/", workstation.console_ticket, name="console-ticket"),
    path("series/<uuid:series_id>/", series.series, name="series"),
    path("series/<uuid:series_id>/live/", series.series_live, name="series-live"),
    path("series/<uuid:series_id>/cancel/", series.cancel, name="series-cancel"),
    path("series/<uuid:series_id>/decide/", series.decide, name="decide-series"),
    path("approvals/", approvals.approvals, name="approvals"),
    path("approvals/<uuid:lease_id>/", approvals.decide, name="decide"),
    path("quota/", quota.quota, name="quota"),
    path("quota/ask/", quota.ask, name="ask-quota"),
    path("quota/<uuid:request_id>/", quota.decide_quota, name="decide-quota"),
    path("fleet/", fleet.fleet, name="fleet"),
    path("fleet/live/", fleet.fleet_live, name="fleet-live"),
    path("fleet/hosts/<uuid:host_id>/drain/", maintenance.drain_host, name="drain-host"),
    path("fleet/gpus/<uuid:gpu_id>/drain/", maintenance.drain_gpu, name="drain-gpu"),
    path("fleet/closures/", maintenance.closures, name="closures"),
    path("fleet/closures/<int:closure_id>/", maintenance.closure, name="closure"),
    path("fleet/closures/<int:closure_id>/lift/", maintenance.lift, name="lift-closure"),
    path("fleet/enrol/", hosts.enrol, name="enrol-host"),
    path("fleet/enrol/<int:token_id>/withdraw/", hosts.withdraw_token, name="withdraw-enrolment-token"),
    path("fleet/hosts/<uuid:host_id>/", hosts.host, name="host"),
    path("fleet/hosts/<uuid:host_id>/look/", hosts.look_again, name="host-look"),
    path("fleet/hosts/<uuid:host_id>/name/", hosts.rename, name="host-name"),
    path("fleet/hosts/<uuid:host_id>/keys/", hosts.new_keys, name="host-keys"),
    path("fleet/hosts/<uuid:host_id>/account/", hosts.make_account, name="host-account"),
    path("fleet/hosts/<uuid:host_id>/retire/", hosts.retire, name="host-retire"),
    path("fleet/cards/<int:card_id>/admit/", fleet.admit_card, name="admit-card"),
    path("fleet/gpus/<uuid:gpu_id>/", fleet.gpu, name="gpu"),
    path("fleet/gpus/<uuid:gpu_id>/readmit/", fleet.readmit, name="readmit-gpu"),
    path("fleet/gpus/<uuid:gpu_id>/withdraw/", fleet.withdraw, name="withdraw-gpu"),
    path("audit/", audit.audit, name="audit"),
    path("usage/", usage.usage, name="usage"),
    path("usage.csv", usage.usage_download, name="usage-csv"),
    path("account/", account.account, name="account"),
    path("account/language/", account.speak, name="language"),
    path("account/tokens/", account.add_token, name="add-token"),
    path("account/tokens/<slug:token_key>/revoke/", account.remove_token, name="remove-token"),
    path("account/feeds/", account.add_feed, name="add-feed"),
    path("account/feeds/<uuid:feed_id>/revoke/", account.remove_feed, name="remove-feed"),
    path("feeds/<slug:secret>.ics", feed, name="feed"),
    path("events/", events, name="events"),
    path("api/v1/", include("portal.api.urls")),
    path("healthz", healthz, name="healthz"),
    path("readyz", readyz, name="readyz"),
]

handler400 = "portal.pages.errors.bad_request"
handler403 = "portal.pages.errors.not_allowed"
handler404 = "portal.pages.errors.not_found"
handler500 = "portal.pages.errors.server_error"
