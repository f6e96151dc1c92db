import pytest

from deployments import metrics


@pytest.fixture
def recorded(monkeypatch):
    """What is recorded, and not handed to Ray: (metric, value, labels)."""
    monkeypatch.setattr(metrics, "hand_over", lambda: None)
    metrics._recorded.clear()
    return metrics._recorded
