"""The spec, which training fixes: image size, heads and their classes, name and version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mlc_core.errors import ArtifactError

# The heads in the order of answers, each with its column in a data set. The network's branch for a
# head is the method MultiHeadNetwork.<head>_branch.
COLUMNS = {
    "color": "baseColour",
    "master_category": "masterCategory",
    "sub_category": "subCategory",
    "category": "articleType",
}
HEADS = tuple(COLUMNS)


@dataclass(frozen=True)
class ImageSize:
    """The size of the images that the network takes. Every image is exactly this large."""

    height_px: int
    width_px: int

    def __post_init__(self) -> None:
        if self.height_px < 1 or self.width_px < 1:
            raise ArtifactError(f"image size must be positive, not {self}")

    def __str__(self) -> str:
        return f"{self.width_px}×{self.height_px}"


# The size of the photos in Fashion Product Images (Small); training uses it by default.
DEFAULT_IMAGE_SIZE = ImageSize(height_px=80, width_px=60)


@dataclass(frozen=True)
class Spec:
    """A model's contract.

    Attributes:
        heads: head name -> its classes, in the order of the network's output.
    """

    name: str
    version: str
    image: ImageSize
    heads: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        if not self.heads:
            raise ArtifactError("a spec needs at least one head")
        for head, classes in self.heads.items():
            if head not in HEADS:
                raise ArtifactError(f"unknown head {head!r}; heads are {', '.join(HEADS)}")
            if len(set(classes)) != len(classes) or len(classes) < 2:
                raise ArtifactError(f"head {head!r} needs two or more classes, each named once")
        in_order = {head: tuple(self.heads[head]) for head in HEADS if head in self.heads}
        object.__setattr__(self, "heads", MappingProxyType(in_order))

    def __reduce__(self) -> tuple[Any, ...]:
        return Spec.from_json, (self.to_json(),)

    def to_json(self) -> str:
        """The contents of spec.json."""
        fields = {
            "name": self.name,
            "version": self.version,
            "image": {"height_px": self.image.height_px, "width_px": self.image.width_px},
            "heads": {head: list(classes) for head, classes in self.heads.items()},
        }
        return json.dumps(fields, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """Read the contents of spec.json.

        Raises:
            ArtifactError: not JSON, or a field is missing or of the wrong kind.
        """
        try:
            fields = json.loads(text)
            return cls(
                name=str(fields["name"]),
                version=str(fields["version"]),
                image=ImageSize(
                    int(fields["image"]["height_px"]), int(fields["image"]["width_px"])
                ),
                heads={str(h): tuple(map(str, c)) for h, c in fields["heads"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"spec.json is not a model spec: {error!r}") from error
