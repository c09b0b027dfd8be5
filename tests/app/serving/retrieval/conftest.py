"""Fixtures of the tests of the first stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.first_stages import rebuilt

if TYPE_CHECKING:
    from app.serving.retrieval.first_stage import FirstStage
    from tests.support.gateway_world import World


@pytest.fixture
def first_stage(world: World) -> FirstStage:
    return rebuilt(world)
