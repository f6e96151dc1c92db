"""What a JPEG says beside its picture: orientation, colour profile, and how much work it is.

Decodes nothing. Follows ISO/IEC 10918-1, annex B.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from mlc_core.errors import PhotoTooCostly, UndecodablePhoto

_SOS = b"\xff\xda"
# APP1, APP2, progressive frames, scans.
_REMARKABLE = re.compile(rb"\xff[\xe1\xe2\xc2\xc6\xca\xce\xda]")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
# They say what the components are (T.871, T.872).
_COLOR_MARKERS = {0xE0: b"JFIF\0", 0xEE: b"Adobe"}
_COLOR_MARKER_BYTES = 12
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_MANY_OR_ODD = _FRAMES - {0xC0, 0xC1} | {0x00, 0x01, *range(0xD0, 0xDA), 0xFF}
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a segment
_MARKER = re.compile(rb"\xff[^\xff]")
# Entropy-coded data ends at a marker that is no stuffed byte, no restart and no fill byte.
_END_OF_SCAN = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_PLAIN_BYTES = 2**14
# A decoder takes 1.7 ns for each, 2 s in all: 50 megapixels with 24 scans of the slowest kind.
MAX_VISITED = 1.2e9
# What other scans take, and keeping the coefficients and transforming them at last.
_FAST, _KEPT = 0.35, 0.6
_MAX_SEGMENTS = 1000  # a camera writes dozens; ICC and XMP of 10 MB take 160

_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_ICC = b"ICC_PROFILE\0"


class Jpeg(NamedTuple):
    """What a decoder needs to know of a JPEG before it begins.

    Attributes:
        info: `exif` and `xmp`, as Pillow keeps them.
        profile: the embedded ICC profile, if all of its parts are there.
        visited: samples that a decoder visits, over all scans, in the time of the slowest kind of
            scan; 0 if there is one scan.
        scan_bytes: entropy-coded bytes of all scans; 0 if there is one scan.
        scans: how many scans there are, counted up to MAX_VISITED.
        essential: ranges of the bytes that the picture needs: everything but metadata.
    """

    info: dict[str, bytes]
    profile: bytes | None
    visited: float
    scan_bytes: int
    scans: int
    essential: list[tuple[int, int]]


_PLAIN = Jpeg({}, None, 0, 0, 1, [])


def read(photo: bytes) -> Jpeg:
    """Read the segments of a JPEG.

    Raises:
        UndecodablePhoto: its samples have another depth than 8 bits.
        PhotoTooCostly: it has more segments than any camera writes.
    """
    # Of a small photo without metadata there is nothing to learn, and this takes a microsecond.
    if len(photo) < _PLAIN_BYTES:
        first = _REMARKABLE.search(photo)
        if first and first[0] == _SOS and photo.rfind(_SOS) == first.start():
            return _PLAIN
    return _of_one_scan(photo) or read_all(photo)


def _of_one_scan(photo: bytes) -> Jpeg | None:
    """As read_all, in a third of the time; None for what is not a sound file with one scan."""
    info: dict[str, bytes] = {}
    parts: dict[int, tuple[int, bytes]] = {}
    at, components, last = 2, 0, len(photo) - 10
    for _ in range(_MAX_SEGMENTS):
        if at > last or photo[at] != 0xFF:
            return None
        marker, end = photo[at + 1], at + 2 + (photo[at + 2] << 8 | photo[at + 3])
        if marker == _START_OF_SCAN:
            whole = components and photo[at + 4] == components
            return Jpeg(info, _joined(parts), 0, 0, 1, []) if whole else None
        if marker in _MANY_OR_ODD:
            return None
        if marker in {0xC0, 0xC1}:
            components = photo[at + 9]
        elif marker in {0xE1, 0xE2}:
            _read_metadata(photo[at + 4 : end], marker, info, parts)
        at = end
    return None


def read_all(photo: bytes) -> Jpeg:
    """As read, in every detail."""
    info: dict[str, bytes] = {}
    parts: dict[int, tuple[int, bytes]] = {}
    shares: dict[int, float] = {}  # component -> its samples
    essential, visited, scan_bytes, scans, many = [(0, 2)], 0.0, 0, 0, False
    scan = 0  # where the entropy-coded bytes of the last scan begin
    for marker, start, data, end in _segments(photo):
        scan_bytes += start - scan if scan else 0
        scan = 0
        if marker in _FRAMES and not shares:
            shares = _samples(photo, data, end)
            many = marker in _PROGRESSIVE
        elif marker == _START_OF_SCAN and data < end:
            components = photo[data + 1 : data + 1 + 2 * photo[data] : 2]
            many = many or len(components) < len(shares)
            scans += 1
            visited += _KEPT * sum(shares.values()) if scans == 1 else 0
            slow = _refines_ac(photo[data:end])
            visited += sum(shares.get(name, 0) for name in components) * (1 if slow else _FAST)
            if not many:
                essential.append((start, len(photo)))
                return Jpeg(info, _joined(parts), 0, 0, 1, essential)
            scan = end
            if visited > MAX_VISITED:
                break
        elif 0xE0 <= marker <= 0xEF or marker == 0xFE:
            _read_metadata(photo[data:end], marker, info, parts)
            if not _says_color(photo[data:end], marker):
                continue
        if not scans:
            essential.append((start, end))
        elif scans == 1 and marker == _START_OF_SCAN:
            essential.append((start, len(photo)))
    scan_bytes += len(photo) - scan if scan else 0
    return Jpeg(info, _joined(parts), visited, scan_bytes, scans, essential)


def _refines_ac(scan: bytes) -> bool:
    """Whether a scan goes through what it visits coefficient by coefficient, by its header."""
    return len(scan) > 3 and scan[-3] > 0 and scan[-1] >> 4 > 0


def _says_color(data: bytes, marker: int) -> bool:
    return len(data) >= _COLOR_MARKER_BYTES and data.startswith(_COLOR_MARKERS.get(marker, ()))


def without_metadata(photo: bytes, jpeg: Jpeg) -> bytes:
    """The same picture without the segments that no decoder needs."""
    return b"".join(photo[start:end] for start, end in jpeg.essential) if jpeg.essential else photo


def _segments(photo: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(marker, start, start of its data, end) up to the end of the image, or of the file."""
    at, size = 2, len(photo)
    for _ in range(_MAX_SEGMENTS):
        match = _MARKER.search(photo, at)  # decoders skip what is between two segments
        if not match:
            return
        at, marker = match.start(), match[0][1]
        if marker == _END_OF_IMAGE:
            yield marker, at, at, at
            return
        if marker in _BARE or marker == 0:
            at += 2
            continue
        if at + 4 > size:
            return
        (length,) = struct.unpack_from(">H", photo, at + 2)
        end = min(at + 2 + max(length, 2), size)
        yield marker, at, at + 4, end
        at = end
        if marker == _START_OF_SCAN:
            match = _END_OF_SCAN.search(photo, end)
            if not match:
                return
            at = match.start()
    raise PhotoTooCostly(
        f"the JPEG photo has over {_MAX_SEGMENTS} segments or scans; save it as a baseline JPEG"
    )


