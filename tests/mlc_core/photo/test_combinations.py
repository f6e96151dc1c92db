"""Format × mode × transparency × profile × orientation, beside libvips as another decoder."""

import numpy as np
import pytest
import pyvips
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from photos import press_profile, profile
from PIL import ExifTags, Image

from mlc_core.photo import decode
from mlc_core.spec import ImageSize
from samples.garments import as_file

SIZE = ImageSize(height_px=80, width_px=60)
SWAPPED, WIDE_GAMMA = profile(swapped=True), profile(gamma=1.5)
GREY, PRESS = profile(b"GRAY", gamma=1.2), press_profile()
SPACES = {SWAPPED: "RGB", WIDE_GAMMA: "RGB", GREY: "L", PRESS: "CMYK"}
MODES = {
    "JPEG": ["RGB", "L", "CMYK"],
    "PNG": ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"],
    "WEBP": ["RGB", "RGBA"],
    "TIFF": ["RGB", "RGBA", "L", "CMYK", "I;16"],
    "AVIF": ["RGB", "RGBA"],
    "GIF": ["P", "L"],
}
OPTIONS = {
    "JPEG": [{"quality": 95, "subsampling": 0}, {"quality": 95, "progressive": True}],
    "PNG": [{}, {"optimize": True}],
    "WEBP": [{"lossless": True}, {"quality": 95}],
    "TIFF": [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}],
    "AVIF": [{"quality": 95, "subsampling": "4:4:4", "speed": 10}],
    "GIF": [{}, {"interlace": 1}],
}
colors = st.tuples(*[st.integers(0, 255)] * 3)


def by_libvips(photo: bytes, with_profile: bool) -> np.ndarray:
    image = pyvips.Image.new_from_buffer(photo, "").autorot()
    if with_profile:
        image = image.icc_transform(
            "srgb", embedded=True, intent="perceptual", black_point_compensation=True
        )
    image = image.colourspace("srgb")
    if image.hasalpha():
        image = image.flatten(background=255)
    return image.cast("uchar").numpy().reshape(image.height, image.width, -1)


@given(
    st.data(),
    st.sampled_from(list(MODES)),
    st.lists(colors, min_size=4, max_size=4),
    st.lists(st.sampled_from([0, 128, 255]), min_size=4, max_size=4),
    st.sampled_from([None, *SPACES]),
    st.integers(1, 8),
)
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_any_combination_is_what_libvips_shows(
    data, format_name, patches, alphas, icc, orientation
):
    mode = data.draw(st.sampled_from(MODES[format_name]))
    options = dict(data.draw(st.sampled_from(OPTIONS[format_name])))
    # Without a profile, every program has its own idea of CMYK.
    assume(mode != "CMYK" or icc == PRESS)
    size_px = (60, 80) if orientation < 5 else (80, 60)
    small = Image.new("RGB", (2, 2))
    small.putdata(patches)
    alpha = Image.new("L", (2, 2))
    alpha.putdata(alphas)
    small, alpha = (image.resize(size_px, Image.Resampling.NEAREST) for image in (small, alpha))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(small.convert("L")).astype(np.uint16) * 257)
    elif mode == "P":
        image = small.quantize(8)
    else:
        image = small.convert(mode)
    if mode in {"RGBA", "LA"}:
        image.putalpha(alpha)
    if mode == "P" and data.draw(st.booleans()):
        options["transparency"] = 0
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    if format_name != "GIF":
        options |= {"exif": exif} | ({"icc_profile": icc} if icc else {})
    elif orientation >= 5:
        image = image.resize((60, 80), Image.Resampling.NEAREST)
    photo = as_file(image, format_name, **options)
    space = {"LA": "L", "1": "L", "I;16": "L", "RGBA": "RGB", "P": "RGB"}.get(mode, mode)
    wanted = by_libvips(photo, format_name != "GIF" and SPACES.get(icc) == space)
    centres = np.ix_([20, 60], [15, 45])
    got = decode(photo, SIZE)[centres].astype(int)
    assert got == pytest.approx(wanted[centres], abs=3)
