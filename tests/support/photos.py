"""Photo files of drawn garments: in every accepted format, and broken or hostile ones."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms

from samples.garments import as_file
from samples.photos import SIZE_PX, every_format, garment


def jpeg(seed: int = 15, size_px: tuple[int, int] = SIZE_PX) -> bytes:
    return as_file(garment(seed, size_px), quality=92)


FORMATS = dict(every_format())
TRUNCATED = FORMATS["jpeg"][: len(FORMATS["jpeg"]) // 2]


def chunk(kind: bytes, data: bytes, check: int | None = None) -> bytes:
    """A chunk of a PNG, with its checksum or another one."""
    check = zlib.crc32(kind + data) if check is None else check
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def with_chunk(photo: bytes, extra: bytes) -> bytes:
    """A PNG with more behind its header."""
    return photo[:33] + extra + photo[33:]


def png(
    levels: np.ndarray, bits: int, color_type: int, before: bytes = b"", interlaced: int = 0
) -> bytes:
    """A PNG of samples of any depth, (height, width) or (height, width, channels)."""
    height, width = levels.shape[:2]
    if bits < 8:
        planes = levels[..., None] >> np.arange(bits - 1, -1, -1) & 1
        rows = np.packbits(planes.reshape(height, -1).astype(np.uint8), axis=1)
    else:
        rows = levels.reshape(height, -1).astype(">u2" if bits == 16 else "u1")
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return _png(width, height, bits, color_type, interlaced, before, data)


def _png(
    width: int, height: int, bits: int, color_type: int, interlaced: int, before: bytes, data: bytes
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, interlaced)
    parts = chunk(b"IHDR", header) + before + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def forged_png(width_px: int, height_px: int) -> bytes:
    """A few bytes whose header claims that many pixels."""
    return _png(width_px, height_px, 8, 2, 0, b"", zlib.compress(b"\0" * 1000))


def blank_png(width_px: int, height_px: int, interlaced: int = 0) -> bytes:
    """A blank picture of one bit a pixel: hardly any bytes, and all of the work."""
    row = bytes(1 + -(-width_px // 8))
    return _png(width_px, height_px, 1, 0, interlaced, b"", zlib.compress(row * height_px))


def slow_photo() -> bytes:
    """A small file that is slow to decode, though not so slow that it is a large one."""
    return blank_png(1500, 1500)


def segment(marker: int, data: bytes) -> bytes:
    """A segment of a JPEG."""
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data


def with_segment(photo: bytes, marker: int, data: bytes) -> bytes:
    """A JPEG with one more segment behind its start."""
    return photo[:2] + segment(marker, data) + photo[2:]


def many_scans(scans: int, side_px: int) -> bytes:
    """A progressive JPEG, grey, of empty scans: a few bytes each, and each visits every block."""
    runs = [*[32767] * ((-(-side_px // 8)) ** 2 // 32767), (-(-side_px // 8)) ** 2 % 32767]
    bits = ""
    for run in runs:  # runs of blocks that end at once, of 2**n and n bits more
        n = run.bit_length() - 1
        bits += f"{n + 1:04b}" + (f"{run - (1 << n):0{n}b}" if n else "") if run else ""
    bits += "1" * (-len(bits) % 8)
    data = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
    data = data.replace(b"\xff", b"\xff\0")
    lengths = bytes([0, 0, 0, 15] + [0] * 12)  # 15 codes of four bits
    table = b"\x10" + lengths + bytes([0x00, *(n << 4 for n in range(14))])
    head = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64)
    head += segment(0xC2, struct.pack(">BHHB", 8, side_px, side_px, 1) + bytes([1, 0x11, 0]))
    first, refined = (segment(0xDA, bytes([1, 1, 0, 1, 63, n])) + data for n in (0x01, 0x10))
    return head + segment(0xC4, table) + first + refined * (scans - 1) + b"\xff\xd9"


def profile(space: bytes = b"RGB ", gamma: float = 2.2, swapped: bool = False) -> bytes:
    """An ICC profile, version 2: of sRGB's primaries, or with red and blue changed places; or grey.

    Who ignores the swapped one sees a wrong colour, and not a slightly paler one.
    """
    white = (0.9642, 1.0, 0.8249)
    red, green, blue = (0.436, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7139)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    tags = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", 2) + b"p\0" + bytes(78)}
    tags |= {b"cprt": b"text\0\0\0\0none\0", b"wtpt": _xyz(white)}
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        first, last = (blue, red) if swapped else (red, blue)
        tags |= {b"rXYZ": _xyz(first), b"gXYZ": _xyz(green), b"bXYZ": _xyz(last)}
        tags |= {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    return icc(b"mntr", space, b"XYZ ", tags)


def press_profile() -> bytes:
    """The ICC profile of a press whose inks darken in proportion: CMYK, a table of its corners."""
    corners = []
    for n in range(16):
        c, m, y, k = (n >> 3 & 1, n >> 2 & 1, n >> 1 & 1, n & 1)
        rgb = tuple(255 * (1 - ink) * (1 - k) for ink in (c, m, y))
        corners += _lab(rgb)
    table = b"mft2\0\0\0\0" + bytes([4, 3, 2, 0])
    table += struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table += struct.pack(">2H", 2, 2) + struct.pack(">2H", 0, 65535) * 4
    table += struct.pack(f">{len(corners)}H", *corners) + struct.pack(">2H", 0, 65535) * 3
    tags = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", 2) + b"p\0" + bytes(78)}
    tags |= {b"cprt": b"text\0\0\0\0none\0", b"wtpt": _xyz((0.9642, 1.0, 0.8249)), b"A2B0": table}
    return icc(b"prtr", b"CMYK", b"Lab ", tags)


def _lab(rgb: tuple[int, ...]) -> list[int]:
    """Three numbers of a table in a profile (ICC version 2, 16 bits), of a colour in sRGB."""
    lab = ImageCms.createProfile("LAB")
    spot = Image.new("RGB", (1, 1), rgb)
    spot = ImageCms.profileToProfile(spot, ImageCms.createProfile("sRGB"), lab, outputMode="LAB")
    light, a, b = struct.unpack("Bbb", spot.tobytes())
    return [round(light / 2.55 * 652.8), (a + 128) * 256, (b + 128) * 256]


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def icc(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of its tags, version 2."""
    table, data, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, contents in tags.items():
        table += name + struct.pack(">II", start + len(data), len(contents))
        data += contents + bytes(-len(contents) % 4)
    illuminant = _xyz((0.9642, 1.0, 0.8249))[8:]
    head = struct.pack(">I4xI", start + len(data), 0x02100000) + kind + space + connection
    head += bytes(12) + b"acsp" + bytes(28) + illuminant + bytes(48)
    return head + table + data


