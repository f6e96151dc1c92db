"""Draws the dashboard's panels from a real Prometheus' answers, as an SRE sees them in Grafana.

It runs a day in a few minutes, in five parts: little traffic; more traffic, with large and bad
photos; more than the service can take; a roll-out of version 2; an update that is refused.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from hashlib import sha256
from io import BytesIO
from math import isfinite
from pathlib import Path
from threading import Thread
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image

from bench.load import ClosedLoop, open_loop
from bench.prometheus import Prometheus
from bench.servers import Server
from deployments.serve_config import ServeConfig
from deployments.settings import PROJECT
from monitoring.dashboard import ROWS, Panel
from samples.photos import large_photos, small_photos

# The values that Grafana would fill in for its variables.
_VARIABLES = {"$__rate_interval": "30s", "$application": "mlc", "$head": "category"}
_STEP_S = 2.0
_UNITS = {"s": "s", "reqps": "/s", "cps": "/s", "none": ""}

Series = tuple[str, list[float], list[float]]  # legend, seconds since the start, values


def as_grafana_asks(query: str) -> str:
    """A query with its variables filled in."""
    for variable, value in _VARIABLES.items():
        query = query.replace(variable, value)
    return query


def draw_dashboard(out: Path, seconds: float) -> list[Path]:
    """Run the day and draw one picture for each row of the dashboard.

    Args:
        seconds: duration of each of the five parts.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            Server(_config().write(folder / "serve_config.yaml")) as server,
            Prometheus(folder, server.url) as prometheus,
        ):
            start = time.time()
            _day(server, folder, seconds)
            time.sleep(15)  # Ray exports every 10 s
            rows = {title: _query_all(prometheus, row, start) for title, row in ROWS.items()}
    out.mkdir(parents=True, exist_ok=True)
    pictures = []
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        for title, panels in rows.items():
            pictures.append(out / f"{title.lower().replace(' ', '-')}.png")
            _row(title, panels).savefig(pictures[-1], dpi=90)
    return pictures


def _day(server: Server, folder: Path, seconds: float) -> None:
    small, large = small_photos(256), large_photos(12)
    bad = [b"no photo", small[0][:200], small[1][:900]]
    mixed: dict[str, tuple[Sequence[bytes], float]] = {
        "small": ([*small, *map(_as_png, small[:64])], 150),
        "large": (large, 6),
        "bad": (bad, 4),
    }
    open_loop(server.url, {"small": (small, 20)}, seconds)
    open_loop(server.url, mixed, seconds)
    ClosedLoop(small)(server.url, 256, seconds)
    traffic = Thread(target=open_loop, args=(server.url, mixed, 2 * seconds))
    traffic.start()
    time.sleep(seconds / 4)
    server.deploy(_config().with_user_config(model=str(_second_version(folder))))
    time.sleep(seconds)
    server.deploy(_config().with_user_config(model=str(folder / "never-uploaded/4")))
    traffic.join()


def _config() -> ServeConfig:
    """serve_config.yaml with autoscaled preprocessors and a short queue of small photos."""
    scaled = {
        "name": "Preprocessor", "num_replicas": "auto",
        "autoscaling_config": {
            "min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 1.5,
            "upscale_delay_s": 3, "downscale_delay_s": 20, "look_back_period_s": 5,
            "metrics_interval_s": 2,
            "policy": {"policy_function": "deployments.pipeline.autoscaling:groups_per_replica"},
        },
    }  # fmt: skip
    application = {
        "name": "mlc", "args": {"small_lane": {"max_waiting": 160}}, "deployments": [scaled]
    }  # fmt: skip
    config = ServeConfig.read(PROJECT / "serve_config.yaml")
    return config.merge({"applications": [application]})


def _second_version(folder: Path) -> Path:
    """The shipped model under another version."""
    model = folder / "fashion/3"
    shutil.copytree(PROJECT / "models/fashion/2", model)
    spec, sums = model / "spec.json", model / "SHA256SUMS"
    before = sha256(spec.read_bytes()).hexdigest()
    spec.write_text(json.dumps(json.loads(spec.read_text()) | {"version": "3"}))
    sums.write_text(sums.read_text().replace(before, sha256(spec.read_bytes()).hexdigest()))
    return model


def _as_png(photo: bytes) -> bytes:
    file = BytesIO()
    Image.open(BytesIO(photo)).save(file, "PNG")
    return file.getvalue()


def _query_all(
    prometheus: Prometheus, row: Sequence[Panel], start: float
) -> list[tuple[Panel, list[Series]]]:
    """The series of each panel, from the queries that Grafana would send."""
    end, asked = time.time(), []
    for panel in row:
        series: list[Series] = []
        for query, legend in panel.queries:
            for found in prometheus.query_range(as_grafana_asks(query), start, end, _STEP_S):
                points = [(float(at) - start, float(value)) for at, value in found["values"]]
                finite = [(at, value) for at, value in points if isfinite(value)]
                series.append((_filled_in(legend, found["metric"]), *_columns(finite)))
        asked.append((panel, series))
    return asked


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [at for at, _ in points], [value for _, value in points]


def _filled_in(legend: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda match: labels.get(match[1], ""), legend)


def _row(title: str, panels: Sequence[tuple[Panel, list[Series]]]) -> Figure:
    numbers = all(panel.limits is not None for panel, _ in panels)
    figure = Figure(figsize=(15, 1.4 if numbers else 3.8), layout="constrained")
    figure.suptitle(title, x=0.005, ha="left", weight="bold")
    for axes, (panel, series) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        axes.set_title(as_grafana_asks(panel.title))
        (_number if numbers else _plot)(axes, panel, series)
    return figure


def _number(axes: Axes, panel: Panel, series: list[Series]) -> None:
    """The latest value, in the colour that its limits give it."""
    axes.set_axis_off()
    if series and series[-1][2]:
        value, limits = series[-1][2][-1], panel.limits or ()
        color = ("tab:green", "tab:orange", "tab:red")[sum(value >= limit for limit in limits)]
        text = f"{value:.2%}" if panel.unit == "percentunit" else f"{value:.3g}{_UNITS[panel.unit]}"
        axes.text(0.5, 0.4, text, size=20, color=color, ha="center", va="center")


def _plot(axes: Axes, panel: Panel, series: list[Series]) -> None:
    if panel.stacked:
        times = sorted({at for _, when, _ in series for at in when})
        layers: list[list[float]] = []
        for _, when, values in series:
            known: dict[float, Any] = dict(zip(when, values, strict=True))
            layers.append([known.get(at, 0.0) for at in times])
        axes.stackplot(times, layers, labels=[name for name, *_ in series], alpha=0.7)
    else:
        for name, when, values in series:
            axes.plot(when, values, label=name, linewidth=1.2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("s")
    if panel.unit == "percentunit":
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    else:
        axes.set_ylabel(_UNITS[panel.unit])
    axes.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3)
