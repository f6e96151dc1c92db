"""A client that a generator of others makes of the contract, and its types."""

import os
import re
import subprocess

import pytest
from inference_environment import make_environment
from programs import block, write_programs
from services import PROJECT, environment

pytestmark = pytest.mark.slow
REQUIREMENTS = PROJECT / "tests/support/typed_client.txt"


@pytest.fixture(scope="module")
def folder(keyed, key, tmp_path_factory):
    """Where the commands of the page have made a client, beside the programs of the page."""
    python = make_environment(PROJECT / ".typed-client", REQUIREMENTS)
    folder = tmp_path_factory.mktemp("typed")
    write_programs(folder)
    install, generate = block("pip install openapi-python-client").splitlines()
    assert install.removeprefix("pip install ") in REQUIREMENTS.read_text()
    path = f"{python.parent}:{os.environ['PATH']}"
    env = environment(MLC_URL=keyed.url, MLC_KEY=key, NO_PROXY="127.0.0.1", PATH=path)
    done = subprocess.run(
        ["bash", "-c", generate], cwd=folder, env=env, capture_output=True, text=True, check=True
    )

    def run(*command):
        return subprocess.run(
            [python, *command], cwd=folder, env=env, capture_output=True, text=True, check=True
        ).stdout

    run.said = done.stdout + done.stderr
    return run


def test_every_call_is_generated(folder):
    """The warnings are all about pictures: the generator knows bodies of octet-stream alone."""
    warnings = set(re.findall(r"WARNING parsing (.*) within", folder.said))
    assert warnings == {
        "POST /v1/classify", "POST /v1/similar", "PUT /v1/catalog/{id}", "GET /v1/pictures/{id}",
    }  # fmt: skip


SIMILAR = """
import os, sys
from mlc_client import AuthenticatedClient
from mlc_client.api.default import similar
from mlc_client.types import File
client = AuthenticatedClient(base_url=os.environ["MLC_URL"], token=os.environ["MLC_KEY"])
found = similar.sync(client=client, body=File(payload=open(sys.argv[1], "rb")), k=2)
print(*(each.attributes["price"] for each in found.products))
"""


def test_defaults_that_a_client_sends_are_no_parameters_of_their_own(folder):
    prices = folder("-c", SIMILAR, PROJECT / "samples/tshirt.jpg").split()
    assert len([float(each) for each in prices]) == 2


def test_labels_and_problems_are_typed(folder):
    assert folder("typed.py", PROJECT / "samples/tshirt.jpg").startswith("Tshirts 0.9")
    assert folder("typed.py", "typed.py").startswith("415 the bytes are not an image")


def test_profiles_in_service_are_members_of_a_type(folder):
    said = folder("-c", "from mlc_client.models import ClassifyProfile as P; print(P.GOOGLE)")
    assert said == "google\n"