def in_profile(image: Image.Image, numbers_of: bytes) -> Image.Image:
    """The same colours, in the numbers of another profile."""
    target = ImageCms.ImageCmsProfile(io.BytesIO(numbers_of))
    srgb = ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, srgb, target, outputMode=image.mode)
    converted.info.clear()  # Pillow would save the profile
    return converted


def tiff(
    samples: np.ndarray,
    photometric: int,
    bits: int = 8,
    order: str = "<",
    planar: bool = False,
    tile_px: int = 0,
    **tags: list[int],
) -> bytes:
    """An uncompressed TIFF of samples, (height, width) or (height, width, channels).

    Args:
        order: "<" for II, ">" for MM.
        tile_px: side of its tiles; 0 for strips of 16 rows.
        tags: more of them: `tag_338=[2]`.
    """
    kind = f"{order}u2" if bits == 16 else "u1"
    samples = samples.reshape(*samples.shape[:2], -1)
    height, width, channels = samples.shape
    planes = [samples[..., n : n + 1] for n in range(channels)] if planar else [samples]
    side = tile_px or 16
    blocks = []
    for plane in planes:
        for top in range(0, height, side):
            rows = plane[top : top + side]
            if not tile_px:
                blocks.append(_packed(rows, bits, kind))
                continue
            padded = np.pad(rows, ((0, side - len(rows)), (0, -width % side), (0, 0)))
            blocks += [
                _packed(padded[:, left : left + side], bits, kind) for left in range(0, width, side)
            ]
    entries = {256: [width], 257: [height], 258: [bits] * channels, 259: [1], 262: [photometric]}
    entries |= {277: [channels], 284: [2 if planar else 1]}
    entries |= {int(name.removeprefix("tag_")): values for name, values in tags.items()}
    where, sizes = (324, 325) if tile_px else (273, 279)
    entries |= {322: [side], 323: [side]} if tile_px else {278: [side]}
    return tiff_file(entries, where, sizes, blocks, order)


