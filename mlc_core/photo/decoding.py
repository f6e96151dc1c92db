"""From the bytes of a photo to the image that the model takes."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    WebPImagePlugin,
)

from mlc_core.errors import PhotoFault, PhotoTooLarge, UndecodablePhoto
from mlc_core.photo import color, cost, jpeg, png, tiff, webp
from mlc_core.photo.formats import format_of, unsupported
from mlc_core.spec import ImageSize

MAX_PIXELS = 50_000_000

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
_REDUCING_GAP = 3.0


def decode(photo: bytes, size: ImageSize, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode one product photo into what the model takes.

    The photo is turned upright, its colours become sRGB, it is laid over white where it is
    transparent, scaled to fit with its aspect ratio kept, and centred on white. Of an animation or
    of several pages, the first.

    Args:
        photo: contents of an image file, as uploaded.

    Returns:
        uint8 array, shape (size.height_px, size.width_px, 3), RGB.

    Raises:
        UnsupportedFormat: the bytes are of none of FORMATS.
        UndecodablePhoto: damaged or truncated, or of a kind that is not taken.
        PhotoTooLarge: more than max_pixels.
        PhotoTooCostly: within the limits, but decoding it would take too long.
    """
    if photo.startswith(b"\xff\xd8"):
        return _decode_jpeg(photo, size, max_pixels)
    name = format_of(photo)
    if name == "other":
        raise unsupported(photo)
    return _guarded(name, lambda: _decode_with_pillow(photo, name, size, max_pixels))


