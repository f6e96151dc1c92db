"""Splits a data set by picture: a photo and its twins go to the same part.

Twins are two photos whose perceptual hashes (imagehash.phash of 16 × 16 = 256 bits) differ in at
most TWIN_BITS bits. Measured on Fashion Product Images (Small): a copy re-encoded as JPEG at
quality 75, or enlarged to 225×300 and scaled back, is 2 bits away in the median and 18 at most.
Among the 38,072 photos, a threshold of 20 bits finds copies and the same picture in another colour,
in clusters of at most 143. A 64 bit hash has no such threshold: at 4 bits, one cluster already
holds 7,061 photos.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

TWIN_BITS = 20
_HASH_SIDE = 16
_VALIDATION, _TEST = 0.1, 0.1
_BLOCK = 512  # rows compared at a time: arrays of up to 156 MB for 38,072 photos


@dataclass(frozen=True)
class Split:
    """Indices into the data set, ascending, each photo in exactly one part."""

    train: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]


def split_by_picture(ids: Sequence[str], images: NDArray[np.uint8], seed: int) -> Split:
    """Split about 80 / 10 / 10. The same photos and seed give the same split, in any order.

    Args:
        images: uint8, shape (N, height_px, width_px, 3).
    """
    clusters = twin_clusters(picture_hashes(images))
    names: dict[int, str] = {}
    for cluster, photo_id in zip(clusters.tolist(), map(str, ids), strict=True):
        names[cluster] = min(names.get(cluster, photo_id), photo_id)
    # The draw depends on a cluster's name, not its position. So new clusters move no other photo.
    drawn = {cluster: _uniform(f"{seed}:{name}") for cluster, name in names.items()}
    position = np.array([drawn[cluster] for cluster in clusters.tolist()])
    return Split(
        train=np.flatnonzero(position >= _TEST + _VALIDATION),
        validation=np.flatnonzero((position >= _TEST) & (position < _TEST + _VALIDATION)),
        test=np.flatnonzero(position < _TEST),
    )


def picture_hashes(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Perceptual hash of each image, shape (N, 4), 256 bits."""
    bits = [
        np.packbits(imagehash.phash(Image.fromarray(image), hash_size=_HASH_SIDE).hash.ravel())
        for image in images
    ]
    return np.stack(bits).view(np.uint64)


def twin_clusters(hashes: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Cluster number of each photo: twins, and twins of twins, share one."""
    first, second = twin_pairs(hashes)
    links = coo_array((np.ones(len(first), bool), (first, second)), shape=(len(hashes),) * 2)
    _, clusters = connected_components(links, directed=False)
    return np.asarray(clusters, dtype=np.intp)


def twin_pairs(hashes: NDArray[np.uint64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of every two photos at most TWIN_BITS apart, each pair once."""
    first, second = [], []
    for start in range(0, len(hashes), _BLOCK):
        block = hashes[start : start + _BLOCK]
        # A pair that is too far apart in the first half of the bits needs no second comparison.
        near, far = np.nonzero(_distance(block[:, None, :2], hashes[None, start:, :2]) <= TWIN_BITS)
        keep = near < far
        near, far = near[keep], far[keep]
        twins = _distance(block[near], hashes[start + far]) <= TWIN_BITS
        first.append(start + near[twins])
        second.append(start + far[twins])
    return np.concatenate(first), np.concatenate(second)


def are_twins(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether the pictures of two hashes are twins, pair by pair, (N,)."""
    return _distance(one, other) <= TWIN_BITS


def _distance(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> NDArray[np.uint16]:
    distance: NDArray[np.uint16] = np.bitwise_count(one[..., 0] ^ other[..., 0]).astype(np.uint16)
    for word in range(1, one.shape[-1]):
        distance += np.bitwise_count(one[..., word] ^ other[..., word])
    return distance


def _uniform(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7]) / 2**56
