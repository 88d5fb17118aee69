"""Calendar feeds: right in every zone, true to every change, and closed to whoever may not read them."""

from __future__ import annotations

import importlib
import json
import logging
import re
import zoneinfo
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from django.test import Client
from django.utils import translation
from hypothesis import example, given
from hypothesis import strategies as st
from icalendar import Calendar
from playwright.sync_api import expect

from hosts.models import Gpu
from leasing import policy
from leasing.actors import SYSTEM
from leasing.availability.levels import TAKEN, changes
from leasing.changing import change_end, change_window, confirm_extension
from leasing.ending import end_lease
from leasing.errors import InvalidRequest, WrongState
from leasing.feeds import entries, keeping
from leasing.feeds.entries import FeedEntries, LeaseEntry, read_entries
from leasing.feeds.keeping import MOST_FEEDS, NOTED_EVERY, NewFeed, create_feed, fetch_feed, revoke_feed
from leasing.models import AuditEntry, CalendarFeed, Closure, Flavor, Hold, Lease, Person, Tenant
from leasing.openings.upkeep import rebuild
from portal.feeds import written
from portal.logs import WithoutFeedSecrets
from tests.web.browsing import Visits
from tests.web.conftest import SignIn, new_client
from tests.web.scenes import Scene
from tests.web.site import Site

if TYPE_CHECKING:
    from django.test.client import _MonkeyPatchedWSGIResponse as Answer

HOUR = timedelta(hours=1)


def make(scene: Scene, *, who: str = "ada", model: str = "") -> NewFeed:
    actor = scene.actor(scene.everybody()[who])
    return create_feed(actor=actor, name="Mine", model_slug=model, now=datetime.now(UTC))


def get(feed: NewFeed, **headers: str) -> Answer:
    return new_client().get(f"/feeds/{feed.secret}.ics", headers=headers)


def events(feed: NewFeed) -> dict[str, Any]:
    answer = get(feed)
    assert answer.status_code == 200
    found: dict[str, Any] = {str(event["UID"]): event for event in read(answer.content)}
    for event in found.values():
        assert {"UID", "DTSTAMP", "DTSTART", "DTEND", "SUMMARY"} <= set(event)
        assert event["DTSTART"].dt < event["DTEND"].dt
    return found


def read(text: bytes) -> list[Any]:
    return list(Calendar.from_ical(text).walk("VEVENT"))


def of(lease: Lease) -> str:
    return f"{lease.pk}@leasehold"


def second(at: datetime) -> datetime:
    return at.replace(microsecond=0)


def test_ones_own_workstations_are_there_as_long_as_they_last(scene: Scene) -> None:
    found = events(make(scene))
    shown = {scene.active, scene.preparing, scene.scheduled, scene.requested, scene.ended}
    assert {of(lease) for lease in shown} <= set(found)
    assert of(scene.rejected) not in found
    assert of(scene.theirs) not in found
    active = found[of(scene.active)]
    assert (active["DTSTART"].dt, active["DTEND"].dt) == (
        second(scene.active.starts_at),
        second(scene.active.ends_at),
    )
    assert f"/workstations/{scene.active.pk}/" in str(active["URL"])
    assert scene.active.machine_name in str(active["SUMMARY"])
    assert found[of(scene.requested)]["STATUS"] == "TENTATIVE"
    over = Lease.objects.get(pk=scene.ended.pk)
    assert over.stopped_at is not None
    assert found[of(over)]["DTEND"].dt == second(over.stopped_at) < second(over.ends_at)


def test_it_speaks_its_persons_language(scene: Scene) -> None:
    feed = make(scene)
    assert "running" in get(feed).content.decode()
    Person.objects.filter(pk=scene.ada.pk).update(language="zh-hans")
    assert get(feed).headers["Content-Language"] == "zh-hans"
    assert "运行中" in get(feed).content.decode()


