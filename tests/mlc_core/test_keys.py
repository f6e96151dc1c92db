"""Claims about the file of keys and the command that manages it."""

import json
import shlex
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from readme import printed

from mlc_core.cli import main
from mlc_core.errors import KeysError
from mlc_core.keys import add_key, hash_of, read_keys

LATER = datetime.now(UTC) + timedelta(days=1)
RIGHT = {
    "name": "shop",
    "sha256": "ab" * 32,
    "photos_per_s": 5,
    "expires": "2027-01-31T00:00:00+00:00",
}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.json"


def keys(file, *arguments):
    return main(["keys", *arguments, "--file", str(file)])


def test_an_added_key_is_printed_once_and_the_file_has_its_hash_alone(file, capsys):
    assert keys(file, "add", "shop", "--rate", "12.5", "--days", "30") == 0
    plain = capsys.readouterr().out.strip()
    assert len(plain) > 40
    assert plain not in file.read_text()
    (key,) = read_keys(file)
    assert (key.name, key.photos_per_s, key.sha256) == ("shop", 12.5, hash_of(plain.encode()))
    assert timedelta(days=29) < key.expires - datetime.now(UTC) <= timedelta(days=30)
    keys(file, "list")
    assert plain not in "".join(capsys.readouterr())


def test_a_list_has_names_rates_and_expiries(file, capsys):
    old = {"name": "old", "sha256": "cd" * 32, "expires": "2020-01-01T00:00:00+00:00"}
    file.write_text(json.dumps({"keys": [RIGHT, RIGHT | old]}))
    assert keys(file, "list") == 0
    _, shop, old = capsys.readouterr().out.splitlines()
    assert shop.split() == ["shop", "5", "2027-01-31", "00:00", "UTC"]
    assert old.endswith("expired")


def test_a_revoked_key_is_gone_and_the_others_stay(file):
    add_key(file, "shop", 1, LATER)
    add_key(file, "shop-2", 1, LATER)
    assert keys(file, "revoke", "shop") == 0
    assert [key.name for key in read_keys(file)] == ["shop-2"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["add", "shop", "--rate", "1"], "has a key named 'shop'; choose another name, as shop-2"),
        (["add", "Shop!", "--rate", "1"], "name = 'Shop!': expected"),
        (["revoke", "nobody"], "has no key named 'nobody'; it has: shop"),
    ],
)
def test_a_command_that_fails_says_why_and_changes_nothing(file, capsys, arguments, named):
    add_key(file, "shop", 1, LATER)
    before = file.read_bytes()
    assert keys(file, *arguments) == 1
    assert named in capsys.readouterr().err
    assert file.read_bytes() == before


@pytest.mark.parametrize("rate", ["0", "-1", "many", "nan", "inf"])
def test_a_rate_that_is_none_is_refused(file, capsys, rate):
    with pytest.raises(SystemExit) as ended:
        keys(file, "add", "shop", f"--rate={rate}")
    assert ended.value.code == 2
    assert "--rate" in capsys.readouterr().err


def test_a_file_that_is_missing_names_the_command_that_creates_it(file, capsys):
    assert keys(file, "list") == 1
    assert "`mlc keys add` creates" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "is not JSON"),
        ("[]", "it needs"),
        ('{"keys": [1]}', "key 1: expected an object with name"),
        (json.dumps({"keys": [RIGHT, {**RIGHT, "burst": 1}]}), "key 2: expected an object"),
        (json.dumps({"keys": [{**RIGHT, "name": "a b"}]}), "name = 'a b'"),
        (json.dumps({"keys": [{**RIGHT, "sha256": "plain"}]}), "expected 64 hexadecimal"),
        (json.dumps({"keys": [{**RIGHT, "photos_per_s": True}]}), "photos_per_s = True"),
        (json.dumps({"keys": [{**RIGHT, "photos_per_s": 0}]}), "above 0"),
        (json.dumps({"keys": [{**RIGHT, "expires": "2027-01-31"}]}), "with its zone"),
        (json.dumps({"keys": [{**RIGHT, "expires": None}]}), "with its zone"),
        (json.dumps({"keys": [RIGHT, RIGHT]}), "key 2 has the name of another key"),
        (json.dumps({"keys": [RIGHT, {**RIGHT, "name": "b"}]}), "the sha256 of another key"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place_and_what_is_expected(file, text, named):
    file.write_text(text)
    with pytest.raises(KeysError, match=r"keys\.json") as error:
        read_keys(file)
    assert named in str(error.value)


def test_a_new_file_is_for_its_owner_alone_and_one_that_exists_keeps_its_permissions(file):
    add_key(file, "shop", 1, LATER)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o640)
    add_key(file, "app", 1, LATER)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert list(file.parent.iterdir()) == [file]


def test_commands_at_the_same_time_lose_no_key(file):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: add_key(file, f"k{n}", 1, LATER), range(32)))
    assert {key.name for key in read_keys(file)} == {f"k{n}" for n in range(32)}


def test_a_link_to_the_file_stays_a_link(file, tmp_path):
    link = tmp_path / "link.json"
    add_key(file, "shop", 1, LATER)
    link.symlink_to(file)
    add_key(link, "app", 1, LATER)
    assert link.is_symlink()
    assert len(read_keys(file)) == 2


def test_the_commands_that_the_readme_prints_work(file, capsys):
    commands = (
        printed(".venv/bin/mlc keys add"),
        printed(".venv/bin/mlc keys list"),
        printed(".venv/bin/mlc keys revoke"),
    )
    for command in commands:
        _, *arguments = shlex.split(command)
        assert main([*arguments, "--file", str(file)]) == 0
    assert "shop" in capsys.readouterr().out
    assert read_keys(file) == []
