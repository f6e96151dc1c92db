"""mosec: workers that decode one photo at a time, and one worker that infers in batches.

mosec itself reads --port and --address from the command line.
"""

from __future__ import annotations

import json
from typing import Any

from mosec import Server, Worker

from bench.peers.engine import Answer, ImageArray, load_decoder, load_model
from bench.peers.settings import PeerSettings


class Decode(Worker):  # type: ignore[misc]  # mosec is not installed here
    def __init__(self) -> None:
        super().__init__()
        self._decode = load_decoder(PeerSettings.from_environment())

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> ImageArray:
        return self._decode(data)


class Infer(Worker):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self._infer = load_model(PeerSettings.from_environment())

    def forward(self, data: list[ImageArray]) -> list[Answer]:
        return self._infer(data)

    def serialize(self, data: Any) -> bytes:
        return json.dumps(data).encode()  # mosec's own indents the JSON, which is slower


def main() -> None:
    server, route = Server(), "/v1/classify"
    decoders = PeerSettings.from_environment().decoders
    server.append_worker(Decode, num=decoders, route=route)
    server.append_worker(Infer, max_batch_size=32, max_wait_time=2, route=route)  # ms
    server.run()


if __name__ == "__main__":
    main()
