"""Claims about how photos are read: in order, bounded, each fault its own."""

import pytest
from catalog_runs import server

from mlc_core.sources.files import Unreadable
from offline import reading
from offline.reading import MAX_BYTES, Photos


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_WAIT_S", 0.01)
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


def test_a_file_over_the_limit_is_not_read(photos, tmp_path):
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    (found,) = photos.read(["huge.jpg"])
    assert found.reason == "too large a photo"


def test_urls_are_fetched_in_order_and_faults_say_why(photos):
    def answer(path, times):
        return {
            "/gone.jpg": (404, b"no"),
            "/huge.jpg": (200, bytes(MAX_BYTES + 1)),
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
