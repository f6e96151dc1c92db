"""LitServe: one process for HTTP, and one worker that decodes and infers in batches.

This module does not postpone the evaluation of annotations. LitServe passes the annotation of
decode_request to FastAPI, which can't resolve it from its text.
"""

import argparse
from collections.abc import Sequence
from typing import Annotated, Any

import litserve
from fastapi import Depends, Request

from bench.peers.engine import Answer, ImageArray, load_decoder, load_model
from bench.peers.settings import PeerSettings


async def _body(request: Request) -> bytes:
    return await request.body()


class Classify(litserve.LitAPI):  # type: ignore[misc]  # LitServe is not installed here
    def setup(self, device: str) -> None:  # noqa: ARG002  (it is always the CPU)
        settings = PeerSettings.from_environment()
        self._decode, self._infer = load_decoder(settings), load_model(settings)

    # LitServe parses the body as JSON unless this annotation tells FastAPI what to pass.
    def decode_request(self, request: Annotated[bytes, Depends(_body)]) -> ImageArray:
        return self._decode(request)

    def batch(self, inputs: Sequence[ImageArray]) -> Sequence[ImageArray]:
        return inputs  # load_model's function stacks them

    def predict(self, x: Sequence[ImageArray]) -> list[Answer]:
        return self._infer(x)

    def unbatch(self, output: list[Answer]) -> list[Answer]:
        return output

    def encode_response(self, output: Any) -> Any:
        return output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    api = Classify(max_batch_size=32, batch_timeout=0.002, api_path="/v1/classify")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=port, num_api_servers=1, generate_client_file=False,
        log_level="warning",
    )  # fmt: skip


if __name__ == "__main__":
    main()
