"""Who may ask: API keys and the rate of each, decided by a request's headers alone.

Each ingress replica gives a client an equal share of its rate: the rate divided by the number of
ingress replicas. HAProxy spreads requests evenly, so the shares together are the rate. The replicas
exchange nothing.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from starlette.types import Scope

from deployments.errors import KeyRefused, RateExceeded, RequestError, WriteRefused
from mlc_core.errors import KeysError
from mlc_core.keys import Key, hash_of, read_keys

logger = logging.getLogger("ray.serve")

CLIENT = "mlc.client"  # in the ASGI scope of a request with a valid key
# A client that sent less may send a second of its rate at once: in any 10 s it gets at most 11 s of
# its rate. A share below 2 photos/s may send 2 at once, or uneven arrivals would cost it too much.
_BURST_S, _BURST_PHOTOS = 1.0, 2.0
_READ_EVERY_S, _COUNT_EVERY_S = 1.0, 5.0
_PREFIX = 8  # bytes of a hash by which its key is found


class Client:
    """A key and the photos that its client may still send to this replica.

    A token bucket: it fills at the client's share of its rate, and each photo takes one token. The
    photos of a batch request are known only when it was read. They may take more tokens than there
    are, and the client waits until the bucket has filled again.
    """

    __slots__ = (
        "_at", "_most", "_share_per_s", "_tokens", "expires_at", "name", "profile", "sha256",
        "writes",
    )  # fmt: skip

    def __init__(self, key: Key, ingresses: int) -> None:
        self._at, self._tokens, self._share_per_s, self._most = time.monotonic(), 0.0, 0.0, 0.0
        self.update(key, ingresses)
        self._tokens = self._most

    def update(self, key: Key, ingresses: int) -> None:
        """Take over what the file says, and the number of ingress replicas."""
        self._fill()  # at the share until now
        self.name, self.sha256, self.expires_at = key.name, key.sha256, key.expires.timestamp()
        self.writes, self.profile = key.writes, key.profile
        self._share_per_s = key.photos_per_s / ingresses
        self._most = max(_BURST_PHOTOS, self._share_per_s * _BURST_S)
        self._fill()

    def wait_s(self) -> float:
        """Seconds until the client may send a photo; 0 if it may now."""
        self._fill()
        return max(0.0, (1 - self._tokens) / self._share_per_s)

    def take(self, photos: int) -> None:
        """Take the tokens of photos that the client has sent."""
        self._tokens -= photos

    def _fill(self) -> None:
        now = time.monotonic()
        self._tokens = min(self._most, self._tokens + (now - self._at) * self._share_per_s)
        self._at = now


class Access:
    """The clients of a file of keys. The file is read again when it changes.

    Args:
        count_ingresses: the number of ingress replicas that run.

    Raises:
        KeysError: the file can't be read or is wrong.
    """

    def __init__(self, file: Path, count_ingresses: Callable[[], Awaitable[int]]) -> None:
        self._file, self._count_ingresses = file, count_ingresses
        self._ingresses = 1
        self._seen = _version(file)
        self._keys = read_keys(file)
        self._clients: dict[bytes, Client] = {}
        self._update()

    def refusal(self, scope: Scope, *, photos: bool, writes: bool = False) -> RequestError | None:
        """Why a request may not be answered; None if it may.

        It notes the client in the scope, also if it refuses it for its rate.

        Args:
            photos: whether the request sends photos, or changes, which the client's rate limits.
            writes: whether it changes the catalogue or gives feedback, which not every key may.
        """
        try:
            client = scope[CLIENT] = self._client(scope["headers"])
        except KeyRefused as refused:
            return refused
        if writes and not client.writes:
            return WriteRefused("this key may not write; ask the operator for one that may")
        if photos and (wait_s := client.wait_s()):
            return RateExceeded(wait_s)
        return None

    async def watch(self) -> None:
        """Follow the file and the number of replicas, until cancelled."""
        next_count_at = 0.0
        while True:
            try:
                await self.read_if_changed()
                if time.monotonic() >= next_count_at:
                    next_count_at = time.monotonic() + _COUNT_EVERY_S
                    await self.count()
            except Exception:  # the keys and the number from before stay in force
                logger.exception("keys and rates can't be brought up to date")
            await asyncio.sleep(_READ_EVERY_S)

    async def count(self) -> None:
        """Take over the number of ingress replicas. Serve does not list one that still starts."""
        self._ingresses = max(1, await self._count_ingresses())
        self._update()

    async def read_if_changed(self) -> None:
        """Read the file if it is another one. If it is wrong, the last keys stay in force."""
        version = await asyncio.to_thread(_version, self._file)
        if version == self._seen:
            return
        self._seen = version
        try:
            self._keys = await asyncio.to_thread(read_keys, self._file)
        except KeysError as error:
            logger.error("the keys from before stay in force: %s", error)
            return
        self._update()
        logger.info("read %d keys from %s", len(self._keys), self._file)

    def _update(self) -> None:
        """Apply keys and number of replicas. A client that stays keeps its bucket."""
        before = {client.name: client for client in self._clients.values()}
        clients = {}
        for key in self._keys:
            client = before.get(key.name)
            if client is None:
                client = Client(key, self._ingresses)
            else:
                client.update(key, self._ingresses)
            clients[key.sha256[:_PREFIX]] = client
        self._clients = clients

    def _client(self, headers: Iterable[tuple[bytes, bytes]]) -> Client:
        given = [value for name, value in headers if name == b"authorization"]
        if not given:
            raise KeyRefused("send a key, in the header Authorization: Bearer <key>")
        scheme, _, key = given[0].partition(b" ")
        if len(given) > 1 or scheme.lower() != b"bearer":
            raise KeyRefused("send one key, in the header Authorization: Bearer <key>")
        sha256 = hash_of(key.strip())
        client = self._clients.get(sha256[:_PREFIX])
        # The time that this takes depends on hashes alone, and a client can't choose its key's.
        if client is None or not hmac.compare_digest(client.sha256, sha256):
            raise KeyRefused("the service does not know this key; it may have been revoked")
        if time.time() >= client.expires_at:
            raise KeyRefused("this key has expired; ask the operator for a new one")
        return client


def profile_of(scope: Scope) -> str:
    """The profile of a request's key, "" if it has none."""
    client: Client | None = scope.get(CLIENT)
    return "" if client is None else client.profile


def take_rest(scope: Scope, photos: int) -> Client | None:
    """Take the tokens of a batch request that was read; one was taken when it came.

    Returns:
        The client that sent it.
    """
    client: Client | None = scope.get(CLIENT)
    if client is not None:
        client.take(photos - 1)
    return client


def _version(file: Path) -> tuple[int, int, int] | None:
    """Differs when the file has changed; None if it is not there."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
