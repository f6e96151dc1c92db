"""Which process gets a core first when there are too few."""

from __future__ import annotations

import os

_NICENESS = 5  # a third of the weight of niceness 0 (kernel/sched/core.c, sched_prio_to_weight)


def give_way() -> None:
    """Let the ingress and HAProxy go first: this thread, and those that it starts from now on.

    Under overload they must refuse what is too much. If decoding and inference took their cores,
    requests would wait in sockets, where the estimate of the wait does not see them. A thread that
    is nicer stays so, as where the whole service runs under `nice`: Linux does not let it back.
    """
    os.setpriority(os.PRIO_PROCESS, 0, max(_NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))
