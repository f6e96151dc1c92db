"""Colours: what profiles and their like make of a photo."""

import io
import struct

import numpy as np
import pytest
from photos import chunk, garment, in_profile, press_profile, profile, segment, with_chunk
from PIL import Image, ImageCms

from mlc_core.photo import color, decode
from mlc_core.spec import ImageSize
from samples.garments import as_file

SIZE = ImageSize(height_px=80, width_px=60)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
WIDE = color.rgb_profile(  # ProPhoto RGB
    [(0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)], (0.3457, 0.3585), color.power(1.8)
)
DISPLAY_P3 = color.coded_profile(12, 13)
ADOBE = color.rgb_profile(
    [(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)], (0.3127, 0.329), color.power(563 / 256)
)
SWAPPED = profile(swapped=True)
PROFILES = {"Display P3": DISPLAY_P3, "Adobe": ADOBE, "ProPhoto": WIDE, "swapped": SWAPPED}
GREY_LINEAR = profile(b"GRAY", gamma=1.0)
RGB_FORMATS = {
    "jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {"lossless": True}),
    "tiff": ("TIFF", {}),
    "tiff-lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "avif": ("AVIF", {"quality": 95, "subsampling": "4:4:4"}),
}


def difference(one: bytes, other: bytes) -> float:
    """The mean over pixels and channels, of 255."""
    return float(np.abs(decode(one, SIZE).astype(int) - decode(other, SIZE).astype(int)).mean())


@pytest.fixture(scope="module")
def red():
    return garment(15)


@pytest.fixture(scope="module")
def plain(red):
    return as_file(red, "PNG")


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("format_name", RGB_FORMATS)
def test_a_profile_says_what_the_numbers_mean(name, format_name, red, plain):
    kind, options = RGB_FORMATS[format_name]
    numbers = in_profile(red, PROFILES[name])
    photo = as_file(numbers, kind, icc_profile=PROFILES[name], **options)
    assert difference(photo, plain) < 1.5
    assert difference(as_file(numbers, kind, **options), plain) > 1.5  # without it, another picture


@pytest.mark.parametrize("format_name", ["PNG", "WEBP", "TIFF"])
def test_a_profile_leaves_transparency_alone(format_name, red, plain):
    rgba = in_profile(red, SWAPPED).convert("RGBA")
    rgba.putalpha(red.convert("L").point(lambda level: 0 if level > 250 else 255))
    options = {"lossless": True} if format_name == "WEBP" else {}
    photo = as_file(rgba, format_name, icc_profile=SWAPPED, **options)
    assert difference(photo, plain) < 1.5


def test_a_profile_holds_for_the_colours_of_a_palette(red, plain):
    photo = as_file(in_profile(red, SWAPPED).quantize(200), "PNG", icc_profile=SWAPPED)
    assert difference(photo, plain) < 3


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["L", "LA"])
def test_a_grey_profile_holds_for_grey(format_name, mode, red):
    if (format_name, mode) == ("JPEG", "LA"):
        pytest.skip("JPEG has no alpha")
    grey = red.convert("L")
    light = color._curve(13)  # sRGB's, from samples to light
    linear = grey.point([round(255 * light[round(level * 1023 / 255)]) for level in range(256)])
    photo = as_file(linear.convert(mode), format_name, icc_profile=GREY_LINEAR)
    assert difference(photo, as_file(grey, "PNG")) < 1.5


@pytest.mark.parametrize("format_name", ["JPEG", "TIFF"])
def test_a_profile_of_a_press_holds_for_cmyk(format_name, red):
    gradient = Image.merge("CMYK", [Image.linear_gradient("L").resize((60, 80))] * 3 + [
        Image.new("L", (60, 80), 30)
    ])  # fmt: skip
    photo = as_file(gradient, format_name, icc_profile=press_profile())
    source = ImageCms.ImageCmsProfile(io.BytesIO(press_profile()))
    lab = ImageCms.profileToProfile(
        gradient, source, ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    rgb = ImageCms.profileToProfile(
        lab, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert difference(photo, as_file(rgb, "PNG")) < 2.5
    assert difference(photo, as_file(gradient.convert("RGB"), "PNG")) > 4


@pytest.mark.parametrize(
    ("mode", "foreign"),
    [("RGB", GREY_LINEAR), ("L", WIDE), ("CMYK", WIDE), ("RGB", press_profile())],
    ids=["grey for RGB", "RGB for grey", "RGB for CMYK", "CMYK for RGB"],
)
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "TIFF"])
def test_a_profile_of_another_colour_space_is_ignored(mode, foreign, format_name, red):
    if (mode, format_name) == ("CMYK", "PNG"):
        pytest.skip("PNG has no CMYK")
    image = red.convert(mode)
    photo = as_file(image, format_name, icc_profile=foreign)
    assert difference(photo, as_file(image, format_name)) == 0


@pytest.mark.parametrize("broken", [b"x" * 300, SWAPPED[:200], SWAPPED[:-30], b"\0"])
@pytest.mark.parametrize("format_name", RGB_FORMATS)
def test_a_broken_profile_is_ignored(broken, format_name, red):
    kind, options = RGB_FORMATS[format_name]
    photo = as_file(red, kind, icc_profile=broken, **options)
    assert difference(photo, as_file(red, kind, **options)) == 0


