"""The model in service as the ingress knows it, without a call to a classifier for each request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from deployments.errors import DeadlinePassed
from mlc_core.spec import EMBEDDING

_LATE = "the classifier did not say within the deadline which model it serves; try again"


class _Embedding(msgspec.Struct, frozen=True):
    dimensions: int


class ServedModel(msgspec.Struct, frozen=True):
    """What GET /v1/model answers, as far as requests for tensors need it.

    Attributes:
        heads: head -> its classes, in the order of its probabilities.
    """

    name: str
    heads: dict[str, list[str]]
    version: str = ""
    engine: str = ""
    embedding: _Embedding | None = None

    @property
    def outputs(self) -> dict[str, int]:
        """Each output that a client may ask for -> its columns."""
        columns = {head: len(classes) for head, classes in self.heads.items()}
        return columns | ({EMBEDDING: self.embedding.dimensions} if self.embedding else {})


class ServedModels:
    """Asks which model is in service, and remembers the answer.

    Args:
        describe: describes it, as /v1/model answers it.
        deadline_s: seconds that this may take.
    """

    def __init__(
        self, describe: Callable[[], Awaitable[Mapping[str, Any]]], deadline_s: float
    ) -> None:
        self._describe, self._deadline_s = describe, deadline_s
        self._known: ServedModel | None = None

    async def now(self) -> ServedModel:
        """The model in service.

        Raises:
            ServiceError: no classifier says it.
        """
        try:
            async with asyncio.timeout(self._deadline_s):
                description = await self._describe()
        except TimeoutError as error:
            raise DeadlinePassed(_LATE) from error
        self._known = msgspec.convert(description, ServedModel)
        return self._known

    async def known(self, name: str, version: str) -> ServedModel:
        """The model as it was last, if it has that name and version; else the one in service.

        Args:
            version: "" for any.

        Raises:
            ServiceError: no classifier says it.
        """
        known = self._known
        if known and known.name == name and version in ("", known.version):
            return known
        return await self.now()
