"""Colours to sRGB: what the profile of a photo says its samples mean.

LittleCMS converts, by way of Pillow. A photo without a profile is in sRGB, as browsers take it.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 4 * 2**20  # the largest of printing are 3 MB
# Transforms are kept: building one takes 0.3 ms for a display, 10 ms and 2 MB for a press.
_SMALL_PROFILE_BYTES = 2**16
_SMALL_KEPT, _LARGE_KEPT = 64, 8
_SAME = 2  # levels of 255: what rounding makes of the sRGB profiles in circulation

_SPACES = {"RGB": "RGB", "RGBA": "RGB", "L": "GRAY", "LA": "GRAY", "CMYK": "CMYK"}
_CLASSES = {"scnr", "mntr", "prtr", "spac"}  # those that describe a device or a space
_INTENT = ImageCms.Intent.PERCEPTUAL
# Black of a press is as dark as black of a display: a black dress stays black.
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION

Point = tuple[float, float]


def transform_of(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    """What turns a picture with that profile to sRGB.

    Args:
        mode: Pillow's mode of the picture.

    Returns:
        None for what changes nothing: no profile, one of sRGB, one that can't be used, or one of
        another colour space than the picture's.
    """
    if profile is None or mode not in _SPACES or len(profile) > MAX_PROFILE_BYTES:
        return None
    kept = _small if len(profile) <= _SMALL_PROFILE_BYTES else _large
    return kept(profile, _SPACES[mode])


def to_srgb(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    """The picture in sRGB, as RGB or RGBA."""
    alpha = image.getchannel("A") if image.mode in {"RGBA", "LA"} else None
    plain = image if alpha is None else image.convert(image.mode.removesuffix("A"))
    converted = Image.new("RGB", image.size)
    transform.apply(plain, converted)
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def lab_to_srgb(image: Image.Image) -> Image.Image:
    """A CIE Lab picture, of D50, as RGB."""
    converted = Image.new("RGB", image.size)
    _lab().apply(image, converted)
    return converted


def _build(profile: bytes, space: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile to sRGB; None where it changes nothing or can't be used."""
    mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[space]
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if (
            source.profile.xcolor_space.strip() != space
            or source.profile.device_class.strip() not in _CLASSES
        ):
            return None
        transform = ImageCms.ImageCmsTransform(source, _srgb(), mode, "RGB", _INTENT, flags=_FLAGS)
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
        return None  # broken: a picture is not spoilt by its metadata
    return None if space != "CMYK" and _changes_nothing(transform, mode) else transform


