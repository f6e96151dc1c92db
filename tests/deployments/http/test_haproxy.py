"""Claims about HAProxy with our rules in the configuration that this version of Ray generates."""

import asyncio
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions

from deployments.http import draining, haproxy
from deployments.http.haproxy import BINARY, COMMAND, LARGEST_REFUSED_BYTES, with_our_rules
from launcher.processes import free_ports

CLASSIFY = "/v1/classify"
PHOTO = b"photo" * 100
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
PORTS = free_ports()
_MANAGER = "import signal, subprocess, sys; subprocess.Popen(sys.argv[1:]); signal.pause()"


PLAIN = b"HTTP/1.1 500 Oops\r\ncontent-type: text/plain\r\ncontent-length: 4\r\n\r\noops"


def refusal(for_ms):
    return (
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 7\r\n"
        f"x-mlc-refuse-ms: {for_ms}\r\nx-mlc-refuse-below-bytes: {LARGEST_REFUSED_BYTES}\r\n\r\n"
    ).encode()


class Ingress:
    """Notes the heads of requests, and answers them with `responses`, then with OK."""

    def __init__(self):
        self.heads, self.responses, self.connections = [], [], set()

    async def start(self, port=0):
        self._server = await asyncio.start_server(self.serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self):
        self._server.close()
        for connection in self.connections:
            connection.cancel()
        await asyncio.gather(*self.connections, return_exceptions=True)

    async def serve(self, reader, writer):
        self.connections.add(asyncio.current_task())
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                if "chunked" in head:
                    await reader.readuntil(b"0\r\n\r\n")
                elif "content-length: " in head:
                    await reader.readexactly(int(head.split("content-length: ")[1].split()[0]))
                healthy = head.startswith("get /-/healthz")
                if not healthy:
                    self.heads.append(head)
                response = OK if healthy or not self.responses else self.responses.pop(0)
                writer.write(response)
                if not response:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # HAProxy has closed the connection
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


