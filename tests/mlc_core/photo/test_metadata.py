"""Metadata never spoils a picture: what surrounds it may be broken, oversized or of any kind."""

import struct
import zlib

import numpy as np
import pytest
from photos import chunk, garment, segment, tiff, with_chunk
from PIL import ExifTags, Image

from mlc_core.errors import UndecodablePhoto
from mlc_core.photo import decode
from mlc_core.spec import ImageSize
from samples.garments import as_file

SIZE = ImageSize(height_px=80, width_px=60)
PNG = as_file(garment(), "PNG")
JPEG = as_file(garment(), quality=92)
CMYK = as_file(garment().convert("CMYK"), quality=92)
WEBP = as_file(garment(), "WEBP", lossless=True)
BOMB = zlib.compress(bytes(50_000_000))


def same(photo: bytes, clean: bytes) -> bool:
    return bool((decode(photo, SIZE) == decode(clean, SIZE)).all())


PNG_CHUNKS = {
    "text of 2 MB": chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 2_000_000)),
    "XMP of 2 MB": chunk(
        b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * 2_000_000)
    ),
    "100 texts of 1 MB": chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 1_000_000)) * 100,
    "a profile that is a bomb": chunk(b"iCCP", b"a\0\0" + BOMB),
    "a profile by an unknown method": chunk(b"iCCP", b"a\0\7abc"),
    "a profile that is not deflated": chunk(b"iCCP", b"a\0\0abc"),
    "text by an unknown method": chunk(b"zTXt", b"a\0\7abc"),
    "text that is no text": chunk(b"iTXt", b"\xff\xfe\0\0\0\xff\0\xff\0\xff"),
    "EXIF that is none": chunk(b"eXIf", b"\xff" * 50),
    "EXIF hidden in text": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nzz")),
    "animation of no frames, twice": chunk(b"acTL", bytes(8)) * 2,
    "a frame out of sequence": chunk(b"acTL", b"\0\0\0\2" + bytes(4)) + chunk(b"fcTL", b"\7" * 26),
    **{
        f"{kind} without contents": chunk(kind.encode(), b"")
        for kind in (
            "pHYs", "gAMA", "cHRM", "sRGB", "tRNS", "acTL", "fcTL", "fdAT", "bKGD", "tIME", "eXIf",
            "iCCP", "cICP", "prVt",
        )
    },
    **{
        f"{kind} with a wrong checksum": chunk(kind.encode(), data, check=1)
        for kind, data in {
            "pHYs": bytes(9), "tEXt": b"a\0b", "gAMA": struct.pack(">I", 100_000), "eXIf": b"II",
            "iCCP": b"a\0\0", "sRGB": b"\0", "tRNS": bytes(6), "prVt": b"abc",
        }.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PNG_CHUNKS)
def test_a_png_is_the_same_without_its_metadata(name):
    assert same(with_chunk(PNG, PNG_CHUNKS[name]), PNG)
    assert same(PNG[:-12] + PNG_CHUNKS[name] + PNG[-12:], PNG)


@pytest.mark.parametrize(
    "photo",
    [
        PNG + b"junk" * 1000, PNG[:-12], PNG[:-12] + chunk(b"tEXt", b"a\0" + b"b" * 1000)[:500],
        with_chunk(PNG, chunk(b"IDAT", b"") * 100),
    ],
    ids=["junk behind it", "without its end", "text that is cut off", "empty data"],
)  # fmt: skip
def test_what_follows_the_picture_of_a_png_does_not_matter(photo):
    assert same(photo, PNG)


def test_orientation_is_found_wherever_a_png_has_it():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    data = exif.tobytes()
    hexadecimal = b"\nexif\n%8d\n" % len(data) + data.hex().encode()
    xmp = b'<x tiff:Orientation="3"/>'
    turned = as_file(garment().transpose(Image.Transpose.ROTATE_180), "PNG")
    for holder in (
        chunk(b"eXIf", data[6:]),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(hexadecimal)),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)),
    ):
        assert same(with_chunk(PNG, holder), turned)
        assert same(PNG[:-12] + holder + PNG[-12:], turned)