_small = lru_cache(maxsize=_SMALL_KEPT)(_build)
_large = lru_cache(maxsize=_LARGE_KEPT)(_build)


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@lru_cache(maxsize=1)
def _lab() -> ImageCms.ImageCmsTransform:
    source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    return ImageCms.ImageCmsTransform(source, _srgb(), "LAB", "RGB", _INTENT, flags=_FLAGS)


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether greys and a grid of colours stay as they are."""
    levels = np.arange(256, dtype=np.uint8)
    if mode == "L":
        samples = levels[None]
        wanted = levels[None, :, None]
    else:
        grid = np.stack(np.meshgrid(*[levels[::32]] * 3), -1).reshape(-1, 3)
        samples = np.concatenate([grid, np.repeat(levels[:, None], 3, 1)])[None]
        wanted = samples
    converted = Image.new("RGB", (samples.shape[1], 1))
    transform.apply(Image.fromarray(samples), converted)
    return bool(np.abs(np.asarray(converted).astype(int) - wanted).max() <= _SAME)


# Profiles of what files say in numbers: PNG's cHRM and gAMA, and the code points of H.273.

_D65 = (0.3127, 0.3290)
_SRGB_PRIMARIES = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
_PRIMARIES: dict[int, tuple[Sequence[Point], Point]] = {
    1: (_SRGB_PRIMARIES, _D65),
    9: (((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)), _D65),
    11: (((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), (0.314, 0.351)),
    12: (((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), _D65),
}
_STEPS = np.linspace(0, 1, 1024)
_LINEAR, _SRGB, _PQ, _HLG = 8, 13, 16, 18
# Browsers show what is coded for television as if it were in sRGB's curve.
_LIKE_SRGB = {1, 6, 14, 15, _SRGB}


def power(exponent: float) -> NDArray[np.float64]:
    """A curve from samples to light, 0 to 1."""
    return np.asarray(_STEPS**exponent)


def _curve(transfer: int) -> NDArray[np.float64] | None:
    """From samples to light, where 1 is the white of a page (H.273, table 3)."""
    if transfer in _LIKE_SRGB:
        return np.where(_STEPS <= 0.04045, _STEPS / 12.92, ((_STEPS + 0.055) / 1.055) ** 2.4)
    if transfer == _PQ:  # SMPTE ST 2084; white at 203 cd/m² (BT.2408)
        root = _STEPS ** (1 / 78.84375)
        light = np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)
        return np.minimum(light ** (1 / 0.1593017578125) * 10_000 / 203, 1)
    if transfer == _HLG:  # ARIB STD-B67; white at 75% of the signal (BT.2408)
        low = _STEPS**2 / 3
        high = (np.exp((_STEPS - 0.55991073) / 0.17883277) + 0.28466892) / 12
        scene = np.where(_STEPS <= 0.5, low, high)
        return np.minimum((scene / 0.26496) ** 1.2, 1)
    exponent = {4: 2.2, 5: 2.8, _LINEAR: 1.0}.get(transfer)
    return None if exponent is None else power(exponent)


def is_srgb_code(primaries: int, transfer: int) -> bool:
    """Whether code points of H.273 mean sRGB."""
    return primaries in {1, 2} and transfer in _LIKE_SRGB | {2}


@lru_cache(maxsize=32)
def coded_profile(primaries: int, transfer: int) -> bytes | None:
    """The profile of code points of H.273; None for sRGB, and for those that say nothing."""
    curve = _curve(transfer)
    if primaries not in _PRIMARIES or curve is None or is_srgb_code(primaries, transfer):
        return None
    return rgb_profile(*_PRIMARIES[primaries], curve)


def are_srgb(primaries: Sequence[Point], white: Point) -> bool:
    """Whether these are the primaries and the white of sRGB, as files round them."""
    difference = np.array([*primaries, white]) - np.array([*_SRGB_PRIMARIES, _D65])
    return bool(np.abs(difference).max() < 0.005)


def with_gamma(image: Image.Image, gamma: float) -> Image.Image:
    """The picture in sRGB, of samples that the exponent `gamma` encoded (PNG's gAMA).

    Like browsers, takes the gamma of sRGB as 1/2.2, and what is within 5% of it as the same.
    """
    exponent = 1 / (gamma * 2.2)
    if abs(exponent - 1) < 0.05:
        return image
    levels = [round(255 * (level / 255) ** exponent) for level in range(256)]
    colors = len(image.getbands()) - (image.mode[-1] == "A")
    return image.point(levels * colors + list(range(256)) * (image.mode[-1] == "A"))


def rgb_profile(
    primaries: Sequence[Point], white: Point, curve: NDArray[np.float64]
) -> bytes | None:
    """An ICC profile (version 2, matrix and curve); None if the primaries span no colours.

    Args:
        primaries: CIE x and y of red, green and blue.
        white: CIE x and y.
        curve: samples to light, 0 to 1, evenly spaced.
    """
    if min(white[1], *(y for _, y in primaries)) <= 0:
        return None
    lights = np.array([[x / y, 1, (1 - x - y) / y] for x, y in (*primaries, white)]).T  # (XYZ, 4)
    if abs(np.linalg.det(lights[:, :3])) < 1e-6:
        return None
    matrix = lights[:, :3] * np.linalg.solve(lights[:, :3], lights[:, 3])
    # Bradford's adaptation to the D50 of profiles (ICC.1:2022, annex E).
    cone = np.array(
        [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
    )
    d50 = np.array([0.9642, 1.0, 0.8249])
    scale = np.diag((cone @ d50) / (cone @ lights[:, 3]))
    matrix = np.linalg.inv(cone) @ scale @ cone @ matrix

    def xyz(values: NDArray[np.float64]) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *np.round(values * 65536).astype(int))

    if np.abs(matrix).max() >= 32768:
        return None
    levels = np.round(curve * 65535).astype(">u2")
    tone = b"curv\0\0\0\0" + struct.pack(">I", len(levels)) + levels.tobytes()
    name = b"photo\0"
    described = b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(78)
    tags = [(b"desc", described), (b"wtpt", xyz(d50)), (b"cprt", b"text\0\0\0\0none\0")]
    tags += [(kind, xyz(matrix[:, n])) for n, kind in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))]
    tags += [(kind, tone) for kind in (b"rTRC", b"gTRC", b"bTRC")]
    table, data, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for kind, contents in tags:
        table += struct.pack(">4sII", kind, start + len(data), len(contents))
        data += contents + bytes(-len(contents) % 4)
    header = struct.pack(
        ">I4xI4s4s4s12x4s28x3i48x",
        start + len(data), 0x02100000, b"mntr", b"RGB ", b"XYZ ", b"acsp",
        *np.round(d50 * 65536).astype(int),
    )  # fmt: skip
    return header + table + data
