"""Fixtures of the domain's tests."""

from __future__ import annotations

import pytest

from tests.domain.ground import Ground


@pytest.fixture
def ground(db: None) -> Ground:
    return Ground()
