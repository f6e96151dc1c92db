"""`make generate`: writes every file of the repository that is generated from another one.

With --check it writes nothing, and fails if a file is stale.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from deployments.settings import PROJECT, ClassifierConfig, Settings
from deployments.telemetry.catalogue import ALL, Metric
from k8s.render import rendered
from mlc_core.arguments import MODEL
from mlc_core.artifact import load_artifact
from monitoring import dashboard
from scripts.class_page import class_page, draw_mistakes

_PROTO = PROJECT / "deployments/http/open_inference.proto"
_METRICS = """# Metrics

`make generate` makes this page from `deployments/telemetry/catalogue.py`. Ray's agents export these
metrics. So does `GET /metrics` of the service, together with Serve's own (`ray_serve_…`). Ray adds
`deployment`, `replica`, `application` and labels of its own to each. `GET /metrics` also has
`mlc_nodes_unreachable`: the nodes whose agent did not answer within a second.

Replicas send bucket counts to Ray's agents, not observations. So the `_sum` of a histogram is made
of the middles of its buckets: take means from the counters that exist for them. A series begins
with the count at its first export, and `rate()` does not see that first value.

| name | kind | labels | meaning | who reads it |
|---|---|---|---|---|"""

_SETTINGS = """# Settings

`make generate` makes this page from `deployments/settings.py`, the one home of these defaults. A
Serve config sets only what differs. A wrong key or type fails the deployment, and the error names
the key, its value and what was expected.
"""


def generated() -> dict[Path, str]:
    """Every generated file, with its contents."""
    return (
        rendered()
        | {
            PROJECT / "monitoring/dashboard.json": dashboard.text(),
            PROJECT / "docs/metrics.md": _metrics_page(),
            PROJECT / "docs/classes.md": class_page(load_artifact(MODEL)),
            PROJECT / "docs/settings.md": _settings_page(),
        }
        | _messages()
    )


def _messages() -> dict[Path, str]:
    """The classes of gRPC's messages, and their types."""
    with tempfile.TemporaryDirectory() as folder:
        to = (f"--python_out={folder}", f"--pyi_out={folder}")
        # In a process of its own: beside TensorFlow's protobuf it crashes.
        protoc = (sys.executable, "-m", "grpc_tools.protoc")
        subprocess.run([*protoc, f"-I{_PROTO.parent}", *to, str(_PROTO)], check=True)  # noqa: S603
        made = Path(folder).iterdir()
        return {_PROTO.with_name(file.name): file.read_text(encoding="utf-8") for file in made}


def _metrics_page() -> str:
    def row(metric: Metric) -> str:
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
        cells = (f"`{metric.exported}`", metric.kind, labels, metric.text, metric.reader)
        return f"| {' | '.join(cells)} |"

    buckets = [
        f"- `{metric.exported}`: {', '.join(f'{bound:g}' for bound in metric.buckets)}"
        for metric in ALL
        if metric.buckets
    ]
    return "\n".join((_METRICS, *map(row, ALL), "", "Upper bounds of buckets:", "", *buckets, ""))


def _settings_page() -> str:
    parts = [_SETTINGS]
    for title, model in (
        ("`args` of the application", Settings),
        ("`user_config` of a classifier", ClassifierConfig),
    ):
        parts += [f"## {title}", "| key | default | meaning |", "|---|---|---|"]
        parts += [*_rows(model, {}), ""]
    return "\n".join(parts)


def _rows(model: type[BaseModel], defaults: dict[str, Any], prefix: str = "") -> list[str]:
    rows = []
    for name, field in model.model_fields.items():
        default = defaults.get(name, None if field.is_required() else field.default)
        if isinstance(default, BaseModel):
            rows += _rows(type(default), default.model_dump(), f"{prefix}{name}.")
        else:
            shown = "required" if field.is_required() else f"`{_as_yaml(default)}`"
            rows.append(f"| `{prefix}{name}` | {shown} | {field.description} |")
    return rows


def _as_yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{', '.join(value)}]" if isinstance(value, list) else str(value)


def main() -> int:
    stale = {
        file: text
        for file, text in generated().items()
        if not file.exists() or file.read_text(encoding="utf-8") != text
    }
    if "--check" in sys.argv[1:]:
        names = ", ".join(str(file.relative_to(PROJECT)) for file in stale)
        sys.stdout.write(f"stale, run `make generate`: {names}\n" if stale else "")
        return 1 if stale else 0
    draw_mistakes(PROJECT / "docs")
    for file, text in stale.items():
        file.write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote {file.relative_to(PROJECT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
