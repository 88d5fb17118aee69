"""The API: the main job with a token, and problem details for everything that is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from django.test import Client
from knox.models import AuthToken

from leasing.models import AuditEntry, Lease, Person
from tests.web.conftest import SignIn, new_client
from tests.web.scenes import Scene

if TYPE_CHECKING:
    from django.test.client import _MonkeyPatchedWSGIResponse as Answer

BOOKING = {"tenant": "studio", "flavor": "studio", "image": "tenant", "duration_seconds": 3600}


class Api:
    """A program with a token."""

    def __init__(self, person: Person) -> None:
        secret = AuthToken.objects.create(person, timedelta(days=1))[1]
        self.client = new_client(Authorization=f"Token {secret}")

    def get(self, path: str, **query: str) -> Answer:
        return self.client.get(f"/api/v1/{path}", query)

    def post(self, path: str, body: object = None) -> Answer:
        text = json.dumps({} if body is None else body)
        return self.client.post(f"/api/v1/{path}", text, content_type="application/json")


def problem_of(answer: Answer) -> dict[str, Any]:
    """The problem document, which every error must be."""
    assert answer.headers["Content-Type"] == "application/problem+json"
    told: dict[str, Any] = json.loads(answer.content)
    assert told["status"] == answer.status_code
    assert told["type"].startswith("urn:leasehold:problem:")
    assert told["title"]
    assert told["detail"]
    assert told["hint"]
    return told


@pytest.fixture
def ada(scene: Scene) -> Api:
    return Api(scene.ada)


def test_the_main_job_over_the_api(scene: Scene, ada: Api) -> None:
    quote = ada.post("quote/", {"flavor": "studio", "duration_seconds": 7200}).json()
    assert (quote["total"], quote["currency"], quote["approval_because"]) == ("7.60", "EUR", "")
    made = ada.post("leases/", BOOKING)
    assert made.status_code == 201
    lease = Lease.objects.get(pk=made.json()["id"])
    assert made.headers["Location"] == f"/api/v1/leases/{lease.pk}/"
    scene.now = datetime.now(UTC)
    scene.run(lease)
    shown = ada.get(f"leases/{lease.pk}/").json()
    assert (shown["state"], shown["machine"]) == ("active", "running")
    assert [step["state"] for step in shown["steps"]] == ["done"] * 7
    assert ada.post(f"leases/{lease.pk}/power/", {"action": "restart"}).status_code == 202
    opened = ada.post(f"leases/{lease.pk}/console/").json()
    assert opened["path"] == f"/ws/console/{opened['session_id']}/"
    assert ada.post(f"leases/{lease.pk}/end/").json()["state"] == "releasing"
    entry = AuditEntry.objects.filter(subject=f"lease:{lease.pk}", action="lease.end").get()
    assert json.loads(entry.text)["address"] == "127.0.0.1"


def test_an_approver_rejects_with_a_reason(scene: Scene) -> None:
    approver = Api(scene.approver)
    path = f"leases/{scene.requested.pk}/reject/"
    assert problem_of(approver.post(path, {"note": ""}))["errors"][0]["field"] == "note"
    assert approver.post(path, {"note": "Not now."}).json()["decision_note"] == "Not now."
    assert problem_of(approver.post(path, {"note": "Again."}))["status"] == 409


def test_the_evidence_is_there_to_be_read(scene: Scene, ada: Api) -> None:
    (record,) = ada.get("scrub-records/", lease=str(scene.ended.pk)).json()["results"]
    assert record["passed"]
    assert record["evidence"]["witness"]["canaries_planted"] == 32
    assert ada.get("scrub-records/", lease=str(scene.spoilt.pk)).json()["results"] == []


def test_usage_as_json_and_csv_agree(scene: Scene) -> None:
    finance = Api(scene.finance)
    rows = finance.get("usage/", before=f"{scene.until:%Y-%m-%dT%H:%M:%SZ}").json()["results"]
    assert {row["tenant"] for row in rows} == {"studio"}
    text = finance.get("usage/export/").getvalue().decode()
    assert len(text.splitlines()) == 1 + len(rows)
    assert rows[0]["amount"] in text


SOON = datetime.now(UTC) + timedelta(days=2)


def at(moment: datetime) -> str:
    return moment.isoformat()


BAD_BOOKINGS: dict[str, tuple[dict[str, Any], str]] = {
    "zero duration": ({"duration_seconds": 0}, "duration_seconds"),
    "negative duration": ({"duration_seconds": -60}, "duration_seconds"),
    "duration beyond a year": ({"duration_seconds": 367 * 86400}, "ends_at"),
    "absurd duration": ({"duration_seconds": 10**18}, "duration_seconds"),
    "duration of a wrong type": ({"duration_seconds": "long"}, "duration_seconds"),
    "neither end nor duration": ({"duration_seconds": None}, "ends_at"),
    "both end and duration": ({"ends_at": at(SOON)}, "ends_at"),
    "end before start": ({"starts_at": at(SOON), "ends_at": at(SOON), "duration_seconds": None}, "ends_at"),
    "start in the past": ({"starts_at": "2020-01-01T00:00:00Z"}, "starts_at"),
    "start too far ahead": ({"starts_at": at(SOON + timedelta(days=733))}, "starts_at"),
    "start without a zone": ({"starts_at": "2027-01-01T00:00:00"}, "starts_at"),
    "start out of range": ({"starts_at": "0001-01-01T00:00:00+14:00"}, "starts_at"),
    "start at the end of time": ({"starts_at": "9999-12-31T23:59:59-12:00"}, "starts_at"),
    "start that is a number": ({"starts_at": 1700000000}, "starts_at"),
    "start that is a list": ({"starts_at": ["2027-01-01"]}, "starts_at"),
    "unknown flavor": ({"flavor": "nonsense"}, "flavor"),
    "unknown image": ({"image": "nonsense"}, "image"),
    "another team": ({"tenant": "research"}, "tenant"),
    "flavor of a wrong type": ({"flavor": {"slug": "studio"}}, "flavor"),
    "null flavor": ({"flavor": None}, "flavor"),
    "null character": ({"purpose": "a\x00b"}, "purpose"),
    "lone surrogate": ({"purpose": "\ud800"}, "purpose"),
    "long purpose": ({"purpose": "x" * 501}, "purpose"),
    "misspelt field": ({"start_at": at(SOON)}, "start_at"),
}


@pytest.mark.parametrize("case", BAD_BOOKINGS)
def test_bad_bookings_name_the_field(ada: Api, case: str) -> None:
    changes, field = BAD_BOOKINGS[case]
    before = Lease.objects.count()
    told = problem_of(ada.post("leases/", BOOKING | changes))
    assert told["status"] == 400
    assert field in {fault["field"] for fault in told["errors"]}
    assert Lease.objects.count() == before


def test_odd_but_right_offsets_mean_the_same_moment(ada: Api) -> None:
    moments = {
        ada.post("quote/", {"flavor": "studio", "starts_at": start, "duration_seconds": 3600}).json()[
            "ends_at"
        ]
        for start in (f"{SOON:%Y-%m-%d}T12:00:00Z", f"{SOON:%Y-%m-%d}T17:45:00+05:45")
    }
    assert len(moments) == 1


def test_nothing_free_is_a_conflict_that_says_what_to_do(ada: Api) -> None:
    told = problem_of(ada.post("leases/", BOOKING | {"flavor": "train"}))
    assert told["status"] == 409
    assert told["type"].endswith("nothing-free")


BODIES: dict[str, tuple[bytes, str, int]] = {
    "malformed": (b"{", "application/json", 400),
    "not an object": (b"[]", "application/json", 400),
    "just null": (b"null", "application/json", 400),
    "not UTF-8": (b'{"flavor": "\xff"}', "application/json", 400),
    "not a number": (b'{"duration_seconds": NaN}', "application/json", 400),
    "endless number": (b'{"duration_seconds": ' + b"9" * 5000 + b"}", "application/json", 400),
    "nested without end": (b"[" * 100_000, "application/json", 400),
    "oversized": (b'{"purpose": "' + b"x" * 300_000 + b'"}', "application/json", 413),
    "a form": (b"flavor=studio", "application/x-www-form-urlencoded", 415),
    "XML": (b"<lease/>", "application/xml", 415),
}


@pytest.mark.parametrize("case", BODIES)
def test_bad_bodies_are_problems(ada: Api, case: str) -> None:
    body, kind, status = BODIES[case]
    assert problem_of(ada.client.post("/api/v1/leases/", body, content_type=kind))["status"] == status


NOWHERE: dict[str, tuple[Callable[[Scene], str], int]] = {
    "unknown address": (lambda _scene: "nowhere/", 404),
    "unknown id": (lambda _scene: f"leases/{uuid4()}/", 404),
    "malformed id": (lambda _scene: "leases/42/", 404),
    "another's id": (lambda scene: f"leases/{scene.theirs.pk}/", 404),
    "unknown state": (lambda _scene: "leases/?state=asleep", 400),
    "malformed filter": (lambda _scene: "scrub-records/?gpu=42", 400),
    "only by POST": (lambda _scene: "quote/", 405),
}


@pytest.mark.parametrize("case", NOWHERE)
def test_wrong_addresses_are_problems(ada: Api, scene: Scene, case: str) -> None:
    path, status = NOWHERE[case]
    assert problem_of(ada.client.get(f"/api/v1/{path(scene)}"))["status"] == status


def test_others_and_unknown_look_the_same(ada: Api, scene: Scene) -> None:
    theirs, nothing = (
        problem_of(ada.post(f"leases/{pk}/power/", {"action": "off"})) for pk in (scene.theirs.pk, uuid4())
    )
    theirs.pop("instance")
    nothing.pop("instance")
    assert theirs == nothing


@pytest.mark.parametrize(
    "token", ["", "x", "Token", "Token a b", "Token ÿ", f"Token {'a' * 64}", "Basic YTpi"]
)
def test_bad_tokens_are_problems(token: str, scene: Scene) -> None:
    answer = Client().get("/api/v1/me/", headers={"Authorization": token.encode().decode("latin-1")})
    assert problem_of(answer)["status"] == 401
    assert answer.headers["WWW-Authenticate"] == "Token"


def test_an_expired_token_is_worth_nothing(scene: Scene) -> None:
    secret = AuthToken.objects.create(scene.ada, timedelta(seconds=-1))[1]
    answer = Client().get("/api/v1/me/", headers={"Authorization": f"Token {secret}"})
    assert problem_of(answer)["status"] == 401


def test_a_token_cannot_make_another(ada: Api) -> None:
    assert problem_of(ada.post("tokens/", {"days": 30}))["status"] == 403


def test_a_session_on_the_api_keeps_its_forgery_check(scene: Scene, sign_in: SignIn) -> None:
    client = Client(enforce_csrf_checks=True)
    client.cookies = sign_in(scene.ada).cookies
    answer = client.post(f"/api/v1/leases/{scene.active.pk}/end/", "{}", content_type="application/json")
    assert problem_of(answer)["status"] == 403
    scene.active.refresh_from_db()
    assert scene.active.state == "active"


def test_the_schema_is_public_and_names_the_problems(scene: Scene) -> None:
    answer = Client().get("/api/v1/schema/", headers={"Accept": "application/vnd.oai.openapi+json"})
    described = json.loads(answer.content)
    booking = described["paths"]["/api/v1/leases/"]["post"]
    assert {"201", "400", "401", "409", "413", "415"} <= set(booking["responses"])
    assert "application/problem+json" in booking["responses"]["409"]["content"]


def test_slots_name_the_first_time_and_what_nearly_fits(scene: Scene, ada: Api) -> None:
    query = {"flavor": "studio", "duration_seconds": "3600"}
    (first, *more) = ada.get("slots/", **query, count="2").json()["slots"]
    assert (first["total"], first["currency"], len(more)) == ("3.80", "EUR", 1)
    deadline = at(datetime.now(UTC) + timedelta(minutes=30))
    nothing = ada.get("slots/", **query, deadline=deadline).json()
    assert nothing["slots"] == []
    assert nothing["obstacles"] == [
        {"code": "deadline-too-early", "detail": "It would end after the latest end that you gave."}
    ]
    assert nothing["later"][0]["total"] == "3.80"
    assert nothing["shorter"]["ends_at"][:16] == deadline[:16]
    for wrong in ({"duration_seconds": "1"}, {"count": "11"}, {"flavor": "none"}, {"earliest": "soon"}):
        assert ada.get("slots/", **(query | wrong)).status_code == 400


def test_a_lease_is_moved_extended_and_shortened(ada: Api) -> None:
    made = ada.post("leases/", BOOKING | {"starts_at": at(SOON)}).json()
    path = f"leases/{made['id']}/"
    assert ada.get(f"{path}end-at/").json()["until"] > at(SOON + timedelta(hours=2))
    longer = ada.post(f"{path}end-at/", {"ends_at": at(SOON + timedelta(hours=3))}).json()
    assert (longer["quoted_total"], longer["pending_ends_at"]) == ("11.40", None)
    shorter = ada.post(f"{path}end-at/", {"ends_at": at(SOON + timedelta(hours=2))}).json()
    assert shorter["quoted_total"] == "7.60"
    window = {"starts_at": at(SOON + timedelta(days=2)), "ends_at": at(SOON + timedelta(days=2, hours=1))}
    assert ada.post(f"{path}window/", window).json()["quoted_total"] == "3.80"
    assert problem_of(ada.post(f"{path}end-at/", {"ends_at": at(SOON)}))["status"] == 400
