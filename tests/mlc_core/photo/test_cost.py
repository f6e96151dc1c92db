"""What takes too long is refused before it is begun; what a camera writes is not."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from photos import blank_png, garment, many_scans, png, segment, tiff, with_segment

from deployments.settings import PROJECT
from mlc_core.errors import PhotoTooCostly, PhotoTooLarge
from mlc_core.photo import MAX_DECODE_S, cost, decode, decode_s, decoding, jpeg
from mlc_core.spec import ImageSize
from samples.garments import as_file

SIZE = ImageSize(height_px=80, width_px=60)


@pytest.fixture
def undecoded(monkeypatch):
    for name in ("_decode_with_simplejpeg", "_decode_jpeg_with_pillow", "_fitted"):
        monkeypatch.setattr(decoding, name, lambda *_: pytest.fail("it was decoded"))


@pytest.mark.parametrize(("scans", "side_px"), [(850, 7000), (11, 7000), (400, 1500), (900, 300)])
@pytest.mark.parametrize("padded", ["", "before", "behind"])
def test_empty_scans_are_refused_undecoded(scans, side_px, padded, undecoded):
    photo = many_scans(scans, side_px)
    if padded == "before":  # bytes that are no picture buy no time
        photo = photo[:2] + segment(0xEF, bytes(65_000)) * 20 + photo[2:]
    elif padded == "behind":
        photo += bytes(1_000_000)
    with pytest.raises(PhotoTooCostly, match=r"has \d+ scans.*save it as a baseline JPEG"):
        decode(photo, SIZE)


def test_one_empty_scan_of_many_pixels_is_refused_too(undecoded):
    with pytest.raises(PhotoTooCostly, match="has 1 scans"):
        decode(many_scans(1, 7000), SIZE)


def test_segments_without_end_are_refused(undecoded):
    photo = as_file(garment())
    with pytest.raises(PhotoTooCostly, match="segments or scans"):
        decode(photo[:2] + segment(0xFE, b"") * 5000 + photo[2:], SIZE)


def progressive(size_px: tuple[int, int], **options) -> bytes:
    photo = io.BytesIO()
    garment(15, (60, 80)).resize(size_px).save(photo, "JPEG", progressive=True, **options)
    return photo.getvalue()


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_scans_are_weighed_by_their_samples(subsampling):
    header = jpeg.read(progressive((160, 320), quality=90, subsampling=subsampling))
    assert header.scans == 10
    # DC twice with all components; then luma four times and each chroma twice, half of it refined.
    chroma = 0.25 if subsampling == "4:2:0" else 1
    fast, slow = 2 * (1 + 2 * chroma) + 2 + 2 * chroma, 2 + 2 * chroma
    assert header.visited == pytest.approx(
        160 * 320 * (slow + 0.35 * fast + 0.6 * (1 + 2 * chroma))
    )


def test_a_progressive_photo_at_the_limit_of_pixels_is_taken():
    blank = jpeg.read(progressive((640, 640), quality=90))  # flat, which is the fewest bytes
    times = 50_000_000 / 640**2
    large = blank._replace(visited=blank.visited * times, scan_bytes=int(blank.scan_bytes * times))
    cost.refuse_scans(large)
    worst = jpeg.read(progressive((640, 640), quality=100, subsampling="4:4:4"))
    large = worst._replace(visited=worst.visited * times, scan_bytes=int(worst.scan_bytes * times))
    cost.refuse_scans(large)


def test_a_progressive_photo_is_decoded():
    photo = progressive((1500, 2000), quality=90)
    small = decode(as_file(garment(15, (60, 80)), "PNG"), SIZE)
    assert np.abs(decode(photo, SIZE).astype(int) - small).mean() < 4


def riff(chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


COSTLY = {
    "PNG": blank_png(7000, 7000),
    "PNG, interlaced": blank_png(5000, 5000, interlaced=1),
    "PNG, very tall": blank_png(1, 40_000_000)[:20_000],
    "PNG, very wide": blank_png(40_000_000, 1),
    "GIF": b"GIF89a" + struct.pack("<HH", 7000, 7000) + bytes(30),
    "BMP": b"BM" + bytes(12) + struct.pack("<IiiHHI", 40, 7000, -7000, 1, 8, 1) + bytes(30),
    "WEBP": riff(b"VP8L" + struct.pack("<IBI", 9, 0x2F, 6999 | 6999 << 14) + bytes(8)),
    "WEBP, animated": riff(b"VP8X\x0a\0\0\0\2\0\0\0" + struct.pack("<I", 6999)[:3] * 2),
    "AVIF": b"\0\0\0\x18ftypavif"
    + bytes(12)
    + b"\0\0\0\x14ispe"
    + struct.pack(">3I", 0, 7000, 7000),
    "TIFF": tiff(np.zeros((16, 16), int), 1, tag_256=[7000], tag_257=[7000]),
}


@pytest.mark.parametrize("name", COSTLY)
def test_many_pixels_of_few_bytes_are_refused_undecoded(name, undecoded):
    assert len(COSTLY[name]) < 2**16
    with pytest.raises(PhotoTooCostly, match=r"send a smaller version, or save it as a baseline"):
        decode(COSTLY[name], SIZE)


def test_a_tile_counts_as_it_is_decoded(undecoded):
    photo = tiff(np.zeros((16, 16), int), 1, tile_px=16)
    at = photo.index(struct.pack("<HHI", 322, 3, 1))
    photo = (
        photo[:at] + struct.pack("<HHI", 322, 4, 1) + struct.pack("<I", 2**26) + photo[at + 12 :]
    )
    with pytest.raises(PhotoTooLarge):
        decode(photo, SIZE)


def test_chunks_without_end_are_refused():
    photo = png(np.zeros((80, 60), int), 8, 0)
    with pytest.raises(PhotoTooCostly, match="chunks"):
        decode(photo[:33] + b"\0\0\0\0prVt\0\0\0\0" * 200_000 + photo[33:], SIZE)


def test_data_that_go_on_behind_the_picture_are_not_inflated():
    rows = zlib.compress(bytes(10 * 11) + bytes(100_000_000))
    photo = png(np.zeros((10, 10), int), 8, 0)
    at = photo.index(b"IDAT")
    size = struct.unpack_from(">I", photo, at - 4)[0]
    photo = photo[: at - 4] + struct.pack(">I", len(rows)) + b"IDAT" + rows + photo[at + 4 + size :]
    assert (decode(photo, SIZE)[10:70] == 0).all()


@pytest.mark.parametrize("size_px", [(1, 1), (60, 80), (1500, 2000)])
@pytest.mark.parametrize("format_name", ["PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG"])
def test_an_ordinary_photo_is_far_below_the_bound(format_name, size_px):
    photo = as_file(garment(15, (60, 80)).resize(size_px), format_name)
    assert decode_s(photo) < 0.05 < MAX_DECODE_S
    assert decode(photo, SIZE).shape == (80, 60, 3)


@pytest.mark.parametrize(
    "photo",
    [
        many_scans(850, 7000),
        blank_png(7000, 7000),
        b"",
        b"text",
        b"\xff\xd8",
        b"\x89PNG",
        b"II*\0",
        b"RIFF1234WEBP",
    ],
)
def test_what_is_refused_takes_no_time(photo):
    assert decode_s(photo) == 0


def test_a_thumbnail_of_many_scans_is_no_work():
    photo = as_file(garment())
    inner = many_scans(100, 600)
    assert decode_s(with_segment(photo, 0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0" + inner)) == 0


_PEAK = """
import resource, sys
from mlc_core.photo import decode
from mlc_core.spec import ImageSize
photo = sys.stdin.buffer.read()
decode(open(sys.argv[1], "rb").read(), ImageSize(80, 60))  # all is imported
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decode(photo, ImageSize(80, 60))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_decoding_takes_at_most_14_bytes_a_pixel(tmp_path):
    side_px, mode = 1500, "LA"  # the most of all that Pillow writes
    large = garment(15, (100, 100)).resize((side_px, side_px)).convert(mode)
    (tmp_path / "small.png").write_bytes(as_file(garment().convert(mode), "PNG"))
    command = [sys.executable, "-c", _PEAK, str(tmp_path / "small.png")]
    photo = as_file(large, "PNG", compress_level=1)
    ran = subprocess.run(command, input=photo, capture_output=True, check=True, cwd=PROJECT)
    assert int(ran.stdout) < 14 * side_px**2 + 5 * 2**20