class Proxy:
    """HAProxy as Ray runs it on a node, in front of one ingress, or of none."""

    def __init__(self, folder: Path, *ingress_ports: int):
        self.port, self._has_ingress = next(PORTS), bool(ingress_ports)
        self._managers = []
        config = HAProxyConfig(
            socket_path=str(folder / "admin.sock"), server_state_base=str(folder),
            server_state_file=str(folder / "state"), nbthread=1, log_target="/dev/null",
            stats_port=next(PORTS), metrics_port=next(PORTS), metrics_enabled=False, is_head=True,
            has_received_routes=True, has_received_servers=True,
            http_options=HTTPOptions(host="127.0.0.1", port=self.port),
        )  # fmt: skip
        self.file = folder / "haproxy.cfg"
        self._api = HAProxyApi(config, {}, str(self.file))
        self.name_ingresses(*ingress_ports)

    def name_ingresses(self, *ports):
        """Generate the configuration for some ingresses, or as if no replica were known."""
        backends = {}
        if ports:
            backends["mlc"] = BackendConfig(
                "mlc", "/", app_name="mlc", ingress_deployment_name="Ingress",
                servers=[ServerConfig(f"ingress-{port}", "127.0.0.1", port) for port in ports],
            )  # fmt: skip
        self._api.set_backend_configs(backends)
        self._api._generate_config_file_internal()

    def generate(self, **config):
        """Generate the configuration with other values."""
        for name, value in config.items():
            setattr(self._api.cfg, name, value)
        self._api._generate_config_file_internal()

    async def set_variable(self, name, value):
        command = f"experimental-mode on; set var proc.{name} int({value})"
        await self._api._send_socket_command(command)

    @property
    def running(self):
        """The HAProxy processes with this configuration."""
        return [
            each
            for each in psutil.process_iter(["cmdline"])
            if (line := each.info["cmdline"]) and str(self.file) in line
            and line[0].endswith("/haproxy")
        ]  # fmt: skip

    async def start(self, *options):
        """Start it as Ray does, by a process that manages it. It gets the options of a reload."""
        command = Path(sys.executable).with_name(COMMAND)
        env = os.environ | {BINARY: str(command)}
        self.manager = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _MANAGER,
            command, "-db", "-dR", "-f", self.file, *options, env=env, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._managers.append(self.manager)

    async def __aenter__(self):
        await self.start()
        self.client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}", timeout=20, trust_env=False
        )
        try:
            async with asyncio.timeout(20):
                while not await self._listens():
                    await asyncio.sleep(0.02)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_):
        await self.client.aclose()
        for process in psutil.process_iter(["cmdline"]):
            if str(self.file) in (process.info["cmdline"] or ()):
                process.kill()
        for manager in self._managers:
            await manager.wait()

    async def _listens(self):
        """Once HAProxy listens, and has found the ingress healthy if there is one."""
        try:
            status = (await self.client.get("/-/healthz")).status_code
        except httpx.TransportError:
            return False
        return status == 200 or not self._has_ingress

    async def post(self, content=PHOTO, path=CLASSIFY, **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(path, content=content, headers=named)


@pytest.fixture
async def ingress():
    ingress = Ingress()
    await ingress.start()
    yield ingress
    await ingress.stop()


next_ingress = ingress


@pytest.fixture
async def proxy(tmp_path, ingress):
    async with Proxy(tmp_path, ingress.port) as proxy:
        yield proxy


def assert_problem(response, status, name):
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"]
    problem = response.json()
    assert problem["type"] == f"urn:problem-type:mlc:{name}"
    assert problem["status"] == status
    return problem


async def test_an_ingress_that_refuses_has_haproxy_refuse_the_next_photos(proxy, ingress):
    ingress.responses = [refusal(for_ms=60_000)]
    first = await proxy.post()
    assert first.status_code == 503
    assert not [name for name in first.headers if name.startswith("x-mlc")]
    for request_id in ("r-1", "not sane"):
        refused = await proxy.post(x_request_id=request_id)
        problem = assert_problem(refused, 503, "overloaded")
        assert refused.headers["retry-after"] == "7"
        assert refused.headers["x-request-id"] == problem["request_id"]
        assert (problem["request_id"] == request_id) == (request_id == "r-1")
    assert len(ingress.heads) == 1


async def test_haproxy_keeps_the_connection_of_a_photo_that_it_refuses(proxy, ingress):
    ingress.responses = [refusal(for_ms=60_000)]
    await proxy.post()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    for _ in range(2):
        # Head and body in two segments.
        writer.write(f"POST {CLASSIFY} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n".encode())
        await writer.drain()
        await asyncio.sleep(0)
        writer.write(b"body")
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 503 " in head
        length = int(head.lower().split(b"content-length: ")[1].split()[0])
        assert json.loads(await reader.readexactly(length))["title"] == "Overloaded"
    writer.close()


async def test_haproxy_passes_on_whatever_the_refusal_is_not_for(proxy, ingress):
    async def chunks():
        yield PHOTO

    ingress.responses = [refusal(for_ms=60_000)]
    await proxy.post()
    large = b"x" * LARGEST_REFUSED_BYTES
    assert (await proxy.post(large)).status_code == 200
    assert (await proxy.post(chunks())).status_code == 200
    assert (await proxy.post(path=f"{CLASSIFY}/batch")).status_code == 200
    assert (await proxy.client.get("/v1/model")).status_code == 200


async def test_the_ingress_learns_how_many_were_refused_when_photos_are_passed_on_again(
    proxy, ingress
):
    ingress.responses = [refusal(for_ms=1)]
    await proxy.post()
    async with asyncio.timeout(20):
        while (await proxy.post()).status_code != 200:  # within the millisecond, or not
            pass
    ingress.responses = [refusal(for_ms=60_000)]
    await proxy.post()
    for _ in range(3):
        await proxy.post()
    ingress.heads.clear()
    ingress.responses = [refusal(for_ms=0)]
    assert (await proxy.post(b"x" * LARGEST_REFUSED_BYTES)).status_code == 503
    assert "x-mlc-refused: 3\r\n" in ingress.heads[0]
    assert (await proxy.post(x_mlc_refused="1000000")).status_code == 200
    assert "x-mlc-refused" not in ingress.heads[1]


async def test_an_ingress_that_dies_while_it_answers_is_a_503(proxy, ingress):
    ingress.responses = [b""] * 10
    response = await proxy.post()
    assert_problem(response, 503, "unavailable")
    assert response.headers["retry-after"] == "1"


async def test_what_a_lost_ingress_had_not_answered_goes_to_another_one(proxy, ingress):
    assert (await proxy.post()).status_code == 200  # the connection is kept
    ingress.responses = [b""]
    assert (await proxy.post()).status_code == 200


async def until(holds):
    async with asyncio.timeout(20):
        while not await holds():
            await asyncio.sleep(0.02)


async def successor(proxy, first):
    """The HAProxy that takes over from another one without a lost request."""

    async def is_alone():
        assert (await proxy.post()).status_code == 200  # so that no connection stays idle
        running = proxy.running
        return len(running) == 1 and running != [first]

    await until(is_alone)
    return proxy.running[0]


async def test_a_haproxy_that_is_killed_starts_again_and_its_manager_ends(proxy):
    (killed,) = proxy.running
    killed.kill()

    async def is_back():
        return killed not in proxy.running and await proxy._listens()

    await until(is_back)
    assert await proxy.manager.wait() < 0  # Serve starts another one
    (restarted,) = proxy.running
    await proxy.start()
    await successor(proxy, restarted)


async def test_a_haproxy_that_serve_replaces_stays_away(proxy):
    (first,) = proxy.running
    manager = proxy.manager
    await proxy.start("-sf", str(first.pid), "-x", str(proxy.file.with_name("admin.sock")))
    second = await successor(proxy, first)
    await asyncio.sleep(0.3)  # the watcher of the first one decides within 0.1 s
    assert proxy.running == [second]
    assert manager.returncode is None
    manager.kill()


async def test_the_last_ingresses_are_kept_while_serve_knows_none(proxy):
    proxy.name_ingresses()
    (first,) = proxy.running
    await proxy.start("-sf", str(first.pid))
    await until(proxy._listens)
    assert (await proxy.post()).status_code == 200


async def lose(ingress, proxy):
    """End the only ingress; return photos that came afterwards, and wait."""
    await ingress.stop()

    async def is_down():
        response = await proxy.client.get("/v1/model")
        return response.status_code == 503

    await until(is_down)
    sizes = (100, LARGEST_REFUSED_BYTES + 1)
    return [asyncio.create_task(proxy.post(b"x" * size)) for size in sizes for _ in range(40)]


async def test_photos_wait_while_no_ingress_is_up(proxy, ingress):
    waiting = await lose(ingress, proxy)
    waiting.append(asyncio.create_task(proxy.post(path="/v2/models/fashion/infer")))
    for path in ("/v1/model", "/v2/models/fashion/ready"):
        assert_problem(await proxy.client.get(path), 503, "unavailable")
    assert not any(each.done() for each in waiting)
    await ingress.start(ingress.port)
    assert {each.status_code for each in await asyncio.gather(*waiting)} == {200}


async def test_photos_that_wait_reach_an_ingress_that_only_the_next_haproxy_knows(
    proxy, ingress, next_ingress
):
    waiting = await lose(ingress, proxy)
    for ports in ((), (next_ingress.port,)):  # Serve first removes the lost one
        first = proxy.running[-1]
        proxy.name_ingresses(*ports)
        await proxy.start("-sf", str(first.pid), "-x", str(proxy.file.with_name("admin.sock")))

        async def is_replaced():
            return first not in proxy.running or proxy.running[-1] != first  # noqa: B023

        await until(is_replaced)
    assert {each.status_code for each in await asyncio.gather(*waiting)} == {200}
    assert len(next_ingress.heads) == len(waiting)


async def test_photos_do_not_wait_for_ever(proxy, ingress):
    waiting = await lose(ingress, proxy)
    for response in await asyncio.gather(*waiting):
        assert_problem(response, 503, "unavailable")
        assert response.headers["retry-after"] == "1"


async def test_before_serve_names_the_application_the_client_is_told_to_wait(tmp_path):
    async with Proxy(tmp_path) as proxy:
        response = await proxy.post()
        assert_problem(response, 503, "unavailable")
        assert response.headers["retry-after"] == "1"


async def test_a_plain_error_of_serve_is_a_problem_that_says_to_try_again(proxy, ingress):
    ingress.responses = [PLAIN]
    response = await proxy.post()
    assert_problem(response, 503, "unavailable")
    assert response.headers["retry-after"] == "1"


async def test_an_old_connection_is_closed_with_a_response(proxy):
    assert "connection" not in (await proxy.post()).headers
    await proxy.set_variable("keep_s", -30)
    assert "connection" not in (await proxy.post()).headers  # one that is kept
    async with httpx.AsyncClient(base_url=proxy.client.base_url, trust_env=False) as client:
        for path in (CLASSIFY, "/-/healthz"):
            assert (await client.get(path)).headers["connection"] == "close"


async def test_clients_leave_a_node_that_drains_and_mlc_drain_waits_for_them(proxy, capsys):
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    words = ["--at-least-s=0", f"--folder={proxy.file.parent}"]
    drain = asyncio.create_task(asyncio.to_thread(draining.main, words))
    request = f"GET {CLASSIFY} HTTP/1.1\r\nHost: x\r\n\r\n".encode()

    async def is_told():
        return (await proxy.post()).headers.get("connection") == "close"

    await until(is_told)
    assert not drain.done()
    writer.write(request)
    assert b"connection: close" in (await reader.read()).lower()
    writer.close()
    await drain
    assert capsys.readouterr().out.startswith("0 connections left")
    # The next HAProxy knows it from the start.
    proxy.generate()
    (first,) = proxy.running
    await proxy.start("-sf", str(first.pid))
    await successor(proxy, first)
    assert (await proxy.post()).headers["connection"] == "close"


async def test_mlc_drain_gives_up_on_clients_that_stay(proxy, capsys):
    _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)  # beside the fixture's
    words = ["--at-least-s=0", "--at-most-s=1", f"--folder={proxy.file.parent}"]
    await asyncio.to_thread(draining.main, words)
    assert capsys.readouterr().out.startswith("2 connections left")
    writer.close()


