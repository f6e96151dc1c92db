"""The serving plane on a clock of its own: the latencies that a composition would have.

Batches are formed by deployments.batching, the code that serves; what a stage takes is what was
measured, and only time is made up: a minute of load takes seconds. It knows nothing of Ray.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.load import poisson
from deployments.batching import Batcher, Bounds
from deployments.errors import Overloaded


@dataclass(frozen=True)
class Cost:
    """Seconds that a process is busy with a group or batch: `each_s`, and `photo_s` a photo."""

    each_s: float
    photo_s: float

    def of(self, photos: float) -> float:
        return self.each_s + photos * self.photo_s


@dataclass(frozen=True)
class Costs:
    """What was measured of each stage.

    Attributes:
        client: of the load's generator, where it shares the cores of the service.
        front: HAProxy.
        engine: of a batch that is in progress; not what the classifier's event loop does.
        engine_takes_core: whether it computes on this machine, rather than on a GPU or not at all.
        hop_s: of a call's way from one process to the next, which no process is busy with.
    """

    client: Cost
    front: Cost
    ingress: Cost
    preprocessor: Cost
    classifier: Cost
    engine: Cost
    engine_takes_core: bool
    hop_s: float


@dataclass(frozen=True)
class Composition:
    """What serves behind one ingress, and how it groups and each classifier batches.

    Attributes:
        cores: that all processes share, the client's too; None where each has its own, as pods do.
    """

    group: Bounds
    batch: Bounds
    preprocessors: int = 1
    classifiers: int = 1
    cores: int | None = None


class _Process:
    """Does one thing at a time, first come, first served; each on a core."""

    def __init__(self, cores: asyncio.Semaphore | None) -> None:
        self._turn, self._cores = asyncio.Lock(), cores
        self.busy_s = 0.0

    async def work(self, seconds: float) -> None:
        self.busy_s += seconds
        async with self._turn:
            if self._cores is None:
                await asyncio.sleep(seconds)
            else:
                async with self._cores:
                    await asyncio.sleep(seconds)


class _Replica(Protocol):
    ongoing: int  # calls

    async def classify(self, photos: int) -> None: ...


class _Classifier:
    def __init__(self, plane: _Plane) -> None:
        self.ongoing = 0
        self._costs = plane.costs
        self._loop = plane.process()
        self._engine = plane.process() if plane.costs.engine_takes_core else _Process(None)
        self._batcher: Batcher[None, None] = Batcher(
            self._infer, plane.composition.batch, clock=asyncio.get_running_loop().time
        )

    async def classify(self, photos: int) -> None:
        await self._loop.work(self._costs.classifier.of(photos))
        await asyncio.gather(*(self._batcher.submit(None) for _ in range(photos)))

    async def _infer(self, images: list[None]) -> list[None]:
        await self._engine.work(self._costs.engine.of(len(images)))
        return images


class _Preprocessor:
    def __init__(self, plane: _Plane) -> None:
        self.ongoing = 0
        self._plane = plane
        self._process = plane.process()

    async def classify(self, photos: int) -> None:
        plane = self._plane
        await self._process.work(plane.costs.preprocessor.of(photos))
        await plane.call(plane.classifiers, photos)


class _Ingress:
    def __init__(self, plane: _Plane) -> None:
        self._plane = plane
        self._process = plane.process()
        self._batcher: Batcher[None, None] = Batcher(
            self._send, plane.composition.group, clock=asyncio.get_running_loop().time
        )

    async def classify(self) -> None:
        await self._process.work(self._plane.costs.ingress.photo_s)
        await self._batcher.submit(None)

    async def _send(self, photos: list[None]) -> list[None]:
        plane = self._plane
        await self._process.work(plane.costs.ingress.each_s)
        await plane.call(plane.preprocessors, len(photos))
        return photos


class _Plane:
    def __init__(self, costs: Costs, composition: Composition, chance: random.Random) -> None:
        self.costs, self.composition, self._chance = costs, composition, chance
        self._cores = asyncio.Semaphore(composition.cores) if composition.cores else None
        self._processes: list[_Process] = []
        self.classifiers = [_Classifier(self) for _ in range(composition.classifiers)]
        self.preprocessors = [_Preprocessor(self) for _ in range(composition.preprocessors)]
        self._ingress = _Ingress(self)
        self._client, self._front = _Process(self._cores), self.process()

    def process(self) -> _Process:
        """One more that serves on a core."""
        self._processes.append(_Process(self._cores))
        return self._processes[-1]

    @property
    def busy_s(self) -> float:
        """Core-seconds of all processes that serve."""
        return sum(process.busy_s for process in self._processes)

    async def call(self, replicas: Sequence[_Replica], photos: int) -> None:
        """One call a group, to where the fewest are, as deployments.routing does it."""
        replica = min(replicas, key=lambda each: (each.ongoing, self._chance.random()))
        replica.ongoing += 1
        await asyncio.sleep(self.costs.hop_s)
        try:
            await replica.classify(photos)
        finally:
            replica.ongoing -= 1

    async def request(self, at: float) -> float:
        """Latency of a photo that comes at a time, in seconds."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(at - loop.time())
        await self._client.work(self.costs.client.photo_s)
        await self._front.work(self.costs.front.photo_s)
        try:
            await self._ingress.classify()
        except Overloaded:
            return float("inf")
        return loop.time() - at


@dataclass(frozen=True)
class Simulated:
    """What came of it.

    Attributes:
        latencies_s: from the arrival of each photo to its answer, in order of arrival; infinite
            for one that is refused, since too many wait.
        core_s: core-seconds a photo, of all that serves.
    """

    latencies_s: list[float]
    core_s: float


def simulate(
    costs: Costs, composition: Composition, rate: float, seconds: float, seed: int = 0
) -> Simulated:
    """Poisson arrivals of so many photos a second."""

    async def run() -> Simulated:
        chance = random.Random(seed)  # noqa: S311
        plane = _Plane(costs, composition, chance)
        times = poisson(rate, seconds, chance)
        latencies_s = await asyncio.gather(*(plane.request(at) for at in times))
        return Simulated(latencies_s, plane.busy_s / max(1, len(times)))

    with asyncio.Runner(loop_factory=_VirtualTime) as runner:
        return runner.run(run())


class _Timers(selectors.SelectSelector):
    """Waits for no file: when nothing is ready, the clock goes on to the next timer."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("the simulation waits for something that never comes")
        self.now += timeout
        return []


class _VirtualTime(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._timers = _Timers()
        super().__init__(self._timers)

    def time(self) -> float:
        return self._timers.now