def test_it_is_calendar_text_that_stays_private(scene: Scene) -> None:
    feed = make(scene)
    answer = get(feed)
    assert answer.headers["Content-Type"] == "text/calendar; charset=utf-8"
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert b"\r\n" in answer.content
    assert max(map(len, answer.content.splitlines())) <= 75
    assert feed.secret.encode() not in answer.content
    again = get(feed, **{"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    end_lease(actor=scene.actor(scene.ada), lease_id=scene.scheduled.pk, now=datetime.now(UTC))
    assert get(feed, **{"If-None-Match": answer.headers["ETag"]}).status_code == 200


def test_what_moves_is_newer_and_what_is_cancelled_goes(scene: Scene) -> None:
    feed, lease, ada = make(scene), scene.scheduled, scene.actor(scene.ada)
    versions, now = [events(feed)[of(lease)]["SEQUENCE"]], datetime.now(UTC)

    def moved() -> Any:
        event = events(feed)[of(lease)]
        changed = Lease.objects.get(pk=lease.pk)
        assert event["DTSTART"].dt == second(changed.starts_at)
        assert event["DTEND"].dt == second(changed.ends_at)
        assert event["SEQUENCE"] > max(versions)
        assert event["LAST-MODIFIED"].dt == event["DTSTAMP"].dt == second(now)
        versions.append(event["SEQUENCE"])
        return event

    change_end(actor=ada, lease_id=lease.pk, ends_at=lease.ends_at + HOUR, now=now)
    moved()
    now += HOUR / 60
    start = lease.starts_at + 24 * HOUR
    change_window(actor=ada, lease_id=lease.pk, starts_at=start, ends_at=start + HOUR, now=now)
    moved()
    now += HOUR / 60
    change_end(actor=ada, lease_id=lease.pk, ends_at=start + HOUR / 2, now=now)
    moved()
    end_lease(actor=ada, lease_id=lease.pk, now=now)
    assert of(lease) not in events(feed)


def test_an_end_that_the_host_confirms_later_is_newer_too(scene: Scene) -> None:
    feed, lease = make(scene), scene.active
    asked, confirmed = datetime.now(UTC), datetime.now(UTC) + HOUR / 60
    later = lease.ends_at + HOUR
    change_end(actor=scene.actor(scene.ada), lease_id=lease.pk, ends_at=later, now=asked)
    before = events(feed)[of(lease)]
    assert before["DTEND"].dt == second(lease.ends_at)
    confirm_extension(Lease.objects.get(pk=lease.pk), later, now=confirmed)
    after = events(feed)[of(lease)]
    assert after["DTEND"].dt == second(later)
    assert after["SEQUENCE"] > before["SEQUENCE"]
    assert after["LAST-MODIFIED"].dt == second(confirmed)


MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2090, 1, 1))  # noqa: DTZ001 - the zone is drawn
ZONES = st.sampled_from(sorted(zoneinfo.available_timezones())).map(ZoneInfo)


