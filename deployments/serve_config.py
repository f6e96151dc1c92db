"""Reads, checks, merges and edits Serve configs. It starts nothing and needs no cluster."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Self

import yaml

from deployments.settings import ClassifierConfig, Settings, parse
from mlc_core.artifact import load_artifact
from mlc_core.catalog.catalog import CatalogError
from mlc_core.catalog.opening import found
from mlc_core.errors import ArtifactError, KeysError, ProfileError
from mlc_core.keys import Key, read_keys

BUILDER = "deployments.app:build"
SIMILAR_PRODUCTS = "SimilarProducts"  # the deployment that only a catalogue brings


class ServeConfig:
    """The contents of a Serve config file with one application, ours in most cases.

    Attributes:
        fields: as `serve deploy` takes them.
        source: the name of the file, for error texts.
    """

    def __init__(self, fields: Mapping[str, Any], source: str = "the Serve config") -> None:
        self.fields: dict[str, Any] = deepcopy(dict(fields))
        self.source = source

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read a YAML file.

        Raises:
            ValueError: it is missing, is not YAML, or does not have exactly one application.
        """
        try:
            fields = yaml.safe_load(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(
                f"{file} can't be read: {error.strerror}; name a Serve config"
            ) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} is not YAML: {error}") from error
        applications = fields.get("applications") if isinstance(fields, dict) else None
        if not (
            isinstance(applications, list)
            and len(applications) == 1
            and isinstance(applications[0], dict)
            and "import_path" in applications[0]
        ):
            raise ValueError(
                f"{file} is not a Serve config: it needs `applications`, a list of one mapping "
                "with an `import_path`; serve_config.yaml is an example"
            )
        return cls(fields, str(file))

    @property
    def application(self) -> dict[str, Any]:
        (application,) = self.fields["applications"]
        return application  # type: ignore[no-any-return]

    @property
    def deployments(self) -> dict[str, dict[str, Any]]:
        """Name -> its entry, in the order of the file."""
        return {each["name"]: each for each in self.application.get("deployments") or []}

    @property
    def settings(self) -> Settings:
        """The application's `args`.

        Raises:
            ValueError: names every wrong key, its value and what was expected.
        """
        return parse(Settings, self.application.get("args") or {}, self.source)

    def classifiers(self) -> Iterator[dict[str, Any]]:
        """The entries of the classifier deployments, in the order of `classifiers`."""
        for name in self.settings.classifiers:
            if name not in self.deployments:
                raise ValueError(
                    f"{self.source}: `classifiers` names {name}, which is not among `deployments`: "
                    f"{', '.join(self.deployments)}"
                )
            yield self.deployments[name]

    def check(self, *, models: bool = False) -> None:
        """Check `args` and every `user_config`, before anything is started.

        It accepts any config whose `import_path` is not BUILDER.

        Args:
            models: verify artifacts, profiles, file of keys and catalogue too. They must be on
                this machine.

        Raises:
            ValueError: names every wrong setting, its value and what was expected; the deployment
                that would never scale up; the artifact, profile or file of keys that can't be used,
                and why; or the client whose key has a profile that there is not.
        """
        if self.application["import_path"] != BUILDER:
            return
        keys: list[Key] = []
        if models and (file := self.settings.keys_path):
            try:
                keys = read_keys(file)
            except KeysError as error:
                raise ValueError(f"{self.source}: keys_file: {error}") from error
        self._check_catalog(models=models)
        for name, deployment in self.deployments.items():
            _check_scaling(deployment, f"{self.source}: {name}")
        for classifier in self.classifiers():
            source = f"{self.source}: user_config of {classifier['name']}"
            config = parse(ClassifierConfig, classifier.get("user_config"), source)
            if models:
                try:
                    _check_model(config, keys)
                except (ArtifactError, ProfileError) as error:
                    raise ValueError(f"{source}: {error}") from error

    def _check_catalog(self, *, models: bool) -> None:
        place = self.settings.catalog_place
        if SIMILAR_PRODUCTS in self.deployments and place is None:
            raise ValueError(
                f"{self.source}: {SIMILAR_PRODUCTS} is among `deployments`, but `args` have no "
                "`catalog` for it"
            )
        if models and place is not None:
            try:
                found(place)
            except CatalogError as error:
                raise ValueError(f"{self.source}: catalog: {error}") from error

    def merge(self, difference: Mapping[str, Any]) -> ServeConfig:
        """A config with a difference applied; see `merge`."""
        return ServeConfig(merge(self.fields, difference), self.source)

    def with_user_config(self, **values: Any) -> ServeConfig:
        """A config in which every classifier has these values in its `user_config`."""
        config = ServeConfig(self.fields, self.source)
        for classifier in config.classifiers():
            classifier["user_config"] = {**(classifier.get("user_config") or {}), **values}
        return config

    def listening(self, host: str, port: int) -> ServeConfig:
        """A config that listens on a host and a port."""
        return self.merge({"http_options": {"host": host, "port": port}})

    def to_yaml(self) -> str:
        """The text of a file."""
        return yaml.safe_dump(self.fields, sort_keys=False, allow_unicode=True, width=100)

    def write(self, file: Path) -> Path:
        """Write a file, and return its path."""
        file.write_text(self.to_yaml(), encoding="utf-8")
        return file


