"""Draws whether confidences mean what they say, for people to look at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mlc_core.training.evaluation import BINS, bin_numbers, calibration_error

_INK, _QUIET = "#2f5d50", "#b9b6ae"


def draw_reliability(
    heads: Mapping[str, tuple[NDArray[np.float32], NDArray[np.bool_]]], path: Path
) -> None:
    """Write a PNG with a diagram for each head (DeGroot and Fienberg 1983).

    A point stands for the labels of one bin of confidence: how sure they were on average, how many
    were right, and, by its size, how many they are. On the diagonal, both are the same.

    Args:
        heads: head -> the confidence of each label, and whether it is right, (N,) each.
    """
    figure = Figure(figsize=(3.3 * len(heads), 3.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (head, (confidence, right)) in zip(
        figure.subplots(1, len(heads), squeeze=False)[0], heads.items(), strict=True
    ):
        bins = bin_numbers(confidence)
        counts = np.bincount(bins, minlength=BINS)
        there = np.flatnonzero(counts)
        sure = np.bincount(bins, confidence.astype(np.float64), BINS)[there] / counts[there]
        correct = np.bincount(bins, right.astype(np.float64), BINS)[there] / counts[there]
        # Two standard errors of a share, were the labels as often right as they were sure.
        error = 2 * np.sqrt(sure * (1 - sure) / counts[there])
        axes.plot([0, 1], [0, 1], color=_QUIET, linewidth=1)
        axes.vlines(sure, np.maximum(sure - error, 0), np.minimum(sure + error, 1), color=_QUIET)
        axes.scatter(sure, correct, 8 + 200 * counts[there] / counts.sum(), color=_INK, zorder=3)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="confidence")
        axes.set_title(f"{head}, error {calibration_error(confidence, right):.3f}", size=10)
    figure.axes[0].set_ylabel("share of labels that are right")
    figure.savefig(path)
