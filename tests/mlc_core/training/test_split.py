"""The split: everything once, the same for a seed, twins never apart."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from mlc_core.spec import ImageSize
from mlc_core.training.dataset import read_dataset
from mlc_core.training.split import (
    TWIN_BITS,
    picture_hashes,
    split_by_picture,
    twin_clusters,
    twin_pairs,
)
from samples.garments import CATEGORIES, COLORS, as_file, draw_garment

SIZE = ImageSize(height_px=80, width_px=60)
PARTS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def images():
    """60 garments, and each again as a re-encoded copy."""
    garments = [
        draw_garment(category, color, seed=seed)
        for category in CATEGORIES
        for color in ("Red", "Black", "Grey")
        for seed in range(4)
    ]
    copies = [Image.open(io.BytesIO(as_file(garment, quality=75))) for garment in garments]
    return np.stack([np.asarray(image) for image in [*garments, *copies]])


@pytest.fixture(scope="module")
def ids(images):
    return [str(1000 + number) for number in range(len(images))]


def parts_by_id(split, ids):
    return {ids[at]: part for part in PARTS for at in getattr(split, part)}


def test_every_photo_is_in_exactly_one_part(images, ids):
    split = split_by_picture(ids, images, seed=7)
    together = np.concatenate([split.train, split.validation, split.test])
    assert sorted(together) == list(range(len(images)))


def test_a_photo_and_its_copy_are_on_the_same_side(images, ids):
    for seed in range(5):
        part = parts_by_id(split_by_picture(ids, images, seed), ids)
        half = len(ids) // 2
        assert [part[i] for i in ids[:half]] == [part[i] for i in ids[half:]]


def test_the_same_seed_splits_the_same_way_in_any_order(images, ids):
    order = np.random.default_rng(0).permutation(len(ids))
    shuffled = [ids[at] for at in order]
    one = parts_by_id(split_by_picture(ids, images, 7), ids)
    assert one == parts_by_id(split_by_picture(shuffled, images[order], 7), shuffled)


def test_another_seed_splits_another_way(images, ids):
    one, other = (parts_by_id(split_by_picture(ids, images, seed), ids) for seed in (7, 8))
    assert one != other


def test_new_photos_leave_the_others_where_they_were(images, ids):
    new = np.asarray(draw_garment("Ties", "Yellow", seed=99))[None]
    before = parts_by_id(split_by_picture(ids, images, 7), ids)
    more = [*ids, "9999"]
    after = parts_by_id(split_by_picture(more, np.concatenate([images, new]), 7), more)
    assert before.items() <= after.items()


def test_pairs_are_all_that_a_plain_comparison_finds():
    hashes = np.random.default_rng(0).integers(0, 2**64, (1200, 4), np.uint64)
    hashes[900:] = hashes[:300] ^ np.uint64(0b1011)  # 3 bits in each of 4 words: 12 apart
    bits = np.unpackbits(hashes.view(np.uint8), axis=1).astype(int)
    distance = (bits[:, None] != bits[None]).sum(axis=2)
    expected = {(a, b) for a, b in np.argwhere(distance <= TWIN_BITS).tolist() if a < b}
    assert len(expected) == 300
    assert set(zip(*map(np.ndarray.tolist, twin_pairs(hashes)), strict=True)) == expected


def test_different_garments_are_no_twins():
    drawn = [draw_garment(category, color) for category in CATEGORIES for color in COLORS]
    clusters = twin_clusters(picture_hashes(np.stack([np.asarray(image) for image in drawn])))
    category_of = {}
    for cluster, category in zip(clusters, np.repeat(list(CATEGORIES), len(COLORS)), strict=True):
        assert category_of.setdefault(cluster, category) == category


@pytest.fixture(scope="module")
def real_part(real_data, tmp_path_factory):
    """Every tenth hundred of the real photos: neighbours in the table are often twins."""
    path = tmp_path_factory.mktemp("real")
    with zipfile.ZipFile(real_data) as archive:
        table = archive.read("styles.csv").decode().splitlines()
        rows = [row for at, row in enumerate(table[1:]) if at // 100 % 10 == 0]
        (path / "styles.csv").write_text("\n".join([table[0], *rows]), encoding="utf-8")
        archive.extractall(path, [f"images/{row.split(',')[0]}.jpg" for row in rows])
    return read_dataset(path, SIZE)


def test_no_real_photo_has_a_twin_across_the_splits(real_part):
    split = split_by_picture(real_part.ids.tolist(), real_part.images, seed=7)
    part = parts_by_id(split, real_part.ids.tolist())
    first, second = twin_pairs(picture_hashes(real_part.images))
    assert len(first) > 50
    for one, other in zip(real_part.ids[first], real_part.ids[second], strict=True):
        assert part[one] == part[other]


def test_real_photos_split_about_80_10_10(real_part):
    split = split_by_picture(real_part.ids.tolist(), real_part.images, seed=7)
    share = [len(getattr(split, part)) / len(real_part) for part in PARTS]
    np.testing.assert_allclose(share, [0.8, 0.1, 0.1], atol=0.025)


def test_twins_form_no_giant_cluster(real_part):
    clusters = twin_clusters(picture_hashes(real_part.images))
    assert np.bincount(clusters).max() < 0.01 * len(real_part)
