"""Claims about the lock file with hashes, without a package index."""

import re
import tomllib

from deployments.settings import PROJECT

_PIN = re.compile(r"^([A-Za-z0-9._\[\]-]+)==(\S+)", re.MULTILINE)


def pins(text):
    """Name -> its versions; there may be one for each Python or platform."""
    found = {}
    for name, version in _PIN.findall(text):
        found.setdefault(name.partition("[")[0].lower().replace("_", "-"), set()).add(version)
    return found


ALL = pins((PROJECT / "requirements.lock").read_text())
TEXT = (PROJECT / "requirements.serve.lock").read_text()
SERVING = pins(TEXT)


def test_what_serving_needs_has_the_same_version_in_both_locks():
    assert {name: versions - ALL[name] for name, versions in SERVING.items()} == {
        name: set() for name in SERVING
    }
    declared = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {re.match(r"[\w.-]+", each)[0].lower() for each in declared} <= SERVING.keys()
    assert "tensorflow" not in SERVING


def test_every_requirement_has_a_hash_and_no_index_is_named():
    requirements = re.split(r"\n(?=\S)", TEXT.strip())
    assert [each for each in requirements if "--hash=sha256:" not in each] == []
    assert "://" not in TEXT
    assert "--index" not in TEXT
