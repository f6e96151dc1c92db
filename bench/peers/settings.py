"""The settings that the command passes to the processes of a peer.

They travel in environment variables, because mosec and LitServe start their own worker processes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_MODEL, _PRECISION = "PEER_MODEL", "PEER_PRECISION"
_DECODER, _DECODERS = "PEER_DECODER", "PEER_DECODERS"


@dataclass(frozen=True)
class PeerSettings:
    """One peer's settings.

    Attributes:
        model: directory of an artifact.
        precision: int8 or float32.
        decoder: pillow or simplejpeg.
        decoders: mosec's decoding workers.
    """

    model: Path
    precision: str
    decoder: str
    decoders: int

    @classmethod
    def from_environment(cls) -> Self:
        return cls(
            model=Path(os.environ[_MODEL]),
            precision=os.environ[_PRECISION],
            decoder=os.environ[_DECODER],
            decoders=int(os.environ[_DECODERS]),
        )

    def to_environment(self) -> dict[str, str]:
        return {
            _MODEL: str(self.model),
            _PRECISION: self.precision,
            _DECODER: self.decoder,
            _DECODERS: str(self.decoders),
        }
