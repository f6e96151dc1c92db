"""Claims about generated files: they are what their sources say."""

import pytest
from services import PROJECT

from deployments.settings import ClassifierConfig, Settings
from scripts.generate import generated


@pytest.mark.parametrize("path", generated(), ids=lambda path: str(path.relative_to(PROJECT)))
def test_a_generated_file_is_what_its_source_says(path):
    assert path.read_text(encoding="utf-8") == generated()[path], "run: make generate"


def test_the_page_of_settings_has_every_key():
    page = generated()[PROJECT / "docs/settings.md"]
    for name in (*Settings.model_fields, *ClassifierConfig.model_fields):
        assert f"`{name}" in page
    assert "| `large_lane.max_waiting` | `1024` |" in page
