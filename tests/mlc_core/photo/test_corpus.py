"""Files that fuzzing has made: each gets its image, or a fault that names the cause.

The name of a file says what became of it when it was found: format, outcome, part of its SHA-256.
"""

from pathlib import Path

import pytest

from mlc_core.errors import PhotoFault
from mlc_core.photo import decode, decode_s
from mlc_core.spec import ImageSize

CORPUS = sorted(Path(__file__).with_name("corpus").iterdir())
SIZE = ImageSize(height_px=80, width_px=60)


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.name)
def test_a_hostile_file_is_decoded_or_refused_as_before(file):
    _, outcome, _ = file.name.rsplit("-", 2)
    if outcome == "decoded":
        assert decode(file.read_bytes(), SIZE).shape == (80, 60, 3)
        return
    with pytest.raises(PhotoFault) as refused:
        decode(file.read_bytes(), SIZE)
    assert refused.type.__name__.lower() == outcome
    assert str(refused.value)


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.name)
def test_its_cost_can_be_told_from_its_header(file):
    assert decode_s(file.read_bytes()) >= 0
