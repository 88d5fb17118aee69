"""How a journal of the previous version of this program is taken over: statements by schema version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

# Schema 1 counted the steps of a plan, and did not say when it was made, or why it failed.
_STEPS_OF_SCHEMA_1: Mapping[str, str] = {
    "provision": "identify bind reserve define start confirm",
    "release": "close stop undefine destroy-disk",
    "power-on": "identify bind define start confirm",
    "resume": "identify bind define start confirm",
    "power-restart": "stop identify bind define start confirm",
    "power-off": "stop",
    "deadline": "stop",
    "scrub": "claim bind begin reset plant fill verify reset-again compare",
    "intake": "claim bind begin reset plant fill verify reset-again compare",
    "inspect": "look",
}


def _named_steps() -> Iterable[str]:
    yield "ALTER TABLE plan RENAME COLUMN step TO step_number"
    yield "ALTER TABLE plan ADD COLUMN step TEXT NOT NULL DEFAULT ''"
    for kind, steps in _STEPS_OF_SCHEMA_1.items():
        for number, step in enumerate(steps.split()):
            where = f"kind = '{kind}' AND step_number = {number}"
            yield f"UPDATE plan SET step = '{step}' WHERE {where}"  # noqa: S608 - the names above
    yield "ALTER TABLE plan DROP COLUMN step_number"
    # What it knew of its canaries is of no use any more: a scrub that has planted some plants new ones.
    begun = "kind IN ('scrub', 'intake') AND step IN ('fill', 'verify', 'reset-again', 'compare')"
    still_open = "state IN ('waiting', 'running', 'cancelling')"
    yield f"UPDATE plan SET step = 'plant', attempt = 0 WHERE {begun} AND {still_open}"  # noqa: S608
    yield "ALTER TABLE plan ADD COLUMN failure TEXT NOT NULL DEFAULT ''"
    yield "ALTER TABLE plan ADD COLUMN added_at TEXT"
    yield "ALTER TABLE plan ADD COLUMN ended_at TEXT"


# Schema 2 knew no networks.
_LANE = "lease_id TEXT PRIMARY KEY, number INTEGER NOT NULL UNIQUE, ports TEXT NOT NULL"
_LANES = (
    f"CREATE TABLE lane ({_LANE}, is_open INTEGER NOT NULL) STRICT",
    "PRAGMA user_version = 3",
)
UPGRADES: Mapping[int, Sequence[str]] = {1: (*_named_steps(), *_LANES), 2: _LANES}
