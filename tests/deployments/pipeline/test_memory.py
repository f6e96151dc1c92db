"""Claims about memory that goes back to the system."""

import asyncio
import subprocess
import sys
import textwrap

import pytest

from deployments.pipeline import memory


async def test_a_replica_trims_again_and_again(monkeypatch):
    trimmed = asyncio.Event()
    calls = []
    loop = asyncio.get_running_loop()

    def trim(kept_bytes):
        calls.append(kept_bytes)
        if len(calls) == 3:
            loop.call_soon_threadsafe(trimmed.set)

    monkeypatch.setattr(memory, "_trim", trim)
    monkeypatch.setattr(memory, "_EVERY_S", 0.0)
    task = asyncio.create_task(memory.keep_trimming())
    await asyncio.wait_for(trimmed.wait(), 10)
    task.cancel()
    assert set(calls) == {0}


@pytest.mark.skipif(memory._trim is None, reason="needs glibc")
def test_trimming_gives_back_what_lies_between_pieces_in_use():
    program = """
        import psutil
        from deployments.pipeline.memory import _trim
        pieces = [bytearray(3000) for _ in range(60_000)]
        pieces = pieces[::100]
        before = psutil.Process().memory_info().rss
        _trim(0)
        print(before - psutil.Process().memory_info().rss)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 60_000 * 3000 / 2
