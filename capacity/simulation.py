"""Simulates the pipeline on a virtual clock: the latencies that a composition would have.

The batcher of the service forms the batches, and each stage takes the time that was measured. Only
the clock is virtual: a minute of load takes seconds. It does not use Ray.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from deployments.errors import Overloaded
from deployments.pipeline.batcher import Batcher, BatchLimits
from loadtest.levels import arrivals, steady


@dataclass(frozen=True)
class Cost:
    """Seconds that a process is busy with a group or batch: `each_s`, and `photo_s` per photo."""

    each_s: float
    photo_s: float

    def of(self, photos: float) -> float:
        return self.each_s + photos * self.photo_s


@dataclass(frozen=True)
class Costs:
    """The measured costs of each stage.

    Attributes:
        client: cost of the load generator, which shares the cores of the service.
        front: cost of HAProxy.
        engine: cost of a running batch, without the work of the classifier's event loop.
        engine_takes_core: whether the engine computes on this machine's cores.
        hop_s: seconds of a call between two processes in which neither process is busy.
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
    """The replicas behind one ingress, and the limits of groups and batches.

    Attributes:
        cores: cores that all processes share, including the client; None if each process has its
            own, as pods do.
    """

    group: BatchLimits
    batch: BatchLimits
    preprocessors: int = 1
    classifiers: int = 1
    cores: int | None = None


class _Process:
    """Does one thing at a time, first come, first served, on one core."""

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

    async def handle(self, photos: int) -> None: ...


class _Classifier:
    def __init__(self, pipeline: _Pipeline) -> None:
        self.ongoing = 0
        self._costs = pipeline.costs
        self._loop = pipeline.process()
        self._engine = pipeline.process() if pipeline.costs.engine_takes_core else _Process(None)
        self._batcher: Batcher[None, None] = Batcher(
            self._infer, pipeline.composition.batch, clock=asyncio.get_running_loop().time
        )

    async def handle(self, photos: int) -> None:
        await self._loop.work(self._costs.classifier.of(photos))
        await asyncio.gather(*(self._batcher.submit(None) for _ in range(photos)))

    async def _infer(self, images: list[None]) -> list[None]:
        await self._engine.work(self._costs.engine.of(len(images)))
        return images


class _Preprocessor:
    def __init__(self, pipeline: _Pipeline) -> None:
        self.ongoing = 0
        self._pipeline = pipeline
        self._process = pipeline.process()

    async def handle(self, photos: int) -> None:
        pipeline = self._pipeline
        await self._process.work(pipeline.costs.preprocessor.of(photos))
        await pipeline.call(pipeline.classifiers, photos)


class _Ingress:
    def __init__(self, pipeline: _Pipeline) -> None:
        self._pipeline = pipeline
        self._process = pipeline.process()
        self._batcher: Batcher[None, None] = Batcher(
            self._send, pipeline.composition.group, clock=asyncio.get_running_loop().time
        )

    async def handle(self) -> None:
        await self._process.work(self._pipeline.costs.ingress.photo_s)
        await self._batcher.submit(None)

    async def _send(self, photos: list[None]) -> list[None]:
        pipeline = self._pipeline
        await self._process.work(pipeline.costs.ingress.each_s)
        await pipeline.call(pipeline.preprocessors, len(photos))
        return photos


class _Pipeline:
    def __init__(self, costs: Costs, composition: Composition, chance: np.random.Generator) -> None:
        self.costs, self.composition, self._chance = costs, composition, chance
        self._cores = asyncio.Semaphore(composition.cores) if composition.cores else None
        self._processes: list[_Process] = []
        self.classifiers = [_Classifier(self) for _ in range(composition.classifiers)]
        self.preprocessors = [_Preprocessor(self) for _ in range(composition.preprocessors)]
        self._ingress = _Ingress(self)
        self._client, self._front = _Process(self._cores), self.process()

    def process(self) -> _Process:
        """Add one process that serves."""
        self._processes.append(_Process(self._cores))
        return self._processes[-1]

    @property
    def busy_s(self) -> float:
        """Core-seconds of all processes that serve."""
        return sum(process.busy_s for process in self._processes)

    async def call(self, replicas: Sequence[_Replica], photos: int) -> None:
        """Call the replica with the fewest calls in flight, for one group; see pipeline.routing."""
        replica = min(replicas, key=lambda each: (each.ongoing, self._chance.random()))
        replica.ongoing += 1
        await asyncio.sleep(self.costs.hop_s)
        try:
            await replica.handle(photos)
        finally:
            replica.ongoing -= 1

    async def request(self, at: float) -> float:
        """The latency, in seconds, of a photo that arrives at a time."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(at - loop.time())
        await self._client.work(self.costs.client.photo_s)
        await self._front.work(self.costs.front.photo_s)
        try:
            await self._ingress.handle()
        except Overloaded:
            return float("inf")
        return loop.time() - at


@dataclass(frozen=True)
class Simulated:
    """The result of a simulation.

    Attributes:
        latencies_s: seconds from the arrival of each photo to its answer, in order of arrival;
            infinite for a photo that is refused.
        core_s: core-seconds per photo, of all processes that serve.
    """

    latencies_s: list[float]
    core_s: float


def simulate(
    costs: Costs, composition: Composition, rate: float, seconds: float, seed: int = 0
) -> Simulated:
    """Simulate Poisson arrivals of `rate` photos/s."""

    async def run() -> Simulated:
        chance = np.random.default_rng(seed)
        pipeline = _Pipeline(costs, composition, chance)
        times = list(arrivals(steady, rate, seconds, chance))
        latencies_s = await asyncio.gather(*(pipeline.request(at) for at in times))
        return Simulated(latencies_s, pipeline.busy_s / max(1, len(times)))

    with asyncio.Runner(loop_factory=_VirtualTime) as runner:
        return runner.run(run())


class _Timers(selectors.SelectSelector):
    """Waits for no file. When nothing is ready, it moves the clock to the next timer."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("the simulation waits for an event that never comes")
        self.now += timeout
        return []


class _VirtualTime(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._timers = _Timers()
        super().__init__(self._timers)

    def time(self) -> float:
        return self._timers.now
