"""What the tests of catalogue runs share."""

from pathlib import Path

import pytest

from samples.photos import small_photos


@pytest.fixture(scope="session")
def drawn_photos(tmp_path_factory) -> Path:
    """A directory of 320 drawn photos, with one more that is broken."""
    path = tmp_path_factory.mktemp("drawn") / "photos"
    path.mkdir()
    for number, photo in enumerate(small_photos(320)):
        (path / f"{number:05}.jpg").write_bytes(photo)
    (path / "broken.jpg").write_bytes(b"\xff\xd8 this is no photo")
    return path
