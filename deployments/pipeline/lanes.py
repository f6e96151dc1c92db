"""Which of the two lanes a photo takes."""

from mlc_core.photo import decode_s

# A small file that takes longer to decode goes with the large ones, so that small photos never wait
# for it. An ordinary small photo takes 0.04 ms.
_LONG_S = 0.01


def is_large(photo: bytes, large_photo_bytes: int) -> bool:
    """Whether a photo goes by the lane of large photos, for its bytes or for its work."""
    return len(photo) >= large_photo_bytes or decode_s(photo) > _LONG_S
