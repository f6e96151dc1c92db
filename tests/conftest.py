"""What tests of every part share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shipped_model() -> Path:
    return Path(__file__).parents[1] / "models" / "fashion" / "1"
