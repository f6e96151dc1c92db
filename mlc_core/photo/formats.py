"""Which format the bytes of a photo are of, by how they begin."""

from __future__ import annotations

from PIL import features

from mlc_core.errors import UnsupportedFormat

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

# Formats that shops meet and that are not taken.
_OTHERS = {
    "HEIC": ((4, b"ftypheic"), (4, b"ftypheix"), (4, b"ftypmif1"), (4, b"ftypmsf1")),
    "JPEG XL": ((0, b"\xff\x0a"), (4, b"JXL ")),
    "JPEG 2000": ((4, b"jP  "), (0, b"\xff\x4f\xff\x51")),
    "PSD": ((0, b"8BPS"),),
    "PDF": ((0, b"%PDF"),),
}


def format_of(photo: bytes) -> str:
    """What the bytes begin like, of FORMATS; "other" when like none."""
    for name in FORMATS:
        if any(photo[at : at + len(magic)] == magic for at, magic in _SIGNATURES[name]):
            return name
    # A file of HEIF's general brands names its codec among the compatible ones.
    if photo[4:12] in {b"ftypmif1", b"ftypmsf1"} and "AVIF" in FORMATS:
        brands = photo[16 : min(int.from_bytes(photo[:4]), 256)]
        if any(brands[at : at + 4] in {b"avif", b"avis"} for at in range(0, len(brands), 4)):
            return "AVIF"
    return "other"


def unsupported(photo: bytes) -> UnsupportedFormat:
    """The refusal of bytes that are of no accepted format."""
    for name, signatures in _OTHERS.items():
        if any(photo[at : at + len(magic)] == magic for at, magic in signatures):
            what = f"{name} is not taken"
            break
    else:
        what = "the bytes are not an image"
    return UnsupportedFormat(f"{what}; formats taken: {', '.join(FORMATS)}")
