"""Claims about how photos are read: in order, bounded, each fault its own."""

import time
import tracemalloc
from contextlib import contextmanager

import pytest
from catalog_runs import dripping, server

from mlc_core.sources.files import MAX_PHOTO_BYTES, Unreadable
from offline import fetching
from offline.reading import Photos

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n"
MIB = 2**20


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "_WAIT_S", 0.01)
    opened = Photos(tmp_path)
    yield opened
    opened.close()


def test_files_come_in_order_and_a_missing_one_is_a_fault_of_its_own(photos, tmp_path):
    names = [f"{number}.jpg" for number in range(100)]
    for name in names:
        (tmp_path / name).write_text(name)
    found = list(photos.read([*names[:50], "missing.jpg", *names[50:]]))
    assert [each.decode() for each in found[:50] + found[51:]] == names
    assert found[50].reason == "no photo"


def test_a_name_may_lead_out_of_the_root_as_the_docs_warn(tmp_path):
    (tmp_path / "outside.jpg").write_bytes(b"photo")
    (tmp_path / "root").mkdir()
    opened = Photos(tmp_path / "root")
    assert list(opened.read(["../outside.jpg", f"{tmp_path}/outside.jpg"])) == [b"photo"] * 2
    opened.close()


def test_a_file_is_read_when_it_is_its_turn_if_asked(photos, tmp_path):
    (tmp_path / "a.jpg").write_text("a")
    found = photos.read(["a.jpg", "b.jpg"], ahead=False)
    assert next(found) == b"a"
    (tmp_path / "b.jpg").write_text("b")
    assert next(found) == b"b"


def test_a_file_over_the_limit_is_not_read(photos, tmp_path):
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(MAX_PHOTO_BYTES + 1)
    (found,) = photos.read(["huge.jpg"])
    assert found.reason == "too large a photo"


def test_urls_are_fetched_in_order_and_faults_say_why(photos):
    def answer(path, times):
        return {
            "/gone.jpg": (404, b"no"),
            "/huge.jpg": (200, bytes(MAX_PHOTO_BYTES + 1)),
        }.get(path, (200, path.encode()))

    with server(answer) as (url, _):
        names = [f"{url}/{number}.jpg" for number in range(60)]
        found = list(photos.read([f"{url}/gone.jpg", f"{url}/huge.jpg", *names]))
    assert str(found[0]) == "HTTP status 404"
    assert found[1].reason == "too large a photo"
    assert found[2:] == [f"/{number}.jpg".encode() for number in range(60)]


def test_a_server_that_is_busy_is_asked_again(photos):
    with server(lambda path, times: (503, b"") if times < 3 else (200, b"photo")) as (url, asked):
        assert list(photos.read([f"{url}/a.jpg"])) == [b"photo"]
    assert asked["/a.jpg"] == 3


def test_a_photo_that_is_gone_is_not_asked_for_again(photos):
    with server(lambda path, times: (404, b"")) as (url, asked):
        list(photos.read([f"{url}/a.jpg"]))
    assert asked["/a.jpg"] == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/a.jpg", "http://[/a.jpg", "http://"])
def test_a_url_that_leads_nowhere_is_a_fault(photos, url):
    (found,) = photos.read([url])
    assert isinstance(found, Unreadable)
    assert str(found)


def test_redirects_are_followed_as_far_as_a_browser_would_and_no_further(photos):
    def answer(path, times):
        step = path.removeprefix("/")
        return (302, f"/{int(step) - 1}".encode()) if step != "0" else (200, b"photo")

    with server(answer) as (url, asked):
        photo, too_far = photos.read([f"{url}/5", f"{url}/6"])
    assert photo == b"photo"
    assert str(too_far) == "over 5 redirects"
    assert asked["/6"] == 1


def test_a_redirect_leads_to_the_web_alone(photos, tmp_path):
    (tmp_path / "secret").write_text("secret")
    with server(lambda path, times: (302, f"file://{tmp_path}/secret".encode())) as (url, _):
        (found,) = photos.read([f"{url}/a.jpg"])
    assert isinstance(found, Unreadable)


@pytest.mark.parametrize(
    "start",
    [b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 100 Continue\r\n", HEAD + b"\r\n"],
    ids=["headers", "continue", "body"],
)
def test_a_slow_server_is_given_up_in_time(photos, monkeypatch, start):
    monkeypatch.setattr(fetching, "_FETCH_S", 0.3)
    began = time.monotonic()
    with dripping(start) as url:
        (found,) = photos.read([f"{url}/a.jpg"])
    assert str(found) == "not complete within 0.3 s"
    assert time.monotonic() - began < 5


def test_the_body_of_a_redirect_is_not_waited_for(photos):
    with server(lambda path, times: (200, b"photo")) as (url, _):
        head = HEAD.replace(b"200 OK", f"302 Found\r\nLocation: {url}/a.jpg".encode())
        with dripping(head + b"\r\n") as slow:
            began = time.monotonic()
            assert list(photos.read([f"{slow}/a.jpg"])) == [b"photo"]
    assert time.monotonic() - began < 5


@contextmanager
def peak_below(most_bytes):
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most_bytes
    finally:
        tracemalloc.stop()


LARGE = bytes(3 * MIB)


def after_a_while(found):
    """Give threads the time to read ahead as far as they may."""
    yield next(found)
    time.sleep(0.3)
    yield from found


def test_large_files_that_wait_are_bounded_by_their_bytes(photos, tmp_path):
    names = [f"{number}.jpg" for number in range(40)]
    for name in names:
        (tmp_path / name).write_bytes(LARGE)
    with peak_below(20 * MIB):
        assert all(each == LARGE for each in after_a_while(photos.read(names)))


def test_large_photos_of_the_web_wait_on_the_disk(photos):
    with server(lambda path, times: (200, LARGE)) as (url, _), peak_below(50 * MIB):
        found = photos.read([f"{url}/{number}" for number in range(40)])
        assert all(each == LARGE for each in after_a_while(found))
