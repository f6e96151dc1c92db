"""Writes docs/classes.md: how good the shipped model is class by class, and what it mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from mlc_core.artifact import Artifact
from mlc_core.training.report import class_rows, rare_classes
from samples.garments import CATEGORIES, SHADES, draw_garment

_PICTURES = Path("mistakes")  # beside the page
_PAGE = """# Class by class: {name}, version {version}

`make generate` makes this page from the model's `metrics.json`; `GET /v1/model` has the same
figures. They are of the {photos} photos of the test split, in float32, and in percent. Precision:
of the photos that got this label, how many are of this class. Recall: of the photos of this class,
how many got this label. Support: photos of this class. With a support of 20, a figure may be 20
points off; with 5, it says next to nothing.

The pictures are drawn; no photo of the data set is part of this project. `mlc evaluate DATA` writes
the same for your own photos, with pictures of them.
"""
_HEAD = """
## {head}
{rare}

| label in the data | the model named | photos | |
|---|---|---|---|
{confusions}

<details><summary>Every class of {head}</summary>

| class | precision | recall | support |
|---|---|---|---|
{classes}
</details>
"""


def class_page(artifact: Artifact) -> str:
    """The contents of docs/classes.md."""
    spec, metrics = artifact.spec, artifact.metrics
    parts = [_PAGE.format(name=spec.name, version=spec.version, photos=metrics["test_photos"])]
    for head, numbers in metrics["heads"].items():
        parts.append(
            _HEAD.format(
                head=head,
                rare=rare_classes(numbers["per_class"]),
                confusions="\n".join(_row(mistake) for mistake in numbers["confusions"]),
                classes="\n".join(class_rows(numbers["per_class"])),
            )
        )
    return "".join(parts)


def draw_mistakes(docs: Path) -> None:
    """Draw the pictures that the page shows and that are not there yet."""
    (docs / _PICTURES).mkdir(exist_ok=True)
    for name in (*SHADES, *CATEGORIES):
        file = docs / _picture(name)
        if not file.exists():
            _drawn(name).save(file)


def _row(mistake: Mapping[str, Any]) -> str:
    label, named = mistake["label"], mistake["named"]
    drawn = [f"![{each}]({_picture(each)})" for each in (label, named) if _can_be_drawn(each)]
    return f"| {label} | {named} | {mistake['photos']} | {' '.join(drawn)} |"


def _can_be_drawn(name: str) -> bool:
    return name in SHADES or name in CATEGORIES


def _drawn(name: str) -> Image.Image:
    return draw_garment("Tshirts", name) if name in SHADES else draw_garment(name, "Grey")


def _picture(name: str) -> Path:
    return _PICTURES / f"{name.lower().replace(' ', '-')}.png"
