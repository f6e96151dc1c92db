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


@pytest.fixture(params=CHOICES, ids=lambda choice: "all" if len(choice) > 1 else "".join(choice) or "alone")
def any_objects(request, overlay):
    return render(overlay, *request.param)
