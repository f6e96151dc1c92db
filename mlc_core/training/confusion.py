"""Draws which labels of a head the model mistakes for which, for people to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray


def draw_confusion(
    truth: NDArray[np.intp],
    guess: NDArray[np.intp],
    classes: tuple[str, ...],
    title: str,
    path: Path,
) -> None:
    """Write a PNG: a row and a column for each class that occurs, most frequent first.

    A row has the shares of its photos. Guesses of classes that do not occur have no column.
    """
    counts = np.zeros((len(classes), len(classes)), int)
    known = truth >= 0
    np.add.at(counts, (truth[known], guess[known]), 1)
    occurs = np.flatnonzero(counts.sum(axis=1))
    order = occurs[np.argsort(-counts.sum(axis=1)[occurs], kind="stable")]
    rows = counts[np.ix_(order, order)] / counts[order].sum(axis=1, keepdims=True)

    side_in = max(5.0, 0.16 * len(order) + 2)
    figure = Figure(figsize=(side_in, side_in), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(rows, cmap="magma_r", vmin=0, vmax=1)
    names = [_plain(classes[at]) for at in order]
    counted = [f"{name} ({counts[at].sum()})" for name, at in zip(names, order, strict=True)]
    font_size = 10 if len(order) < 15 else 7
    axes.set_xticks(range(len(order)), names, rotation=90, size=font_size)
    axes.set_yticks(range(len(order)), counted, size=font_size)
    axes.set_xlabel("named by the model")
    axes.set_ylabel("label in the data (photos)")
    axes.set_title(_plain(title))
    figure.colorbar(image, shrink=0.6, label="share of the row")
    figure.savefig(path)


def _plain(text: str) -> str:
    """A text for matplotlib: a $ would begin a formula, and a file name may have odd bytes."""
    return text.encode("utf-8", "backslashreplace").decode().replace("$", r"\$")
