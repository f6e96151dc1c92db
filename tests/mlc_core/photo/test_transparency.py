"""What is transparent is white, however the file says so."""

import struct

import numpy as np
import pytest
from photos import bmp, chunk, garment, gif_on_canvas, png
from PIL import Image

from mlc_core.photo import decode
from mlc_core.spec import ImageSize
from samples.garments import as_file

SIZE = ImageSize(height_px=80, width_px=60)
ROWS, COLUMNS = np.mgrid[0:80, 0:60]
COVERED = (COLUMNS // 20 + ROWS // 20) % 2 == 0  # a chessboard
RAMP = (COLUMNS * 255 // 59).astype(np.uint8)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("interlaced", [0])
def test_one_grey_of_a_png_can_be_transparent(bits, interlaced):
    white = (1 << bits) - 1
    levels = np.where(COVERED, np.maximum(RAMP.astype(int) * white // 255, 1), 0)
    photo = png(levels, bits, 0, chunk(b"tRNS", struct.pack(">H", 0)), interlaced)
    shown = np.where(COVERED, levels * 255 // white, 255)
    assert np.abs(decode(photo, SIZE).astype(int) - shown[..., None]).max() <= 1


@pytest.mark.parametrize("bits", [2, 4])
def test_of_few_bits_the_level_is_theirs(bits):
    levels = np.where(COVERED, 0, 2)  # 2 of 3 or 15, not of 255
    photo = png(levels, bits, 0, chunk(b"tRNS", struct.pack(">H", 2)))
    assert (decode(photo, SIZE)[..., 0] == np.where(COVERED, 0, 255)).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_one_colour_of_an_rgb_png_can_be_transparent(bits):
    colors = np.where(COVERED[..., None], (0, 0, 200), (1, 2, 3)) * (257 if bits == 16 else 1)
    transparent = chunk(b"tRNS", struct.pack(">3H", *colors[0, 20]))
    shown = np.where(COVERED[..., None], (0, 0, 200), 255)
    assert (decode(png(colors, bits, 2, transparent), SIZE) == shown).all()


def test_of_16_bits_all_count():
    colors = np.zeros((80, 60, 3), int)
    colors[~COVERED] = (0, 0, 1)  # equal but for the last bit
    photo = png(colors, 16, 2, chunk(b"tRNS", struct.pack(">3H", 0, 0, 1)))
    assert (decode(photo, SIZE)[..., 0] == np.where(COVERED, 0, 255)).all()
    photo = png(colors[..., 2], 16, 0, chunk(b"tRNS", struct.pack(">H", 1)))
    assert (decode(photo, SIZE)[..., 0] == np.where(COVERED, 0, 255)).all()


@pytest.mark.parametrize(("color_type", "channels"), [(4, 1), (6, 3)])
@pytest.mark.parametrize("bits", [8, 16])
def test_alpha_of_a_png(color_type, channels, bits):
    white = (1 << bits) - 1
    alpha = np.where(COVERED, white, 0)
    samples = np.dstack([np.zeros((80, 60, channels), int), alpha])
    assert (
        decode(png(samples, bits, color_type), SIZE)[..., 0] == 255 - alpha // (white // 255)
    ).all()


@pytest.mark.parametrize("alphas", [[0], [0, 128], [255, 0, 255]])
def test_entries_of_a_palette_can_be_transparent(alphas):
    image = Image.fromarray(np.full((80, 60), len(alphas) - 1, np.uint8), "P")
    image.putpalette([0, 0, 0] * 4)
    photo = as_file(image, "PNG", transparency=bytes(alphas))
    assert (decode(photo, SIZE) == 255 - alphas[-1]).all()


@pytest.mark.parametrize("format_name", ["WEBP", "AVIF", "TIFF"])
def test_alpha_of_other_formats(format_name):
    samples = np.dstack([np.zeros((80, 60, 3), np.uint8), (COVERED * 255).astype(np.uint8)])
    options = {"lossless": True} if format_name == "WEBP" else {}
    photo = as_file(Image.fromarray(samples), format_name, **options)
    shown = np.where(COVERED, 0, 255)
    assert np.abs(decode(photo, SIZE)[..., 0].astype(int) - shown).mean() < 2


@pytest.mark.parametrize("header_bytes", [108, 124])
def test_a_bmp_without_any_alpha_is_opaque(header_bytes):
    pixels = np.asarray(garment().resize((60, 80)).convert("RGBA")).copy()
    opaque = pixels[..., :3]
    pixels[..., 3] = 0
    assert (decode(bmp(pixels, header_bytes), SIZE) == opaque).all()
    pixels[..., 3] = 255 * COVERED
    shown = np.where(COVERED[..., None], opaque, 255)
    assert (decode(bmp(pixels, header_bytes), SIZE) == shown).all()


@pytest.mark.parametrize("transparency", [None, 1])
@pytest.mark.parametrize("mode", ["P", "L"])
def test_what_the_frame_of_a_gif_does_not_cover_is_white(mode, transparency):
    frame = Image.new(mode, (30, 40), 2)
    if mode == "P":
        frame.putpalette([0, 0, 0, 9, 9, 9, 200, 0, 0])
    frame.info = {} if transparency is None else {"transparency": transparency}
    image = decode(gif_on_canvas(frame, (60, 80), (10, 20)), SIZE)
    inside = np.zeros((80, 60), bool)
    inside[20:60, 10:40] = True
    assert (image[~inside] == 255).all()
    assert (image[inside] == ((200, 0, 0) if mode == "P" else (2, 2, 2))).all()


def test_the_first_frame_of_a_webp_on_its_canvas():
    frames = [Image.new("RGBA", (60, 80), color) for color in ("red", "blue")]
    frames[0].paste((0, 0, 0, 0), (0, 0, 30, 80))
    photo = as_file(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    image = decode(photo, SIZE)
    assert (image[:, :30] == 255).all()
    assert (image[:, 30:] == (255, 0, 0)).all()
