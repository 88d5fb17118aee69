"""The fence before the reports: what passes, and that nothing a sender writes makes it fail."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.message import Message

from hosts.protocol.fence import objection

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def message(payload: Any, **headers: Any) -> Message:
    return Message(
        body=json.dumps(payload),
        content_type="application/json",
        content_encoding="utf-8",
        headers=headers,
        properties={},
        accept={"application/json"},
    )


def test_one_envelope_passes() -> None:
    assert objection(message([["envelope"], {}, {}])) is None


@pytest.mark.parametrize(
    "payload",
    [
        {"task": 1, "id": 2, "args": 3},
        [["envelope"], {}, "embedded"],
        [7, {}, {}],
        [["envelope"], {}, {"callbacks": [1]}],
        [["envelope"], {}, {"chain": [1]}],
        [["envelope", "another"], {}, {}],
        [["envelope"], {"more": 1}, {}],
    ],
)
def test_anything_else_is_refused(payload: Any) -> None:
    assert objection(message(payload))


@pytest.mark.parametrize("header", ["eta", "group", "chord", "stamped_headers"])
def test_what_celery_would_act_upon_is_refused(header: str) -> None:
    assert objection(message([["envelope"], {}, {}], **{header: "x"}))


def test_what_is_no_json_is_refused() -> None:
    broken = message([])
    broken.body = "{"
    assert objection(broken)


@given(payload=JSON, headers=st.dictionaries(st.text(max_size=8), JSON, max_size=3))
def test_no_message_makes_it_fail(payload: Any, headers: dict[str, Any]) -> None:
    objection(message(payload, **{f"x{name}": value for name, value in headers.items()}))