@given(MOMENTS, st.timedeltas(timedelta(minutes=1), timedelta(days=366)), ZONES, st.booleans())
@example(datetime(2026, 10, 25, 2, 30), HOUR, ZoneInfo("Europe/Berlin"), True)  # noqa: DTZ001
@example(datetime(2026, 3, 29, 1, 30), HOUR, ZoneInfo("Europe/Berlin"), False)  # noqa: DTZ001
def test_a_calendar_reads_the_same_moments_in_every_zone(
    local: datetime, length: timedelta, zone: ZoneInfo, fold: bool
) -> None:
    """Whatever the clocks do there at that time, and in whichever zone the reader lives."""
    starts_at = local.replace(tzinfo=zone, fold=int(fold))
    ends_at = starts_at.astimezone(UTC) + length
    tenant, person = Tenant(name="Studio"), Person(username="ada")
    lease = Lease(
        tenant=tenant, owner=person, flavor=Flavor(name="Studio A6000"), state="scheduled",
        starts_at=starts_at, ends_at=ends_at, requested_at=datetime(2020, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    feed = CalendarFeed(person=person, name="Mine", created_at=lease.requested_at)
    held = FeedEntries([LeaseEntry(lease, starts_at, ends_at, 3, lease.requested_at)], [])
    (event,) = read(written(feed, held))
    assert event["DTSTART"].dt.astimezone(UTC) == second(starts_at.astimezone(UTC))
    assert event["DTEND"].dt.astimezone(zone) == second(ends_at).astimezone(zone)


def test_a_pool_names_what_one_may_see_and_only_that(scene: Scene) -> None:
    feed = make(scene, who="bob", model="a6000")
    text = get(feed).content.decode().replace("\r\n ", "")
    for lease in Lease.objects.exclude(owner=scene.bob):
        assert str(lease.pk) not in text
        assert lease.machine_name not in text
    assert scene.host.row.name not in text
    assert scene.theirs.machine_name in text
    assert f"pool-{scene.theirs.pk}@leasehold" in events(feed)
    team = events(make(scene, who="approver", model="a6000"))
    assert "Ada Lindqvist" in str(team[f"pool-{scene.active.pk}@leasehold"]["SUMMARY"])


def test_a_pool_says_how_many_are_free_and_what_is_closed(scene: Scene) -> None:
    Hold.objects.all().delete()
    Closure.objects.all().delete()
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    held, closed = (now + 30 * HOUR, now + 33 * HOUR), (now + 50 * HOUR, now + 51 * HOUR)
    gpu = Gpu.objects.filter(model=scene.model, state="clean").first()
    assert gpu is not None
    Hold.objects.create(lease=scene.theirs, gpu=gpu, starts_at=held[0], ends_at=held[1])
    Closure.objects.create(host=gpu.host, starts_at=closed[0], ends_at=closed[1], created_at=now)
    rebuild(gpu.host_id)
    anonymous = [event for uid, event in events(make(scene, model="a6000")).items() if "a6000" in uid]
    told = {str(one["SUMMARY"]): (one["DTSTART"].dt, one["DTEND"].dt) for one in anonymous}
    assert told == {"A6000 in use: 3 of 6 free": held, "A6000: maintenance, 6 of 6": closed}


def test_a_busy_pool_is_told_by_the_hour(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = make(scene, model="a6000")
    now = datetime.now(UTC)
    exact = read_entries(feed.row, now=now).pool
    monkeypatch.setattr(entries, "MOST_CHANGES", 1)
    coarse = read_entries(feed.row, now=now).pool
    assert {entry.starts_at.minute for entry in coarse} == {0}
    for entry in exact:
        inside = [
            one.gpus for one in coarse if one.starts_at < entry.ends_at and one.ends_at > entry.starts_at
        ]
        assert entry.closed or max(inside) >= entry.gpus, "at its worst moment"
    assert len(changes(TAKEN, scene.model, now, now + HOUR, limit=1)) == 1


def test_it_holds_no_more_than_so_many(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "MOST_LEASES", 2)
    assert len(events(make(scene))) == 2


def test_the_secret_is_long_shown_once_and_kept_as_a_hash(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.ada)
    page = client.post("/account/feeds/", {"name": " My  feed ", "model": ""}).content.decode()
    (secret,) = re.findall(r'id="new-feed"[^>]*>http://[^<]*/feeds/([A-Za-z0-9_-]+)\.ics<', page)
    assert len(secret) * 6 >= 128
    row = CalendarFeed.objects.get()
    assert row.name == "My feed"
    assert secret not in json.dumps([str(value) for value in CalendarFeed.objects.values().get().values()])
    again = client.get("/account/").content.decode()
    assert "My feed" in again
    assert secret not in again
    assert new_client().get(f"/feeds/{secret}.ics").status_code == 200
    client.post(f"/account/feeds/{row.pk}/revoke/")
    assert new_client().get(f"/feeds/{secret}.ics").status_code == 404
    told = AuditEntry.objects.filter(
        action__in=["feed.create", "feed.revoke"], subject=f"person:{scene.ada.pk}"
    )
    assert {entry.action for entry in told} == {"feed.create", "feed.revoke"}
    texts = "".join(entry.text for entry in told)
    assert secret not in texts
    assert row.secret_sha256 not in texts
    assert str(row.pk) in texts


@pytest.mark.parametrize("secret", ["x", "x" * 43, "-", "0" * 64, "_" * 300])
def test_a_wrong_secret_leads_nowhere(scene: Scene, secret: str) -> None:
    make(scene)
    answer = new_client().get(f"/feeds/{secret}.ics")
    assert (answer.status_code, answer.content) == (404, b"")
    assert new_client().post(f"/feeds/{secret}.ics").status_code == 405


def test_its_own_hash_is_not_the_secret(scene: Scene) -> None:
    assert new_client().get(f"/feeds/{make(scene).row.secret_sha256}.ics").status_code == 404


def test_a_role_that_is_lost_takes_its_leases_out(scene: Scene) -> None:
    mine, pool = make(scene), make(scene, model="a6000")
    now = datetime.now(UTC)
    policy.revoke_role(actor=SYSTEM, person=scene.ada, tenant=scene.studio, role="member", now=now)
    assert events(mine) == {}
    assert get(pool).status_code == 404


def test_who_is_deactivated_has_no_feeds(scene: Scene) -> None:
    feed = make(scene)
    Person.objects.filter(pk=scene.ada.pk).update(is_active=False)
    assert get(feed).status_code == 404


def test_a_model_that_is_on_offer_no_more_has_no_feed(scene: Scene) -> None:
    feed = make(scene, model="a6000")
    Flavor.objects.update(offered=False)
    assert get(feed).status_code == 404


def test_there_are_so_many_feeds_a_person_and_they_have_names(scene: Scene) -> None:
    for name in ("", "  ", "x" * 61, "a\x00b", "a\u202eb"):
        with pytest.raises(InvalidRequest):
            create_feed(actor=scene.actor(scene.ada), name=name, now=scene.now)
    with pytest.raises(InvalidRequest):
        make(scene, model="none")
    for _ in range(MOST_FEEDS):
        feed = make(scene)
    with pytest.raises(WrongState):
        make(scene)
    make(scene, who="bob")
    revoke_feed(actor=scene.actor(scene.ada), feed_id=feed.row.pk, now=scene.now)
    make(scene)


def test_when_it_was_last_read_is_noted_now_and_then(scene: Scene) -> None:
    feed, now = make(scene), datetime.now(UTC)
    noted = []
    for after in (timedelta(), NOTED_EVERY / 2, NOTED_EVERY * 2):
        fetch_feed(feed.secret, now=now + after)
        noted.append(CalendarFeed.objects.get().last_read_at)
    assert noted == [now, now, now + NOTED_EVERY * 2]


def test_feeds_are_kept_over_the_api(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.ada)
    made = client.post(
        "/api/v1/feeds/", '{"name": "Pool", "model": "a6000"}', content_type="application/json"
    )
    assert made.status_code == 201
    path = made.json()["url"].partition("/feeds/")[2]
    assert new_client().get(f"/feeds/{path}").status_code == 200
    (row,) = client.get("/api/v1/feeds/").json()["results"]
    assert (row["name"], row["model"], row["last_read_at"] is not None) == ("Pool", "a6000", True)
    assert path.partition(".")[0] not in json.dumps(row)
    assert sign_in(scene.bob).get("/api/v1/feeds/").json()["results"] == []
    assert client.delete(f"/api/v1/feeds/{row['id']}/").status_code == 204
    assert new_client().get(f"/feeds/{path}").status_code == 404
    wrong = client.post("/api/v1/feeds/", '{"name": "", "model": "none"}', content_type="application/json")
    assert wrong.status_code == 400


def test_a_token_cannot_make_a_feed(scene: Scene) -> None:
    from knox.models import AuthToken

    secret = AuthToken.objects.create(scene.ada, timedelta(days=1))[1]
    client = Client(headers={"Authorization": f"Token {secret}"})
    assert client.post("/api/v1/feeds/", '{"name": "x"}', content_type="application/json").status_code == 403
    assert client.get("/api/v1/feeds/").status_code == 200


def test_the_access_log_does_not_tell_the_secret() -> None:
    asgi = importlib.import_module("portal.asgi")
    assert asgi.application
    access_log = logging.getLogger("uvicorn.access")
    installed = next(one for one in access_log.filters if isinstance(one, WithoutFeedSecrets))
    path = "/feeds/Abc-_123Abc-_123Abc-_123Abc-_123Abc-_123ab.ics?x=1"
    said = '%s - "%s %s HTTP/%s" %d'
    line = logging.LogRecord("", logging.INFO, "", 0, said, ("127.0.0.1:1", "GET", path, "1.1", 200), None)
    assert installed.filter(line)
    assert line.getMessage() == '127.0.0.1:1 - "GET /feeds/….ics?x=1 HTTP/1.1" 200'


def test_the_portals_log_does_not_tell_the_secret(scene: Scene) -> None:
    feed, heard = make(scene), StringIO()
    CalendarFeed.objects.all().delete()
    (handler,) = [one for one in logging.getLogger().handlers if type(one) is logging.StreamHandler]
    before = handler.setStream(heard)
    try:
        assert get(feed).status_code == 404
        logging.getLogger("portal").warning("Odd: %s", Client().get(f"/feeds/{feed.secret}.ics").wsgi_request)
    finally:
        handler.setStream(before)
    assert heard.getvalue().count("/feeds/….ics") == 3
    assert feed.secret not in heard.getvalue()


def test_a_feed_is_read_without_a_session_and_with_any(scene: Scene, sign_in: SignIn) -> None:
    feed = make(scene)
    answer = sign_in(scene.bob).get(f"/feeds/{feed.secret}.ics")
    assert answer.content == get(feed).content
    assert "sessionid" not in answer.cookies
    with translation.override("zh-hans"):
        assert get(feed).content == answer.content
    assert keeping.SECRET_BYTES * 8 >= 128


@pytest.mark.timeout(90)
def test_a_new_address_fits_a_phone(visits: Visits, site: Site) -> None:
    page = visits.page(site.scene.ada, width=390)
    page.goto("/account/")
    page.locator("#feed-name").fill("Phone")
    page.get_by_role("button", name="Make a feed").click()
    expect(page.locator("#new-feed")).to_contain_text("/feeds/")
    root = "document.documentElement"
    assert page.evaluate(f"{root}.scrollWidth - {root}.clientWidth") <= 0
