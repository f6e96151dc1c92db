"""Writes what was measured as a page for the people who keep a catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mlc_core.spec import Spec
from mlc_core.taxonomy import Named
from mlc_core.training.dataset import DataSet

TRUSTED = 10  # photos of a class, from which on its figures mean something
_EXAMPLES, _ENLARGED = 6, 2  # photos of a confusion, and how much larger they are shown

_PAGE = """# How good the labels are: {name}, version {version}

Measured on {photos} photos{of} that the model was not trained on. Figures are percent unless they
say otherwise.

| label | right | gets a label at `precision=0.95` | of those, right | confidence is off by |
|---|---|---|---|---|
{heads}

- **Right**: the model names what the data says. The range is where the true share lies, with 95%
  certainty.
- **Gets a label at `precision=0.95`**: for the other photos, the service answers `null` when it is
  asked for this precision, as a person should look.
- **Confidence is off by**: the expected calibration error, in points. Of labels that are 80% sure,
  about 80 of 100 should be right. In brackets: what chance alone would bring with so many photos.

![Reliability](reliability.png)

A point stands for labels that are about equally sure; a larger one for more of them. On the line,
as many are right as their confidence says. The grey bars are what chance explains.
"""
_HEAD = """
## {head}
{picture}

### The commonest mistakes
{confusions}

### Every class
Precision: of the photos that got this label, how many are of this class. Recall: of the photos of
this class, how many got this label. Support: photos of this class.

{rare}

| class | precision | recall | support |
|---|---|---|---|
{classes}
"""


def write_report(
    out: Path,
    spec: Spec,
    metrics: Mapping[str, Any],
    data: DataSet,
    named: Named,
    of: str,
) -> None:
    """Write report.md to `out`, and pictures of the commonest mistakes beside it.

    Args:
        metrics: what `evaluation.measure` returns.
        data: the photos that were measured on.
        named: head -> (N,) numbers of the classes that the model names.
        of: what the photos are, as in " of the test split".
    """
    parts = [
        _PAGE.format(
            name=spec.name,
            version=spec.version,
            photos=metrics["test_photos"],
            of=of,
            heads="\n".join(_summary(head, each) for head, each in metrics["heads"].items()),
        )
    ]
    for head, numbers in metrics["heads"].items():
        truth, labels = data.labels[head], np.array(spec.heads[head])[named[head]]
        confusions = []
        for at, mistake in enumerate(numbers["confusions"], start=1):
            same = (truth == mistake["label"]) & (labels == mistake["named"])
            alike = np.flatnonzero(same)[:_EXAMPLES]
            picture = f"mistake-{head}-{at}.png"
            _strip(data.images[alike]).save(out / picture)
            text = f"{mistake['label']}, named {mistake['named']}: {mistake['photos']} photos"
            confusions.append(f"{at}. {text}\n\n   ![{text}]({picture})")
        parts.append(
            _HEAD.format(
                head=head,
                picture=f"![Which labels are mistaken for which](confusion-{head}.png)"
                if np.isin(truth, spec.heads[head]).any()
                else "The model knows no class that occurs in the data.",
                confusions="\n".join(confusions) or "None.",
                rare=rare_classes(numbers["per_class"]),
                classes="\n".join(class_rows(numbers["per_class"])),
            )
        )
    (out / "report.md").write_text("".join(parts), encoding="utf-8")


def class_rows(per_class: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A row of a Markdown table for each class."""
    rows = []
    for name, of in per_class.items():
        cells = name.replace("|", "&#124;"), _percent(of["precision"]), _percent(of["recall"])
        rows.append(f"| {' | '.join(cells)} | {of['support']} |")
    return rows


def rare_classes(per_class: Mapping[str, Mapping[str, Any]]) -> str:
    """A sentence that names the classes whose figures say little."""
    rare = [name for name, of in per_class.items() if of["support"] < TRUSTED]
    if not rare:
        return f"Every class has at least {TRUSTED} photos here."
    return (
        f"Do not rely on {len(rare)} of {len(per_class)} classes: they have fewer than {TRUSTED} "
        f"photos here, too few to tell. {', '.join(sorted(rare))}."
    )


def _summary(head: str, numbers: Mapping[str, Any]) -> str:
    accuracy, error = numbers["accuracy"], numbers["calibration_error"]
    sure = numbers["precisions"].get("0.95", {"coverage": None, "precision": None})
    interval = f"({100 * accuracy['low']:.1f}–{100 * accuracy['high']:.1f})"
    off = f"{100 * error['value']:.1f} ({100 * error['by_chance']:.1f})"
    cells = (
        head, f"{_percent(accuracy['value'])} {interval}",
        _percent(sure["coverage"]), _percent(sure["precision"]), off,
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _strip(images: NDArray[np.uint8]) -> Image.Image:
    """Photos side by side, enlarged."""
    picture = Image.fromarray(np.concatenate(list(images), axis=1))
    size = picture.width * _ENLARGED, picture.height * _ENLARGED
    return picture.resize(size, Image.Resampling.LANCZOS)
