"""Photos to images: the one decoding that training, evaluation and serving share.

photo bytes ── formats: what are they? ── cost: too much work? ── jpeg, png, tiff: what does
the file say, metadata aside? ── decoding: pixels ── color: to sRGB ── upright, on white, to size
"""

from mlc_core.photo.cost import MAX_DECODE_S, decode_s
from mlc_core.photo.decoding import MAX_PIXELS, decode
from mlc_core.photo.formats import FORMATS, format_of

__all__ = ["FORMATS", "MAX_DECODE_S", "MAX_PIXELS", "decode", "decode_s", "format_of"]
