"""Renders the files that the manifests embed, each from its one source.

kustomize reads no file outside its own directory and merges no YAML inside a string. So
`make generate` writes these files:

    serve_config.yaml + serve_config.patch.yaml of the base (+ of the overlay)
                                           -> serve_config.rendered.yaml, a patch of the RayService
    cluster.env                            -> base/cluster.env
    monitoring/rules.yaml                  -> components/monitoring/rules.rendered.yaml
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from deployments.serve_config import ServeConfig, merge
from deployments.settings import PROJECT

K8S = PROJECT / "k8s"
_NOTE = "# Made by `make generate`.\n"


def rendered() -> dict[Path, str]:
    """Every generated file, with its contents.

    Raises:
        ValueError: a patch makes a Serve config with a wrong key or value.
    """
    config = yaml.safe_load((PROJECT / "serve_config.yaml").read_text(encoding="utf-8"))
    base = merge(config, _patch(K8S / "base"))
    configs = {K8S / "base": base} | {
        patch.parent: merge(base, _patch(patch.parent))
        for patch in sorted(K8S.glob("overlays/*/serve_config.patch.yaml"))
    }
    rules = yaml.safe_load((PROJECT / "monitoring/rules.yaml").read_text(encoding="utf-8"))
    for folder, each in configs.items():
        ServeConfig(each, f"serve_config.patch.yaml of {folder.relative_to(PROJECT)}").check()
    return {
        folder / "serve_config.rendered.yaml": _object(
            "ray.io/v1", "RayService", {"serveConfigV2": _dump(config)}
        )
        for folder, config in configs.items()
    } | {
        K8S / "base/cluster.env": (PROJECT / "cluster.env").read_text(encoding="utf-8"),
        K8S / "components/monitoring/rules.rendered.yaml": _object(
            "monitoring.coreos.com/v1", "PrometheusRule", rules
        ),
    }


def _patch(folder: Path) -> Any:
    return yaml.safe_load((folder / "serve_config.patch.yaml").read_text(encoding="utf-8"))


def _object(version: str, kind: str, spec: dict[str, Any]) -> str:
    return _NOTE + _dump(
        {"apiVersion": version, "kind": kind, "metadata": {"name": "mlc"}, "spec": spec}
    )


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, so that they stay readable."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _dump(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
