"""Photos to images: the one decoding that training, evaluation and serving share."""

from __future__ import annotations

import io
import math

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

from mlc_core.errors import PhotoTooLarge, UndecodablePhoto, UnsupportedFormat
from mlc_core.spec import ImageSize

MAX_PIXELS = 50_000_000

# How the files of each format begin (offset, bytes): tells a broken photo from no photo at all.
_SIGNATURES = {
    "JPEG": ((0, b"\xff\xd8"),),
    "PNG": ((0, b"\x89PNG"),),
    "WEBP": ((8, b"WEBP"),),
    "GIF": ((0, b"GIF8"),),
    "BMP": ((0, b"BM"),),
    "TIFF": ((0, b"II*\0"), (0, b"MM\0*"), (0, b"II+\0"), (0, b"MM\0+")),
    "AVIF": ((4, b"ftypavif"), (4, b"ftypavis")),
}
FORMATS = tuple(name for name in _SIGNATURES if name != "AVIF" or features.check("avif"))

_ORIENTATION_TAGS = (b"Exif\0\0", b"tiff:Orientation")  # EXIF's, and XMP's
# What turns a photo of each EXIF orientation upright (EXIF 2.32, tag 0x0112).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(photo: bytes, size: ImageSize, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode one product photo into what the model takes.

    The photo is turned upright, laid over white where it is transparent, scaled to fit
    with its aspect ratio kept, and centred on white. Of an animation, the first frame.

    Args:
        photo: contents of an image file, as uploaded.

    Returns:
        uint8 array, shape (size.height_px, size.width_px, 3), RGB.

    Raises:
        UnsupportedFormat: the bytes are of none of FORMATS.
        UndecodablePhoto: not an image that Pillow can read, or truncated.
        PhotoTooLarge: more than max_pixels.
    """
    pixels = _decode_jpeg(photo, size, max_pixels) if photo.startswith(b"\xff\xd8") else None
    return _decode_with_pillow(photo, size, max_pixels) if pixels is None else pixels


def _decode_jpeg(photo: bytes, size: ImageSize, max_pixels: int) -> NDArray[np.uint8] | None:
    """The pixels that Pillow would decode, by libjpeg-turbo alone, in a quarter of the time.

    Returns:
        None for what only Pillow takes: CMYK, and files that libjpeg-turbo warns about.
    """
    try:
        height_px, width_px, colorspace, _ = simplejpeg.decode_jpeg_header(photo)
    except ValueError:
        return None
    if colorspace not in {"YCbCr", "Gray"}:
        return None
    _refuse_too_large(width_px, height_px, max_pixels)
    tagged = any(tag in photo for tag in _ORIENTATION_TAGS)
    orientation = _orientation(_open(photo)) if tagged else 1
    fitted = _fit((width_px, height_px), size, rotated=orientation >= 5)
    scale = _jpeg_scale((width_px, height_px), fitted)
    try:
        pixels = simplejpeg.decode_jpeg(
            photo, "RGB",
            min_height=math.ceil(height_px / scale), min_width=math.ceil(width_px / scale),
        )  # fmt: skip
    except ValueError:
        return None
    if orientation == 1 and pixels.shape == (size.height_px, size.width_px, 3):
        return pixels  # type: ignore[no-any-return]
    return _fitted(Image.fromarray(pixels), orientation, size)


def _decode_with_pillow(photo: bytes, size: ImageSize, max_pixels: int) -> NDArray[np.uint8]:
    image = _open(photo)
    _refuse_too_large(image.width, image.height, max_pixels)
    try:
        return _to_size(image, size)
    except UndecodablePhoto:
        raise
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever they stumble over
        raise UndecodablePhoto(f"the {image.format} photo can't be decoded: {error}") from error


def format_of(photo: bytes) -> str:
    """What the bytes begin like, of FORMATS; "other" when like none."""
    for name in FORMATS:
        if any(photo[at : at + len(magic)] == magic for at, magic in _SIGNATURES[name]):
            return name
    return "other"


def _open(photo: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(photo), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise PhotoTooLarge(f"the photo has far too many pixels: {error}") from error
    except UnidentifiedImageError as error:
        if (name := format_of(photo)) != "other":
            raise UndecodablePhoto(f"the {name} photo is damaged: no header") from error
        taken = ", ".join(FORMATS)
        raise UnsupportedFormat(f"the bytes are not an image; formats taken: {taken}") from error
    except Exception as error:  # Pillow's header parsers too
        raise UndecodablePhoto(f"the photo is damaged: {error}") from error


def _refuse_too_large(width_px: int, height_px: int, max_pixels: int) -> None:
    if width_px * height_px > max_pixels:
        raise PhotoTooLarge(
            f"the photo has {width_px}×{height_px} pixels, over the limit of {max_pixels}; "
            "send a smaller version"
        )


def _jpeg_scale(pixels: tuple[int, int], fitted: tuple[int, int]) -> int:
    """The divisor, 1, 2, 4 or 8, at which a JPEG is decoded for a fraction of the cost.

    At least twice the final size remains, so that the resampling, not the decoder, decides the
    result.
    """
    ratio = min(pixels[0] // (2 * fitted[0]), pixels[1] // (2 * fitted[1]))
    return next((scale for scale in (8, 4, 2) if ratio >= scale), 1)


def _to_size(image: Image.Image, size: ImageSize) -> NDArray[np.uint8]:
    orientation = _orientation(image)
    width_px, height_px = _fit(image.size, size, rotated=orientation >= 5)
    image.draft(None, (2 * width_px, 2 * height_px))  # at _jpeg_scale, as Pillow chooses it
    image.load()
    return _fitted(_to_8_bit(image), orientation, size)


def _fitted(image: Image.Image, orientation: int, size: ImageSize) -> NDArray[np.uint8]:
    """An RGB or RGBA image, turned upright, scaled to fit, on white."""
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    fitted = _fit(image.size, size)
    if image.size != fitted:
        image = image.resize(fitted, Image.Resampling.BICUBIC, reducing_gap=3.0)
    if image.mode == "RGBA":
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        image = white
    if image.size != (size.width_px, size.height_px):
        image = ImageOps.pad(image, (size.width_px, size.height_px), color="white")
    return np.asarray(image)


def _fit(pixels: tuple[int, int], size: ImageSize, rotated: bool = False) -> tuple[int, int]:
    """The largest (width, height) with the photo's aspect ratio that `size` holds."""
    box = (size.height_px, size.width_px) if rotated else (size.width_px, size.height_px)
    scale = min(box[0] / pixels[0], box[1] / pixels[1])
    return max(1, round(pixels[0] * scale)), max(1, round(pixels[1] * scale))


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 where there is none, or Pillow applies it while loading (TIFF)."""
    if image.format == "TIFF":
        return 1
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # metadata that can't be parsed spoils no picture
        return 1


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Any mode Pillow decodes to -> RGB, or RGBA where something is transparent."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16 bit a pixel, whether as I;16, I;16B or I
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.mode == "F":
        raise UndecodablePhoto("floating-point pixels have no defined white; send 8 or 16 bit")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")
