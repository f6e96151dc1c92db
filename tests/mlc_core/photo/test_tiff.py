"""TIFF in its many layouts: the right picture, or a refusal that says why."""

import numpy as np
import pytest
from photos import garment, tiff
from PIL import ExifTags, Image, ImageOps

from mlc_core.errors import UndecodablePhoto
from mlc_core.photo import decode
from mlc_core.spec import ImageSize
from samples.garments import as_file

SIZE = ImageSize(height_px=80, width_px=60)
PICTURE = np.asarray(garment(1).resize((60, 80)))
GREY = np.asarray(garment(1).resize((60, 80)).convert("L"))
ALPHA = (
    np.where(np.arange(60) % 20 < 10, 255, np.arange(60) * 4).astype(np.uint8)[None].repeat(80, 0)
)
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
UNSPECIFIED, ASSOCIATED, UNASSOCIATED = 0, 1, 2

layouts = pytest.mark.parametrize("order", ["<", ">"])
tiles = pytest.mark.parametrize("tile_px", [0, 16, 64])
depths = pytest.mark.parametrize("bits", [8, 16])
planes = pytest.mark.parametrize("planar", [False, True])


def difference(photo: bytes, shown: np.ndarray) -> int:
    """The largest, of 255."""
    shown = shown if shown.ndim == 3 else shown[..., None]
    return int(np.abs(decode(photo, SIZE).astype(int) - shown.astype(int)).max())


def over_white(colors: np.ndarray) -> np.ndarray:
    colors = colors if colors.ndim == 3 else colors[..., None]
    return (colors * (ALPHA[..., None] / 255) + 255 - ALPHA[..., None]).round()


def deep(samples: np.ndarray, bits: int) -> np.ndarray:
    return samples.astype(int) * (257 if bits == 16 else 1)


@layouts
@tiles
@depths
@planes
def test_rgb(order, tile_px, bits, planar):
    assert difference(tiff(deep(PICTURE, bits), RGB, bits, order, planar, tile_px), PICTURE) == 0


