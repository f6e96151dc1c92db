"""Claims about content codings."""

import gzip
import zlib

import pytest

from deployments.errors import MalformedRequest, RequestTooLarge, UnsupportedMediaType
from deployments.http.codings import decoded, encoded

TEXT = b"a red dress, " * 100
GZIP = gzip.compress(TEXT, mtime=0)  # pytest names a case by its bytes: without a time in them


def sent(coding):
    return [(b"host", b"a"), (b"content-encoding", coding)]


@pytest.mark.parametrize(
    ("coding", "body"),
    [(b"gzip", GZIP), (b"GZip ", GZIP), (b"x-gzip", GZIP), (b"deflate", zlib.compress(TEXT)),
     (b"identity", TEXT), (b"", TEXT)],
)  # fmt: skip
async def test_a_body_is_read_in_its_coding(coding, body):
    assert await decoded(body, sent(coding), len(TEXT)) == TEXT


async def test_a_body_without_a_coding_stays_as_it_is():
    assert await decoded(TEXT, [], 1) is TEXT


@pytest.mark.parametrize(
    ("coding", "body", "error"),
    [(b"br", TEXT, UnsupportedMediaType), (b"gzip, deflate", TEXT, UnsupportedMediaType),
     (b"gzip", TEXT, MalformedRequest), (b"gzip", b"", MalformedRequest),
     (b"gzip", GZIP[:-1], MalformedRequest),
     (b"gzip", GZIP + b"x", MalformedRequest), (b"deflate", GZIP, MalformedRequest),
     (b"gzip", gzip.compress(TEXT + b"x", mtime=0), RequestTooLarge),
     (b"deflate", zlib.compress(bytes(50_000_000), 9), RequestTooLarge)],
)  # fmt: skip
async def test_a_body_that_is_not_in_its_coding_or_too_large_is_refused(coding, body, error):
    with pytest.raises(error):
        await decoded(body, sent(coding), len(TEXT))


@pytest.mark.parametrize(
    ("accept", "coding"),
    [("gzip", "gzip"), ("deflate", "deflate"), ("gzip, deflate, br", "gzip"),
     ("deflate, gzip", "deflate"), ("gzip;q=0.5, deflate;q=0.9", "deflate"), ("gzip;q=0", ""),
     ("gzip;q=much", ""), ("br", ""), ("*", ""), ("", "")],
)  # fmt: skip
async def test_a_response_has_the_coding_that_the_client_prefers(accept, coding):
    body, chosen = await encoded(TEXT, [(b"accept-encoding", accept.encode())])
    assert chosen == coding
    assert {"gzip": gzip.decompress, "deflate": zlib.decompress, "": bytes}[coding](body) == TEXT
