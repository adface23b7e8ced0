"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("machine may be busy", deadline=None)
settings.load_profile("machine may be busy")
