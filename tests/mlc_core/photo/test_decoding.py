"""Photos to images: every kind of file, right or wrong."""

import io
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from photos import FORMATS, SIZE_PX, TRUNCATED, forged_png, garment
from PIL import ExifTags, Image, ImageOps

from mlc_core.errors import PhotoFault, PhotoTooLarge, UndecodablePhoto, UnsupportedFormat
from mlc_core.photo import decode, decoding
from mlc_core.spec import ImageSize
from samples.garments import as_file, draw_garment

SIZE = ImageSize(height_px=80, width_px=60)
WHITE = 250  # what JPEG makes of white is still above


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """The mean over pixels and channels, of 255."""
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_becomes_the_same_picture(name):
    image = decode(FORMATS[name], SIZE)
    assert image.shape == (80, 60, 3)
    assert image.dtype == np.uint8
    shown = garment()
    if name == "png-1-bit":
        shown = shown.convert("1").convert("L")
    elif any(word in name for word in ("grey", "16-bit")):
        shown = shown.convert("L")
    elif name == "png-palette-transparent":
        shown = over_white(FORMATS[name])
    assert difference(image, decode(as_file(shown, "PNG"), SIZE)) < 4


def over_white(photo: bytes) -> Image.Image:
    rgba = Image.open(io.BytesIO(photo)).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_photo_taken_sideways_equals_the_upright_one(orientation, format_name):
    upright = garment(1)
    # What a camera stores: the picture that the orientation turns upright.
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    undo = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
    as_shot = Image.Exif()
    as_shot[ExifTags.Base.Orientation] = undo
    stored = Image.open(io.BytesIO(as_file(upright, "PNG", exif=as_shot)))
    stored = ImageOps.exif_transpose(stored)
    stored.info.clear()
    options = {"quality": 95} if format_name in {"JPEG", "WEBP"} else {}
    photo = as_file(stored, format_name, exif=exif, **options)
    assert difference(decode(photo, SIZE), decode(as_file(upright, "PNG"), SIZE)) < 2.5


def test_metadata_that_is_nonsense_spoils_no_photo():
    photo = as_file(garment(), exif=b"Exif\0\0" + b"\xff" * 40)
    assert difference(decode(photo, SIZE), decode(as_file(garment()), SIZE)) == 0


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_white(mode):
    image = Image.new(mode, (60, 80), (0,) * len(mode))  # black, were it not transparent
    assert (decode(as_file(image, "PNG"), SIZE) == 255).all()


def test_half_transparent_black_is_grey():
    image = Image.new("RGBA", (60, 80), (0, 0, 0, 128))
    assert abs(int(decode(as_file(image, "PNG"), SIZE).mean()) - 127) <= 1


def test_a_transparent_palette_entry_is_white():
    image = Image.new("P", (60, 80), 0)
    image.putpalette([200, 0, 0, 0, 0, 200])
    assert (decode(as_file(image, "PNG", transparency=0), SIZE) == 255).all()
    assert (decode(as_file(image, "GIF", transparency=0), SIZE) == 255).all()


def test_a_transparent_colour_of_an_rgb_photo_is_white():
    image = Image.new("RGB", (60, 80), (1, 2, 3))
    assert (decode(as_file(image, "PNG", transparency=(1, 2, 3)), SIZE) == 255).all()


def test_the_edge_of_what_is_transparent_has_no_dark_rim():
    image = Image.new("RGBA", (600, 800), (0, 0, 0, 0))  # transparent black around …
    image.paste((250, 250, 250, 255), (150, 200, 450, 600))  # … something nearly white
    assert decode(as_file(image, "PNG"), SIZE).min() > 240


def test_16_bits_keep_their_levels():
    levels = np.linspace(0, 65535, 60, dtype=np.uint16)[None].repeat(80, axis=0)
    for format_name in ("PNG", "TIFF"):
        image = decode(as_file(Image.fromarray(levels), format_name), SIZE)
        assert np.abs(image[0, :, 0].astype(int) - levels[0] / 257).max() <= 1


@pytest.mark.parametrize("name", ["gif-animated", "webp-animated"])
def test_of_an_animation_the_first_frame_is_taken(name):
    image = decode(FORMATS[name], SIZE)
    first, second = (decode(as_file(garment(seed), "PNG"), SIZE) for seed in (15, 1))
    assert difference(image, first) < 4 < difference(image, second)


@pytest.mark.parametrize("size_px", [(60, 80), (90, 120), (1080, 1440), (30, 40), (75, 100)])
def test_a_photo_of_the_models_aspect_ratio_fills_the_image(size_px):
    image = decode(as_file(Image.new("RGB", size_px, "navy"), "PNG"), SIZE)
    assert (image == (0, 0, 128)).all()


@pytest.mark.parametrize(
    ("size_px", "rows", "columns"),
    [((400, 100), (32, 47), (0, 60)), ((100, 400), (0, 80), (20, 40)), ((1, 1), (10, 70), (0, 60))],
    ids=["wide", "tall", "one pixel"],
)
def test_the_aspect_ratio_is_kept_on_white(size_px, rows, columns):
    image = decode(as_file(Image.new("RGB", size_px, "black"), "PNG"), SIZE)
    inside = np.zeros(image.shape[:2], bool)
    inside[slice(*rows), slice(*columns)] = True
    assert (image[inside] == 0).all()
    assert (image[~inside] == 255).all()