def _guarded(name: str, decoder: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Turn what Pillow raises into an UndecodablePhoto."""
    try:
        return decoder()
    except (PhotoFault, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise PhotoTooLarge(f"the photo has far too many pixels: {error}") from error
    except Exception as error:  # Pillow's decoders raise whatever they stumble over
        why = str(error) or type(error).__name__
        raise UndecodablePhoto(f"the {name} photo can't be decoded: {why}") from error


def _decode_jpeg(photo: bytes, size: ImageSize, max_pixels: int) -> NDArray[np.uint8]:
    header = jpeg.read(photo)
    try:
        height_px, width_px, colorspace, _ = simplejpeg.decode_jpeg_header(photo)
    except ValueError:
        colorspace = ""
    else:
        cost.refuse_too_large(width_px, height_px, max_pixels)
    if header.visited:
        cost.refuse_scans(header)
    if colorspace in {"YCbCr", "Gray"}:
        pixels = _decode_with_simplejpeg(
            photo, header, (width_px, height_px), colorspace == "Gray", size
        )
        if pixels is not None:
            return pixels
    return _guarded("JPEG", lambda: _decode_jpeg_with_pillow(photo, size, max_pixels))


def _decode_with_simplejpeg(
    photo: bytes, header: jpeg.Jpeg, pixels: tuple[int, int], grey: bool, size: ImageSize
) -> NDArray[np.uint8] | None:
    """The pixels that Pillow would decode, by libjpeg-turbo alone, in a quarter of the time.

    Returns:
        None for what libjpeg-turbo warns about; Pillow takes it.
    """
    width_px, height_px = pixels
    orientation = _orientation_of(header.info)
    fitted = _fit(pixels, size, rotated=orientation >= 5)
    scale = _jpeg_scale(pixels, fitted)
    try:
        array = simplejpeg.decode_jpeg(
            photo, "RGB",
            min_height=math.ceil(height_px / scale), min_width=math.ceil(width_px / scale),
        )  # fmt: skip
    except ValueError:
        return None
    transform = header.profile and color.transform_of(header.profile, "L" if grey else "RGB")
    if orientation == 1 and not transform and array.shape == (size.height_px, size.width_px, 3):
        return array  # type: ignore[no-any-return]
    image = Image.fromarray(array)
    if transform:
        image = color.to_srgb(image.getchannel(0) if grey else image, transform)
    return _fitted(image, orientation, size)


def _decode_jpeg_with_pillow(photo: bytes, size: ImageSize, max_pixels: int) -> NDArray[np.uint8]:
    header = jpeg.read_all(photo)
    if not header.scans:
        raise UndecodablePhoto("the JPEG photo is damaged: it ends before its picture begins")
    image = JpegImagePlugin.JpegImageFile(io.BytesIO(jpeg.without_metadata(photo, header)))
    cost.refuse_too_large(image.width, image.height, max_pixels)
    orientation = _orientation_of(header.info)
    width_px, height_px = _fit(image.size, size, rotated=orientation >= 5)
    image.draft(None, (2 * width_px, 2 * height_px))  # at _jpeg_scale, as Pillow chooses it
    image.load()
    return _fitted(_to_srgb(image, header.profile, size), orientation, size)


def _decode_with_pillow(
    photo: bytes, name: str, size: ImageSize, max_pixels: int
) -> NDArray[np.uint8]:
    cost.refuse(photo, name, max_pixels)
    gamma = None
    if name == "PNG":
        file = png.read(photo)
        image: Image.Image = png.open_(file)
        profile, gamma = file.profile, file.gamma
        orientation = _orientation(image)
        image = png.load(image, file)
    elif name == "TIFF":
        directory = tiff.read(photo)
        image = tiff.open_(directory)
        cost.refuse_too_large(image.width, image.height, max_pixels)
        profile = image.info.get("icc_profile")
        orientation = 1  # Pillow turns it while it loads
        tiff.load(image, directory)
        image = tiff.to_8_bit(image, directory)
    else:
        opened = _PLUGINS[name](io.BytesIO(webp.cleaned(photo) if name == "WEBP" else photo))
        cost.refuse_too_large(opened.width, opened.height, max_pixels)
        profile = opened.info.get("icc_profile")
        if profile is None and name == "AVIF":
            profile = _avif_profile(photo)
        orientation = _orientation(opened)
        image = _load(opened)
    return _fitted(_to_srgb(image, profile, size, gamma), orientation, size)


_PLUGINS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "AVIF": AvifImagePlugin.AvifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}


def _avif_profile(photo: bytes) -> bytes | None:
    """The profile of the code points that an AVIF has instead of one (ISO/IEC 23000-22)."""
    at = photo.find(b"colrnclx", 0, 2**16)
    if at < 0 or at + 12 > len(photo):
        return None
    return color.coded_profile(
        int.from_bytes(photo[at + 8 : at + 10]), int.from_bytes(photo[at + 10 : at + 12])
    )


def _load(image: ImageFile.ImageFile) -> Image.Image:
    """The loaded picture of a GIF, BMP, WebP or AVIF."""
    box = image.tile[0].extents if image.format == "GIF" and image.tile else None
    uncovered = box is not None and box != (0, 0, *image.size) and "transparency" not in image.info
    image.load()
    if uncovered:  # what no frame covers is transparent, as in browsers
        whole = Image.new("RGBA", image.size)
        whole.paste(image.crop(box).convert("RGB"), box)
        return whole
    if (
        image.format == "BMP"
        and image.mode == "RGBA"
        and image.getchannel("A").getextrema()[1] == 0
    ):
        return image.convert("RGB")  # the alpha was never written: Windows and browsers show it
    return image


def _to_srgb(
    image: Image.Image, profile: bytes | None, size: ImageSize, gamma: float | None = None
) -> Image.Image:
    """The picture in sRGB: RGB, or RGBA where something is transparent.

    A large one with a profile is first reduced, as _fitted would do next: a profile takes 20 ns for
    each pixel.
    """
    if image.mode == "LAB":
        return color.lab_to_srgb(_reduced(image, size))
    transparent = image.has_transparency_data
    if image.mode == "1" or (profile and image.mode in {"L", "LA"}):
        image = image.convert("LA" if transparent else "L")
    elif image.mode in {"P", "PA", "RGB", "YCbCr"} and (transparent or image.mode != "RGB"):
        image = image.convert("RGBA" if transparent else "RGB")
    transform = color.transform_of(profile, image.mode)
    if transform:
        return color.to_srgb(_reduced(image, size), transform)
    if image.mode not in {"RGB", "RGBA"}:
        image = image.convert("RGBA" if transparent else "RGB")
    return image if gamma is None else color.with_gamma(image, gamma)


def _reduced(image: Image.Image, size: ImageSize) -> Image.Image:
    """A large image, so far reduced that _fitted does not average again."""
    longest = max(size.width_px, size.height_px)
    factor = int(min(image.size) / longest / _REDUCING_GAP)
    return image.reduce(factor) if factor > 1 else image


def _jpeg_scale(pixels: tuple[int, int], fitted: tuple[int, int]) -> int:
    """The divisor, 1, 2, 4 or 8, at which a JPEG is decoded for a fraction of the cost.

    At least twice the final size remains, so that the resampling, not the decoder, decides the
    result.
    """
    ratio = min(pixels[0] // (2 * fitted[0]), pixels[1] // (2 * fitted[1]))
    return next((scale for scale in (8, 4, 2) if ratio >= scale), 1)


def _fitted(image: Image.Image, orientation: int, size: ImageSize) -> NDArray[np.uint8]:
    """An RGB or RGBA image, turned upright, scaled to fit, on white."""
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    fitted = _fit(image.size, size)
    if image.size != fitted:
        image = image.resize(fitted, Image.Resampling.BICUBIC, reducing_gap=_REDUCING_GAP)
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


def _orientation_of(info: dict[str, bytes]) -> int:
    """As _orientation, of the metadata of a JPEG."""
    if not info:
        return 1
    bearer = Image.new("1", (1, 1))
    bearer.info.update(info)
    return _orientation(bearer)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 where there is none that makes sense."""
    try:
        orientation = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # metadata that can't be parsed spoils no picture
        return 1
    return orientation if orientation in _UPRIGHT else 1
