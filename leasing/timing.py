"""The spans of time that the domain waits, and how an effective time is clamped. Pure."""

from datetime import datetime, timedelta

INSTANT = timedelta(microseconds=1)
SHORTEST_LEASE = timedelta(minutes=1)
LONGEST_LEASE = timedelta(days=366)
FARTHEST_START = timedelta(days=731)
DECISION_WINDOW = timedelta(hours=24)
PAST_TOLERANCE = timedelta(minutes=5)

# An offer is held so long, or until its slot begins if that is sooner, but for the shortest time at least.
CLAIM_WINDOW = timedelta(minutes=30)
SHORTEST_CLAIM = timedelta(minutes=10)
# The GPU time of so long decides how far back a team joins a line, by at most the setback (leasing.lines).
SHARE_SPAN = timedelta(days=28)
LONGEST_SETBACK = timedelta(hours=24)

PROVISION_DEADLINE = timedelta(minutes=15)
RELEASE_DEADLINE = timedelta(minutes=15)
# More for a release that saves the disk first: a terabyte, at a hundred megabytes a second, takes so long.
SAVING_PATIENCE = timedelta(hours=3)
INTAKE_DEADLINE = timedelta(minutes=30)
SCRUB_DEADLINE = timedelta(hours=2)
UPDATE_DEADLINE = timedelta(minutes=5)
POWER_DEADLINE = timedelta(minutes=5)
HOST_SILENT_AFTER = timedelta(minutes=3)
# How long the owner of what looks unused is given to say otherwise, before it is given back.
UNUSED_WARNING = timedelta(minutes=30)
# How long a running machine may be missing from its host's inventory before its lease has failed.
RECONCILE_LIMIT = timedelta(minutes=5)

# The host stops a machine by itself this long after the end, when nobody told it to.
STOP_GRACE = timedelta(minutes=2)
# A system that has come up says so within this time, if it says anything.
GUEST_PATIENCE = timedelta(minutes=10)
SHUTDOWN_PATIENCE = timedelta(seconds=20)
OVERRUN_STEP = timedelta(minutes=10)

TICKET_LIFETIME = timedelta(seconds=30)


def clamp(effective_at: datetime, *, earliest: datetime, latest: datetime) -> datetime:
    """An effective time lies between the previous transition and the receipt of what proves it."""
    return max(earliest, min(effective_at, latest))
