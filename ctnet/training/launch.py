"""Starts a command in several processes of this machine, as torchrun does."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from uuid import uuid4

import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ctnet.training.distributed import launched

STOPPED = 130
"""Exit status of a process that was interrupted."""


def must_launch(processes: int | None) -> bool:
    """Returns whether a command has yet to start its processes.

    Args:
        processes: How many the user asked for, None for what there is.

    Raises:
        ValueError: If there are others already, by torchrun.
    """
    if processes is None or not launched():
        return processes is not None
    if processes != int(os.environ["WORLD_SIZE"]):
        raise ValueError(
            f"torchrun started {os.environ['WORLD_SIZE']} processes; got --processes {processes}."
        )
    return False


def launch(processes: int, words: Sequence[str]) -> int:
    """Runs ``python WORDS`` in several processes, which share the threads that there are.

    Args:
        processes: How many.
        words: The command, such as ``-m ctnet train --config paper``.

    Returns:
        The exit status: 0 if all went well, 130 after Ctrl-C or SIGTERM. If a process ends early
        the others are stopped.

    Raises:
        ValueError: If there is not at least one process.
    """
    if processes < 1:
        raise ValueError(f"processes must be at least 1; got {processes}.")
    threads = max(1, torch.get_num_threads() // processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        local_addr="localhost",
    )
    for name in logging.root.manager.loggerDict:
        # What a user can make of an end, the processes say themselves.
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    # torch leaves its own behind.
    handlers = {
        number: signal.getsignal(number)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    }
    try:
        elastic_launch(config, sys.executable)(*words)
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        if failure.exitcode == STOPPED:
            return STOPPED
        if failure.exitcode < 0:
            print(
                f"ctnet: process {number} of this run was ended by {failure.signal_name()}, so the "
                "others were stopped; start the same command again to go on from the last "
                "checkpoint.",
                file=sys.stderr,
            )
        return 1
    except SignalException:
        return STOPPED
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 0