JPEG_SEGMENTS = {
    "EXIF without contents": segment(0xE1, b"Exif\0\0"),
    "EXIF that points out of it": segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
    "a thumbnail of many scans": segment(
        0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + as_file(garment(), progressive=True)
    ),
    "XMP without contents": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0"),
    "half a JFIF": segment(0xE0, b"JFIF"),
    "half an Adobe": segment(0xEE, b"Adobe"),
    "a profile without number": segment(0xE2, b"ICC_PROFILE\0"),
    "the part 0 of a profile": segment(0xE2, b"ICC_PROFILE\0\0\0abc"),
    "a list of pictures that is none": segment(0xE2, b"MPF\0II*\0" + b"\xff" * 20),
    "half a FlashPix": segment(0xE2, b"FPXR\0"),
    "resources of Photoshop that end": segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\xff12345"),
    "a comment full of markers": segment(0xFE, b"\xff\xda\xff\xd9\xff\xc2" * 9),
    "segments without contents": segment(0xE9, b"") * 100,
    "large segments": segment(0xE5, bytes(60_000)) * 20,
    "fill bytes": b"\xff" * 100,
}


@pytest.mark.parametrize("name", JPEG_SEGMENTS)
@pytest.mark.parametrize("clean", [JPEG, CMYK], ids=["YCbCr", "CMYK"])
def test_a_jpeg_is_the_same_without_its_metadata(name, clean):
    assert same(clean[:2] + JPEG_SEGMENTS[name] + clean[2:], clean)


def test_what_surrounds_the_segments_of_a_jpeg_does_not_matter():
    assert same(JPEG + b"\xff\xd8\xff\xda" * 1000, JPEG)
    assert same(JPEG[:2] + b"junk" + JPEG[2:], JPEG)


@pytest.mark.parametrize("orientation", [0, 1, 9, 300])
def test_an_orientation_that_means_nothing_is_upright(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    assert same(as_file(garment(), quality=92, exif=exif), JPEG)


def riff(chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


def test_what_surrounds_the_picture_of_a_webp_does_not_matter():
    junk = as_file(garment(), "WEBP", lossless=True, icc_profile=b"junk", exif=b"junk", xmp=b"x")
    for photo in (
        junk, WEBP + b"junk" * 10, junk[:-2], riff(junk[12:] + b"junk\4\0\0\0abcd"),
        WEBP[:4] + struct.pack("<I", 2**31) + WEBP[8:], WEBP[:4] + bytes(4) + WEBP[8:],
    ):  # fmt: skip
        assert same(photo, WEBP)


def test_a_tiff_is_the_same_without_its_metadata():
    pixels = np.asarray(garment())
    clean = tiff(pixels, 2)
    for tags in (
        {"tag_34665": [0xFFFFFFF0]},  # EXIF, out of the file
        {"tag_330": [8], "tag_34853": [3], "tag_34377": [1] * 9, "tag_700": [255] * 100},
        {"tag_34675": [255] * 100},  # a profile
        {"tag_65000": [0xFFFFFF] * 100},
    ):
        assert same(tiff(pixels, 2, **tags), clean)


@pytest.mark.parametrize(
    ("photo", "truth"),
    [
        (PNG[:29] + b"abcd" + PNG[33:], "checksum in b'IHDR'"),
        (b"\x89PNG\n\x1a\n" + PNG[8:], "sent as text"),
        (PNG[:8] + chunk(b"CgBI", bytes(4)) + PNG[8:], "Apple's own variant"),
        (PNG[:8] + PNG[33:], "does not begin with a header"),
        (JPEG[:2], "ends before its picture begins"),
        (b"\xff\xd8\xff\xd9", "ends before its picture begins"),
        (JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c"), "12"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (b"II*\0", "directory is cut off"),
        (b"GIF89a" + struct.pack("<HHBBB", 9, 9, 0, 0, 0) + b";", "no more images"),
    ],
)
def test_a_refusal_tells_the_truth(photo, truth):
    with pytest.raises(UndecodablePhoto, match=truth):
        decode(photo, SIZE)
