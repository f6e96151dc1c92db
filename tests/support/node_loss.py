"""Three of Ray's nodes, each with its own network and processes; two of them are lost under load.

tests/e2e/test_node_loss.py runs it in namespaces of its own. It prints its findings as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from photos import jpeg
from pods import HEAD, Pod, deploy, network, placed, start_head, status, wait_for

STAYS, SECOND, THIRD, NEXT = (f"10.9.0.{n}" for n in (3, 4, 5, 6))
CLIENTS, _RATE = 8, 20.0
_FULL_WITHIN_S = 300.0


class Clients:
    """Send photos at a steady rate to the node that stays."""

    def __init__(self) -> None:
        self.requests: list[tuple[float, float, int]] = []  # sent, ended, status
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        photo, url = jpeg(), f"http://{STAYS}:8000/v1/classify"
        while not self._over.wait(CLIENTS / _RATE):
            sent = time.monotonic()
            answered = status(url, photo)
            self.requests.append((sent, time.monotonic(), answered))

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def since(self, lost_at: float) -> dict[str, Any]:
        """What became of those that ended after a node was lost."""
        ended = [each for each in self.requests if each[1] >= lost_at]
        failed = Counter(str(answered) for _, _, answered in ended if answered != 200)
        return {
            "requests": len(ended),
            "held": sum(sent < lost_at for sent, _, _ in ended),
            "failed": failed,
            "longest_s": max(end - sent for sent, end, _ in ended),
        }


def main() -> None:
    asked: dict[str, Any] = json.load(sys.stdin)
    folder, env = network(asked)
    start_head(folder, env)
    options = (f"--address={HEAD}:6379", "--num-cpus=4")
    pods = {address: Pod(address, folder, env, *options) for address in (STAYS, SECOND, THIRD)}
    deploy(folder, env, asked["config"])

    def is_full(*, without: str = "") -> bool:
        """Two replicas of each run, on nodes that are there."""
        return (
            all(
                sum(state == "RUNNING" and address != without for state, address in replicas) == 2
                for replicas in placed().values()
            )
            and status(f"http://{STAYS}:8000/readyz") == 200
        )

    wait_for(is_full, _FULL_WITHIN_S)
    found = {}
    losses: dict[str, Callable[[Pod], None]] = {"link": Pod.cut_off, "processes": Pod.kill}
    for name, lose in losses.items():
        # The worst case: a node with an ingress, which holds requests.
        address = next(at for _, at in placed()["Ingress"] if at != STAYS)
        clients = Clients()
        wait_for(lambda: len(clients.requests) > 40, 60)  # noqa: B023
        lost_at = time.monotonic()
        before = placed()
        lose(pods.pop(address))
        wait_for(lambda: is_full(without=address), _FULL_WITHIN_S)  # noqa: B023
        full_s = time.monotonic() - lost_at
        time.sleep(5)
        clients.stop()
        then = {"full_s": full_s, "lost": address, "placed": before, "placed_then": placed()}
        found[name] = clients.since(lost_at) | then
        if name == "link":  # another node comes in its place
            pods[NEXT] = Pod(NEXT, folder, env, *options)
            wait_for(lambda: is_full(without=address), _FULL_WITHIN_S)  # noqa: B023
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