@layouts
@tiles
@depths
@pytest.mark.parametrize("photometric", [WHITE_IS_ZERO, BLACK_IS_ZERO])
def test_grey(order, tile_px, bits, photometric):
    stored = 255 - GREY if photometric == WHITE_IS_ZERO else GREY
    assert difference(tiff(deep(stored, bits), photometric, bits, order, False, tile_px), GREY) == 0


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("photometric", [WHITE_IS_ZERO, BLACK_IS_ZERO])
def test_grey_of_few_bits(bits, photometric):
    white = (1 << bits) - 1
    levels = GREY.astype(int) * white // 255
    stored = white - levels if photometric == WHITE_IS_ZERO else levels
    assert difference(tiff(stored, photometric, bits), levels * 255 // white) == 0


def test_grey_of_12_bits():
    assert difference(tiff(GREY.astype(int) * 4095 // 255, BLACK_IS_ZERO, 12), GREY) <= 1


@layouts
@tiles
@depths
@planes
@pytest.mark.parametrize("extra", [UNSPECIFIED, ASSOCIATED, UNASSOCIATED])
def test_rgb_and_alpha(order, tile_px, bits, planar, extra):
    colors = deep(PICTURE, bits)
    if extra == ASSOCIATED:
        colors = (colors * (ALPHA[..., None] / 255)).round().astype(int)
    samples = np.dstack([colors, deep(ALPHA, bits)])
    photo = tiff(samples, RGB, bits, order, planar, tile_px, tag_338=[extra])
    assert difference(photo, PICTURE if extra == UNSPECIFIED else over_white(PICTURE)) <= 2


@layouts
@tiles
@depths
@pytest.mark.parametrize("photometric", [WHITE_IS_ZERO, BLACK_IS_ZERO])
@pytest.mark.parametrize("extra", [UNSPECIFIED, UNASSOCIATED])
def test_grey_and_alpha(order, tile_px, bits, photometric, extra):
    stored = 255 - GREY if photometric == WHITE_IS_ZERO else GREY
    samples = np.dstack([deep(stored, bits), deep(ALPHA, bits)])
    photo = tiff(samples, photometric, bits, order, False, tile_px, tag_338=[extra])
    assert difference(photo, GREY if extra == UNSPECIFIED else over_white(GREY)) <= 2


@layouts
@depths
def test_grey_that_was_multiplied_by_alpha(order, bits):
    grey = (deep(GREY, bits) * (ALPHA / 255)).round().astype(int)
    photo = tiff(np.dstack([grey, deep(ALPHA, bits)]), BLACK_IS_ZERO, bits, order, tag_338=[1])
    assert difference(photo, over_white(GREY)) <= 3


@layouts
@depths
@planes
def test_cmyk(order, bits, planar):
    inks = np.dstack([255 - PICTURE, np.zeros_like(GREY)])
    assert difference(tiff(deep(inks, bits), CMYK, bits, order, planar), PICTURE) <= 1


@pytest.mark.parametrize(
    "scale", [257, 1], ids=["of 16 bits", "of 8 bits, as some writers store it"]
)
def test_palette(scale):
    indices = Image.fromarray(PICTURE).quantize(200)
    colors = np.zeros((256, 3), int)
    colors[:200] = np.array(indices.getpalette()[:600]).reshape(-1, 3)
    photo = tiff(np.asarray(indices), PALETTE, tag_320=(colors.T.ravel() * scale).tolist())
    assert difference(photo, np.asarray(indices.convert("RGB"))) == 0


def test_lab():
    image = Image.merge(
        "LAB", [Image.fromarray(np.full((80, 60), level, np.uint8)) for level in (136, 208, 195)]
    )
    red = decode(as_file(image, "TIFF"), SIZE)[0, 0]  # L 53, a 80, b 67
    assert np.abs(red.astype(int) - (254, 0, 0)).max() <= 12  # of 8 bits


@pytest.mark.parametrize(
    "options",
    [
        {"compression": name} for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "lzma")
    ] + [{"compression": "jpeg", "quality": 95}],
    ids=lambda options: options["compression"],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_compressed(options, mode):
    image = Image.fromarray(PICTURE).convert(mode)
    photo = as_file(image, "TIFF", **options)
    shown = np.asarray(image.convert("RGB"))
    assert np.abs(decode(photo, SIZE).astype(int) - shown).mean() < 2.5


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_fax(compression):
    image = Image.fromarray(GREY).convert("1")
    photo = as_file(image, "TIFF", compression=compression)
    assert difference(photo, np.asarray(image.convert("L"))) == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("bits", [8, 16])
def test_it_is_turned_upright(orientation, bits):
    undo = Image.Exif()
    undo[ExifTags.Base.Orientation] = {6: 8, 8: 6}.get(orientation, orientation)
    stored = Image.fromarray(GREY)
    stored.info["exif"] = undo.tobytes()
    stored = np.asarray(ImageOps.exif_transpose(stored))
    photo = tiff(deep(stored, bits), BLACK_IS_ZERO, bits, tag_274=[orientation])
    assert difference(photo, GREY) == 0


def test_of_several_pages_the_first_is_taken():
    pages = [Image.fromarray(PICTURE), garment(15)]
    assert (
        difference(as_file(pages[0], "TIFF", save_all=True, append_images=pages[1:]), PICTURE) == 0
    )


@pytest.mark.parametrize(
    ("photo", "why"),
    [
        (tiff(PICTURE, RGB, tag_339=[3] * 3), "signed or floating-point"),
        (tiff(GREY, BLACK_IS_ZERO, tag_339=[2]), "signed or floating-point"),
        (tiff(PICTURE, RGB, bits=32), "RGB of 32"),
        (tiff(PICTURE, 9), "ICC Lab"),
        (tiff(GREY, 32803), "colour filter array"),
        (tiff(deep(PICTURE, 16), LAB, 16), "CIE Lab of 16"),
        (tiff(np.dstack([PICTURE, PICTURE[..., :2]]), CMYK, tag_338=[2]), "CMYK of 8"),
        (tiff(np.dstack([PICTURE, GREY]), CMYK, tag_332=[2]), "inks other than CMYK"),
        (tiff(PICTURE, RGB, tag_259=[9999]), "compression 9999"),
        (tiff(PICTURE, RGB, tag_259=[5]), "compression lzw is damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cant_be_decoded_rightly_is_refused_with_advice(photo, why):
    with pytest.raises(UndecodablePhoto, match=f"{why}.*save it"):
        decode(photo, SIZE)