@given(width=st.integers(1, 300), height=st.integers(1, 300), mode=st.sampled_from(["RGB", "RGBA"]))
@settings(deadline=None, max_examples=60)
def test_the_shape_is_always_the_same(width, height, mode):
    photo = as_file(Image.new(mode, (width, height), "teal"), "PNG")
    assert decode(photo, SIZE).shape == (80, 60, 3)


@pytest.mark.parametrize("name", ["jpeg", "jpeg-progressive", "jpeg-grey"])
@pytest.mark.parametrize("size_px", [(60, 80), (90, 120), (1080, 1440), (333, 1000)])
def test_both_decoders_of_jpegs_give_the_same_pixels(name, size_px, monkeypatch):
    image = garment(1, size_px).convert("L" if name == "jpeg-grey" else "RGB")
    photo = as_file(image, quality=92, progressive=name == "jpeg-progressive")
    fast = decode(photo, SIZE)
    monkeypatch.setattr(decoding, "_decode_with_simplejpeg", lambda *_: None)
    assert (decode(photo, SIZE) == fast).all()


def test_reduced_decoding_of_a_large_jpeg_is_close_to_the_full_one():
    large = draw_garment("Tshirts", "Red", (1080, 1440))
    reduced = decode(as_file(large, quality=92), SIZE)
    full = decode(as_file(large, "PNG"), SIZE)  # PNG knows no reduced decoding
    assert difference(reduced, full) < 1.5


def test_a_larger_version_of_a_photo_gives_nearly_the_same_image():
    small = decode(as_file(draw_garment("Ties", "Blue", (60, 80)), "PNG"), SIZE)
    for size_px in ((225, 300), (1080, 1440)):
        large = decode(as_file(draw_garment("Ties", "Blue", size_px), "PNG"), SIZE)
        assert difference(large, small) < 4


@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_photo_is_undecodable(name):
    photo = FORMATS[name]
    if name.endswith("animated"):
        photo = photo[:400]  # the first frame, too, is cut off
    with pytest.raises(UndecodablePhoto):
        decode(photo[: len(photo) // 2], SIZE)


@pytest.mark.parametrize("start", [b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"BM"])
def test_only_a_beginning_is_undecodable(start):
    with pytest.raises(UndecodablePhoto):
        decode(start, SIZE)
    with pytest.raises(UndecodablePhoto):
        decode(start + b"\0" * 5000, SIZE)


@pytest.mark.parametrize(
    "photo",
    [b"", b"x", b"a dress", b"%PDF-1.4\n", b"<svg/>", b"\0" * 1000, np.random.bytes(5000)],
    ids=["empty", "letter", "text", "pdf", "svg", "zeros", "random"],
)
def test_bytes_of_no_format_are_unsupported_and_told_what_is(photo):
    with pytest.raises(UnsupportedFormat, match="JPEG, PNG, WEBP, GIF, BMP, TIFF"):
        decode(photo, SIZE)


@pytest.mark.parametrize(
    ("photo", "name"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(100), "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(100), "HEIC"),
        (b"\xff\x0a" + bytes(100), "JPEG XL"),
        (b"8BPS" + bytes(100), "PSD"),
    ],
)
def test_a_format_of_others_is_named(photo, name):
    with pytest.raises(UnsupportedFormat, match=f"{name} is not taken; formats taken: JPEG"):
        decode(photo, SIZE)


def test_a_format_that_pillow_knows_and_the_contract_does_not_is_unsupported():
    for format_name in ("PPM", "ICO", "TGA", "PCX"):
        with pytest.raises(UnsupportedFormat):
            decode(as_file(garment(), format_name), SIZE)


def test_the_pixel_limit_is_inclusive():
    photo = as_file(Image.new("L", (100, 100)), "PNG")
    assert decode(photo, SIZE, max_pixels=10_000).shape == (80, 60, 3)
    with pytest.raises(PhotoTooLarge, match="100×100"):
        decode(photo, SIZE, max_pixels=9_999)


@pytest.mark.parametrize("side_px", [7072, 9000, 10_000, 20_000, 2**31 - 1])
def test_a_header_that_claims_too_much_is_refused_undecoded(side_px, monkeypatch):
    monkeypatch.setattr(decoding, "_fitted", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(PhotoTooLarge):
        decode(forged_png(side_px, side_px), SIZE)


def test_a_header_that_claims_more_than_follows_is_undecodable():
    with pytest.raises(UndecodablePhoto):
        decode(forged_png(1000, 1000), SIZE)


def test_faults_are_json_safe_texts_for_their_sender():
    for photo in (TRUNCATED, b"text", forged_png(9000, 9000)):
        with pytest.raises(PhotoFault) as caught:
            decode(photo, SIZE)
        assert json.dumps(str(caught.value))
        assert "0x" not in str(caught.value)  # no addresses of ours


@given(st.binary(max_size=300), st.sampled_from(list(FORMATS)), st.data())
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_no_bytes_raise_anything_but_a_photo_fault(junk, name, data):
    photo = bytearray(FORMATS[name])
    at = data.draw(st.integers(0, len(photo)))
    how = data.draw(st.sampled_from(["junk", "cut", "overwritten", "inserted"]))
    if how == "junk":
        photo = junk
    elif how == "cut":
        photo = photo[:at]
    elif how == "overwritten":
        photo[at : at + len(junk)] = junk
    else:
        photo[at:at] = junk
    try:
        image = decode(bytes(photo), SIZE, max_pixels=10**6)
    except PhotoFault:
        return
    assert image.shape == (80, 60, 3)
    assert image.dtype == np.uint8


def test_the_garment_is_of_no_size_the_model_has():
    assert garment().size == SIZE_PX != (SIZE.width_px, SIZE.height_px)
