"""`make similar DATA=…`: a catalogue of a million products, searched and changed.

The vectors are those of real photos, perturbed: vectors drawn at random have no neighbours worth
finding. It prints the time of a search, without a filter and with filters that few products pass,
while products are written and while none are; the share of the exact search's hits that it finds;
and the memory and the time of a start.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
from numpy.typing import NDArray

from bench import say
from bench.servers import machine
from mlc_core.arguments import MODEL
from mlc_core.artifact import load_artifact
from mlc_core.catalog.catalog import Product
from mlc_core.catalog.filters import Value, parse_filter
from mlc_core.catalog.local import LocalCatalog
from mlc_core.catalog.store import Store
from mlc_core.engines.loading import load_engine
from mlc_core.errors import ArtifactError
from mlc_core.spec import EMBEDDING, Embedding
from mlc_core.training.dataset import read_dataset
from mlc_core.training.evaluation import infer_all

_NEAR = 0.25  # length of the perturbation of a vector of length 1
_K = 10
_SEARCHES, _CHECKED = 400, 100  # of these, so many are compared with the exact ones
_SHARES = (1.0, 0.3, 0.05, 0.01, 0.001, 0.0001)  # of the products that pass a filter
_WRITES_PER_S = 50
_BLOCK = 10_000

Vectors = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.similar_index", description=__doc__)
    parser.add_argument("data", type=Path, metavar="DATA", help="a labelled data set")
    parser.add_argument("--products", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--searches", type=int, default=_SEARCHES, metavar="N")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    real, embedding = _embeddings(options.data)
    vectors = _perturbed(real, options.products, rng)
    queries = _perturbed(real, options.searches, rng)
    prices = rng.random(len(vectors))
    with TemporaryDirectory() as folder:
        file = Path(folder) / "catalogue.db"
        began = time.perf_counter()
        _fill(file, embedding, vectors, prices)
        written_s = time.perf_counter() - began
        before = psutil.Process().memory_info().rss
        began = time.perf_counter()
        catalog = LocalCatalog(file, embedding)
        start_s = time.perf_counter() - began
        memory_bytes = psutil.Process().memory_info().rss - before
        say(
            f"{len(catalog):,} products of {vectors.shape[1]} dimensions: written in "
            f"{written_s:.0f} s, {file.stat().st_size / 2**20:.0f} MiB on disk; a start takes "
            f"{start_s:.1f} s and {memory_bytes / 2**20:.0f} MiB"
        )
        say("| pass the filter | p50 ms | p99 ms | recall@10 | while written: p50 ms | p99 ms |")
        say("|---|---|---|---|---|---|")
        searches = [_searches(catalog, vectors, prices, queries, share) for share in _SHARES]
        catalog.close()
    measured = {"products": len(vectors), "start_s": start_s, "memory_bytes": memory_bytes}
    say(json.dumps({"machine": machine()} | measured | {"searches": searches}))


def _embeddings(data: Path) -> tuple[Vectors, Embedding]:
    artifact = load_artifact(MODEL)
    if artifact.spec.embedding is None:
        raise ArtifactError(f"{artifact.path} has no embedding")
    engine = load_engine("onnxruntime", artifact, threads=0, precision="int8")
    images = read_dataset(data, artifact.spec.image).images
    return infer_all(engine.infer, images)[EMBEDDING], artifact.spec.embedding


def _perturbed(real: Vectors, count: int, rng: np.random.Generator) -> Vectors:
    vectors = real[rng.integers(0, len(real), count)]
    noise = rng.standard_normal(vectors.shape, dtype=np.float32)
    vectors = vectors + _NEAR * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def _fill(file: Path, embedding: Embedding, vectors: Vectors, prices: NDArray[np.float64]) -> None:
    store = Store(file, embedding)
    for start in range(0, len(vectors), _BLOCK):
        store.put(
            [_product(n, vectors, prices) for n in range(start, min(start + _BLOCK, len(vectors)))]
        )
    store.close()


def _product(number: int, vectors: Vectors, prices: NDArray[np.float64]) -> Product:
    labels = {"color": "Red", "category": "Tshirts"}
    attributes: dict[str, Value] = {
        "price": float(prices[number]),
        "in_stock": True,
        "brand": "Aster",
    }
    return Product(f"P{number}", vectors[number], labels, attributes)


def _searches(
    catalog: LocalCatalog,
    vectors: Vectors,
    prices: NDArray[np.float64],
    queries: Vectors,
    share: float,
) -> dict[str, float]:
    filters = [] if share == 1 else [parse_filter(f"price<{share}")]
    found: list[set[int]] = []

    def search(query: NDArray[np.float32]) -> None:
        found.append({int(hit.id[1:]) for hit in catalog.search(query, _K, filters)})

    quiet = _times_ms(search, queries)
    rows = np.flatnonzero(prices < share)
    passing = vectors[rows]
    exact = [rows[np.argsort(-(passing @ q))[:_K]].tolist() for q in queries[:_CHECKED]]
    hits = sum(len(seen.intersection(best)) for seen, best in zip(found, exact, strict=False))
    recall = hits / max(1, sum(map(len, exact)))
    with _writing(catalog, vectors, prices):
        busy = _times_ms(search, queries)
    times = [float(np.percentile(each, p)) for each in (quiet, busy) for p in (50, 99)]
    p50, p99, busy_p50, busy_p99 = times
    say(f"| {share:.2%} | {p50:.2f} | {p99:.2f} | {recall:.3f} | {busy_p50:.2f} | {busy_p99:.2f} |")
    return {
        "share": share, "p50_ms": p50, "p99_ms": p99, "recall": recall,
        "busy_p50_ms": busy_p50, "busy_p99_ms": busy_p99,
    }  # fmt: skip


def _times_ms(search: Callable[[NDArray[np.float32]], None], queries: Vectors) -> list[float]:
    times = []
    for query in queries:
        began = time.perf_counter()
        search(query)
        times.append(1000 * (time.perf_counter() - began))
    return times


@contextmanager
def _writing(
    catalog: LocalCatalog, vectors: Vectors, prices: NDArray[np.float64]
) -> Iterator[None]:
    """Replace products, one after the other, in another thread."""
    over = threading.Event()

    def write() -> None:
        number = 0
        while not over.wait(1 / _WRITES_PER_S):
            catalog.put([_product(number % len(vectors), vectors, prices)])
            number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


if __name__ == "__main__":
    main()