def _packed(samples: np.ndarray, bits: int, kind: str) -> bytes:
    if bits >= 8 and bits % 8 == 0:
        return samples.astype(kind).tobytes()
    planes = samples[..., None] >> np.arange(bits - 1, -1, -1) & 1
    return np.packbits(planes.reshape(len(samples), -1).astype(np.uint8), axis=1).tobytes()


def tiff_file(
    entries: dict[int, list[int]], where: int, sizes: int, blocks: list[bytes], order: str = "<"
) -> bytes:
    """A TIFF of its tags and its strips or tiles; all values are LONG, those below 2**16 SHORT."""

    def layout(starts: list[int]) -> bytes:
        listed = entries | {where: starts, sizes: [len(block) for block in blocks]}
        at = 8 + 2 + 12 * len(listed) + 4
        directory, beyond = struct.pack(f"{order}H", len(listed)), b""
        for tag, values in sorted(listed.items()):
            code, form = (4, "I") if tag == where or max(values) > 65535 else (3, "H")
            data = struct.pack(f"{order}{len(values)}{form}", *values)
            directory += struct.pack(f"{order}HHI", tag, code, len(values))
            if len(data) > 4:
                directory += struct.pack(f"{order}I", at + len(beyond))
                beyond += data + bytes(len(data) % 2)
            else:
                directory += data.ljust(4, b"\0")
        return directory + bytes(4) + beyond

    starts, at = [], 8 + len(layout([0] * len(blocks)))
    for block in blocks:
        starts.append(at)
        at += len(block)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}I", 8) + layout(starts) + b"".join(blocks)


def bmp(pixels: np.ndarray, header_bytes: int = 108) -> bytes:
    """A BMP of 32 bits with masks; pixels are (height, width, 4), RGBA."""
    height, width, _ = pixels.shape
    data = pixels[::-1, :, [2, 1, 0, 3]].tobytes()
    head = struct.pack(
        "<IiiHHIIiiIIIIII", header_bytes, width, height, 1, 32, 3, len(data), 0, 0, 0, 0,
        0xFF0000, 0xFF00, 0xFF, 0xFF000000,
    ).ljust(header_bytes, b"\0")  # fmt: skip
    start = 14 + len(head)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + head + data


def gif_on_canvas(frame: Image.Image, canvas_px: tuple[int, int], at_px: tuple[int, int]) -> bytes:
    """A GIF whose only frame is smaller than its canvas."""
    data = bytearray(as_file(frame, "GIF"))
    data[6:10] = struct.pack("<HH", *canvas_px)
    at = 13 + (3 << ((data[10] & 7) + 1))
    while data[at] == 0x21:  # extensions, of blocks
        at += 2
        while data[at]:
            at += 1 + data[at]
        at += 1
    data[at + 1 : at + 5] = struct.pack("<HH", *at_px)
    return bytes(data)