def _check_scaling(deployment: Mapping[str, Any], source: str) -> None:
    if deployment["name"] == SIMILAR_PRODUCTS:
        return  # it gets its calls by Serve's handle
    scaling = deployment.get("autoscaling_config")
    if (scaling or deployment.get("num_replicas") == "auto") and not (scaling or {}).get("policy"):
        policy = {"Ingress": "requests_per_replica", "Preprocessor": "groups_per_replica"}.get(
            deployment["name"], "photos_per_replica"
        )
        raise ValueError(
            f"{source} would never scale up, since Serve does not see what it holds; add "
            f"`policy: {{policy_function: 'deployments.pipeline.autoscaling:{policy}'}}` to its "
            "autoscaling_config"
        )


def _check_model(config: ClassifierConfig, keys: Sequence[Key]) -> None:
    artifact = load_artifact(config.model_path)
    if config.precision == "int8" and not artifact.int8_path.exists():
        raise ArtifactError(
            f"{artifact.path} has no int8 network; serve it with `precision: float32`, "
            "or add one with `mlc quantize`"
        )
    if missing := [head for head in config.heads or () if head not in artifact.spec.heads]:
        raise ArtifactError(
            f"{artifact.path} lacks {', '.join(missing)}; to drop a head, "
            "list those that stay as `heads`"
        )
    names = [each.name for each in config.read_profiles(artifact.spec)]
    for key in keys:
        if key.profile and key.profile not in names:
            raise ProfileError(
                f"the key {key.name} has the profile {key.profile!r}, and `profiles` has "
                f"{', '.join(names) or 'none'}; add its file there, or revoke the key and add "
                "another one"
            )


def main() -> int:
    """Check a config from the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m deployments.serve_config",
        description="Checks the keys of a Serve config, and the models that it names.",
    )
    parser.add_argument("file", type=Path)
    file = parser.parse_args().file
    try:
        ServeConfig.read(file).check(models=True)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{file} is right\n")
    return 0


def merge(value: Any, difference: Any) -> Any:
    """A value with a difference applied: mappings by key, lists of named mappings by name.

    Raises:
        ValueError: the difference names an item that the list lacks.
    """
    if isinstance(value, dict) and isinstance(difference, dict):
        return value | {key: merge(value.get(key), part) for key, part in difference.items()}
    both_lists = isinstance(value, list) and isinstance(difference, list)
    if both_lists and all(_is_named(item) for item in (*value, *difference)):
        parts = {part["name"]: part for part in difference}
        if unknown := parts.keys() - {item["name"] for item in value}:
            raise ValueError(f"no such name: {', '.join(sorted(unknown))}")
        return [merge(item, parts.get(item["name"], {})) for item in value]
    return difference


def _is_named(item: Any) -> bool:
    return isinstance(item, dict) and "name" in item


if __name__ == "__main__":
    sys.exit(main())
