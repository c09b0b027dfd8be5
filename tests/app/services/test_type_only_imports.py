"""The services name the unit of work in annotations only and load without the storage package."""

from __future__ import annotations

import subprocess
import sys

from tests.support.processes import PATIENCE_SECONDS

_LOAD_SERVICES = """
import importlib, pkgutil, sys
sys.modules["app.storage"] = sys.modules["sqlalchemy"] = None
import app.services
for module in pkgutil.iter_modules(app.services.__path__, "app.services."):
    importlib.import_module(module.name)
"""


def test_services_load_without_storage() -> None:
    subprocess.run([sys.executable, "-c", _LOAD_SERVICES], check=True, timeout=PATIENCE_SECONDS)
