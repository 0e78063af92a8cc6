"""In place of tests/conftest.py, whose node of its own needs calls that the emulator does not have."""

from __future__ import annotations

import hypothesis
import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "requires(*words): what the test needs of the machine: all is there")
    hypothesis.settings.register_profile("arm64", database=None, deadline=None, max_examples=10)
    hypothesis.settings.load_profile("arm64")