def _samples(photo: bytes, data: int, end: int) -> dict[int, float]:
    """Component -> how many samples it has, of a frame header."""
    if end - data < 6:
        return {}
    bits, height_px, width_px, count = struct.unpack_from(">BHHB", photo, data)
    if bits != 8:
        raise UndecodablePhoto(f"JPEG of {bits} bits a sample is not taken; save it with 8 bits")
    factors = {
        photo[at]: (photo[at + 1] >> 4) * (photo[at + 1] & 15)
        for at in range(data + 6, min(data + 6 + 3 * count, end - 2), 3)
    }
    largest = max(factors.values(), default=1) or 1
    return {name: height_px * width_px * factor / largest for name, factor in factors.items()}


def _read_metadata(
    data: bytes, marker: int, info: dict[str, bytes], parts: dict[int, tuple[int, bytes]]
) -> None:
    if marker == 0xE1 and data.startswith(_EXIF):
        info["exif"] = info["exif"] + data[len(_EXIF) :] if "exif" in info else data
    elif marker == 0xE1 and data.startswith(_XMP):
        info["xmp"] = data[len(_XMP) :]
    elif marker == 0xE2 and data.startswith(_ICC) and len(data) >= len(_ICC) + 2:
        number, count = data[len(_ICC)], data[len(_ICC) + 1]
        parts.setdefault(number, (count, data[len(_ICC) + 2 :]))


def _joined(parts: dict[int, tuple[int, bytes]]) -> bytes | None:
    """The ICC profile of its parts (ICC.1:2022, B.4); None unless all are there."""
    counts = {count for count, _ in parts.values()}
    if not parts or counts != {len(parts)} or set(parts) != set(range(1, len(parts) + 1)):
        return None
    return b"".join(parts[number][1] for number in sorted(parts))