@pytest.mark.parametrize("format_name", RGB_FORMATS)
def test_a_profile_of_srgb_changes_no_bit(format_name, red):
    kind, options = RGB_FORMATS[format_name]
    photo = as_file(red, kind, icc_profile=SRGB, **options)
    assert difference(photo, as_file(red, kind, **options)) == 0


def test_a_large_photo_with_a_profile_is_like_its_small_version():
    large = garment(15, (1200, 1600))
    for kind, options in (("PNG", {}), ("JPEG", {"quality": 95})):
        photo = as_file(in_profile(large, SWAPPED), kind, icc_profile=SWAPPED, **options)
        assert difference(photo, as_file(large, kind, **options)) < 1


def parts_of(icc: bytes, size: int) -> list[bytes]:
    pieces = [icc[at : at + size] for at in range(0, len(icc), size)]
    return [
        segment(0xE2, b"ICC_PROFILE\0" + bytes([n, len(pieces)]) + piece)
        for n, piece in enumerate(pieces, 1)
    ]


@pytest.mark.parametrize(
    ("arrange", "used"),
    [
        (lambda parts: parts, True),
        (lambda parts: parts[::-1], True),
        (lambda parts: parts + parts[:1], True),
        (lambda parts: parts[1:], False),
        (lambda parts: parts[:-1], False),
    ],
    ids=["in order", "reversed", "one doubled", "without the first", "without the last"],
)
def test_a_profile_in_parts_is_used_when_all_are_there(arrange, used, red, plain):
    jpeg = as_file(in_profile(red, SWAPPED), quality=95)
    photo = jpeg[:2] + b"".join(arrange(parts_of(SWAPPED, 100))) + jpeg[2:]
    assert difference(photo, plain if used else jpeg) < 1.5


def gamma(value: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(value * 100_000)))


def primaries(*values: float) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in values)))


SRGB_PRIMARIES = primaries(0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
SWAPPED_PRIMARIES = primaries(0.3127, 0.329, 0.15, 0.06, 0.3, 0.6, 0.64, 0.33)


@pytest.mark.parametrize(
    "ignored",
    [
        gamma(0.45455), gamma(0.45455) + SRGB_PRIMARIES, SWAPPED_PRIMARIES, gamma(0),
        chunk(b"sRGB", b"\0") + gamma(1), chunk(b"cICP", bytes([1, 13, 0, 1])) + gamma(1),
        chunk(b"cICP", bytes([99, 99, 0, 1])), gamma(0.45455) + chunk(b"cHRM", bytes(32)),
    ],
    ids=[
        "gamma of sRGB", "all of sRGB", "primaries alone", "no gamma", "sRGB goes first",
        "cICP goes first", "unknown code points", "primaries that span nothing",
    ],
)  # fmt: skip
def test_chunks_that_mean_srgb_or_nothing_change_no_bit(ignored, plain):
    assert difference(with_chunk(plain, ignored), plain) == 0


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P"])
def test_the_gamma_of_a_png_is_that_of_its_samples(mode, red):
    linear = red.point([round(255 * (level / 255) ** 2.2) for level in range(256)] * 3)
    shown = red.convert("L") if mode in {"L", "LA"} else red
    linear = linear if mode not in {"L", "LA"} else shown.point(
        [round(255 * (level / 255) ** 2.2) for level in range(256)]
    )  # fmt: skip
    linear = linear.quantize(250) if mode == "P" else linear.convert(mode)
    for more in (b"", SRGB_PRIMARIES):
        photo = with_chunk(as_file(linear, "PNG"), gamma(1) + more)
        assert difference(photo, as_file(shown, "PNG")) < 3


def test_the_primaries_of_a_png_hold_with_its_gamma(red, plain):
    numbers = as_file(in_profile(red, SWAPPED), "PNG")
    photo = with_chunk(numbers, gamma(1 / 2.2) + SWAPPED_PRIMARIES)
    assert difference(photo, plain) < 1.5


def test_code_points_say_what_the_numbers_mean(red, plain):
    numbers = in_profile(red, DISPLAY_P3)
    photo = with_chunk(as_file(numbers, "PNG"), chunk(b"cICP", bytes([12, 13, 0, 1])))
    assert difference(photo, plain) < 1.5
    avif = as_file(numbers, "AVIF", quality=95, subsampling="4:4:4")
    at = avif.index(b"colrnclx") + 8
    photo = avif[:at] + struct.pack(">HH", 12, 13) + avif[at + 4 :]
    assert difference(photo, plain) < 1.5


def test_white_of_high_dynamic_range_is_white():
    for transfer, signal in ((16, 0.58069), (18, 0.75)):  # BT.2408, table 1
        level = round(255 * signal)
        image = Image.new("RGB", (60, 80), (level, level, level))
        photo = with_chunk(as_file(image, "PNG"), chunk(b"cICP", bytes([9, transfer, 0, 1])))
        assert decode(photo, SIZE).min() >= 251


def test_few_transforms_are_kept():
    assert color._small.cache_info().maxsize * color._SMALL_PROFILE_BYTES <= 4 * 2**20
    assert color._large.cache_info().maxsize * color.MAX_PROFILE_BYTES <= 32 * 2**20
