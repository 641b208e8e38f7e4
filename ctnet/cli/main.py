"""The command line: ``ctnet predict | palette | train | eval | ...``."""

from __future__ import annotations

import argparse
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ctnet import __version__
from ctnet.cli import bench, data, demo, evaluate, export, palette, predict, train, zoo
from ctnet.cli.commands import Commands

GROUPS = (
    ("Predict", (predict, palette, demo)),
    ("Models", (zoo, export)),
    ("Train and measure", (data, train, evaluate, bench)),
)
"""Titles of the groups in ``ctnet --help``, and the modules with their commands."""

TRAIN_PACKAGES = ("filelock", "scipy", "skimage", "tensorboard", "torchmetrics")
"""Top-level modules of the extra ``[train]``."""

_POINT = re.compile(r"-[\d.]+,")


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="ctnet",
        description="CompositeTasking networks: each task done where you ask for it.",
        epilog="ctnet COMMAND --help shows the options of a command and an example.\n\n"
        "example:\n  ctnet predict photo.jpg --out out/",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ctnet {__version__}")
    commands = Commands(parser)
    for title, modules in GROUPS:
        commands.group(title)
        for module in modules:
            module.add_commands(commands)
    return parser


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Makes SIGTERM end a command as Ctrl-C does, if called from the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _hint(error: BaseException) -> str:
    """Names the extra that brings a package which training or measuring lacks."""
    missing = (getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or missing not in TRAIN_PACKAGES:
        return ""
    return "; it comes with pip install 'ctnet[train]' (from a clone: pip install '.[train]')."


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    # Points left of or above a picture, -5,-5, are no options.
    words = [f" {word}" if _POINT.match(word) else word for word in words]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Names of files may hold what the terminal cannot show.
            stream.reconfigure(errors="backslashreplace")
    args = build_parser().parse_args(words)
    args.words = words
    try:
        with _terminated_as_interrupted():
            status: int = args.run(args)
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as head, has closed the pipe; do not flush the rest at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as stop:
        # Of several processes that are stopped together, the first speaks.
        if os.environ.get("RANK", "0") == "0":
            print(f"ctnet: {str(stop) or 'stopped.'}", file=sys.stderr)
        return 130
    except (ValueError, OSError, ModuleNotFoundError, MemoryError) as error:
        # Name the process if torchrun started several.
        who = f"ctnet, process {os.environ['RANK']}" if "RANK" in os.environ else "ctnet"
        print(f"{who}: {error}{_hint(error)}", file=sys.stderr)
        return 1
    return status
