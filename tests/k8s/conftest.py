"""Every overlay with every choice of components."""

import pytest
from manifests import CHOICES, OVERLAYS, render


@pytest.fixture(params=OVERLAYS)
def overlay(request):
    return request.param


@pytest.fixture
def objects(overlay):
    """Of an overlay as it is."""
    return render(overlay)


def _name(choice):
    return "all" if len(choice) > 1 else "".join(choice) or "alone"


@pytest.fixture(params=CHOICES, ids=_name)
def any_objects(request, overlay):
    return render(overlay, *request.param)
