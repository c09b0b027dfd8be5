"""The world that the gateway lives in."""

from __future__ import annotations

from tests.integration.gateway_world import world

__all__ = ["world"]