async def test_a_node_that_serve_drains_closes_connections_too(proxy):
    proxy.generate(pass_health_checks=False)
    (first,) = proxy.running
    await proxy.start("-sf", str(first.pid))
    await successor(proxy, first)
    assert (await proxy.post()).headers["connection"] == "close"


def test_the_rules_and_the_ingress_agree_on_what_the_buffer_holds():
    rules = haproxy._RULES.read_text(encoding="utf-8")
    assert f"req.hdr_val(content-length) -m int lt {LARGEST_REFUSED_BYTES}\n" in rules


def test_another_configuration_than_this_rays_is_not_served(tmp_path):
    with pytest.raises(ValueError, match="0 times, not once"):
        with_our_rules("defaults\n    errorfile 503 x\nfrontend another\n", tmp_path)


def test_clients_come_from_everywhere_and_readers_of_statistics_from_this_node(tmp_path):
    proxy = Proxy(tmp_path)
    # In a container Serve listens on every address, and writes it as that of the statistics.
    proxy.generate(http_options=HTTPOptions(host="0.0.0.0", port=proxy.port))
    adapted = with_our_rules(proxy.file.read_text(), tmp_path)
    assert f"frontend http_frontend\n    bind *:{proxy.port}\n" in adapted
    assert adapted.count("bind 127.0.0.1:") == 2
