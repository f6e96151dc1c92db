"""Claims about who gets a core first."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from deployments.pipeline.priority import give_way


def _after(niceness):
    os.nice(niceness)
    give_way()
    return os.getpriority(os.PRIO_PROCESS, 0)


@pytest.mark.parametrize(("before", "after"), [(0, 5), (10, 10)])
def test_a_process_gives_way_and_one_that_is_nicer_stays_so(before, after):
    if (own := os.getpriority(os.PRIO_PROCESS, 0)) > 0:
        pytest.skip(f"the tests run at niceness {own} themselves")
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        assert process.submit(_after, before).result() == after
