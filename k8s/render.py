"""Renders the files that the manifests embed, each from its one source.

kustomize reads no file outside its own directory and merges no YAML inside a string. So
`make generate` writes these files:

    serve_config.yaml + serve_config.patch.yaml of the base (+ of the overlay)
                                           -> serve_config.rendered.yaml, a patch of the RayService
    configs/similar.yaml, if the component `similar` is used, + its own patch too, likewise
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


def rendered(k8s: Path = K8S) -> dict[Path, str]:
    """Every generated file, with its contents.

    Args:
        k8s: the folder of the manifests.

    Raises:
        ValueError: a patch makes a Serve config with a wrong key or value.
    """
    base = merge(_read(PROJECT / "serve_config.yaml"), _patch(k8s / "base"))
    component = k8s / "components/similar"
    similar = merge(_read(PROJECT / "configs/similar.yaml"), _patch(k8s / "base"))
    similar = merge(similar, _patch(component))
    configs = {k8s / "base": base, component: similar} | {
        patch.parent: merge(similar if _has(patch.parent, component) else base, _read(patch))
        for patch in sorted(k8s.glob("overlays/*/serve_config.patch.yaml"))
    }
    rules = _read(PROJECT / "monitoring/rules.yaml")
    for folder, each in configs.items():
        ServeConfig(each, f"serve_config.patch.yaml of {folder}").check()
    return {
        folder / "serve_config.rendered.yaml": _object(
            "ray.io/v1", "RayService", {"serveConfigV2": _dump(config)}
        )
        for folder, config in configs.items()
    } | {
        k8s / "base/cluster.env": (PROJECT / "cluster.env").read_text(encoding="utf-8"),
        k8s / "components/monitoring/rules.rendered.yaml": _object(
            "monitoring.coreos.com/v1", "PrometheusRule", rules
        ),
    }


def _patch(folder: Path) -> Any:
    return _read(folder / "serve_config.patch.yaml")


def _has(overlay: Path, component: Path) -> bool:
    """Whether an overlay lists a component."""
    listed = _read(overlay / "kustomization.yaml").get("components") or []
    return component.name in {Path(each).name for each in listed}


def _read(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


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
