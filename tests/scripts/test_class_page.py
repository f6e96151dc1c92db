"""Claims about the page of classes: it has every class and shows what can be drawn."""

import re
from types import SimpleNamespace

from mlc_core.spec import ImageSize, Spec
from scripts.class_page import class_page, draw_mistakes

SPEC = Spec("shop", "7", ImageSize(80, 60), {"color": ("Black", "Teal", "Red")})
NUMBERS = {
    "per_class": {
        "Black": {"precision": 0.9, "recall": 0.8, "support": 50},
        "Teal": {"precision": None, "recall": 0.0, "support": 3},
    },
    "confusions": [{"label": "Teal", "named": "Black", "photos": 3}],
}
ARTIFACT = SimpleNamespace(spec=SPEC, metrics={"test_photos": 53, "heads": {"color": NUMBERS}})


def test_every_class_has_a_row_and_rare_ones_are_named():
    page = class_page(ARTIFACT)
    assert "| Black | 90.0 | 80.0 | 50 |" in page
    assert "| Teal | – | 0.0 | 3 |" in page
    assert "Do not rely on 1 of 2 classes" in page
    assert page.count("Teal") == 3


def test_a_mistake_is_shown_as_far_as_the_samples_can_draw_it(tmp_path):
    page = class_page(ARTIFACT)
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", page)
    assert pictures == ["mistakes/black.png"]
    draw_mistakes(tmp_path)
    assert (tmp_path / pictures[0]).exists()
