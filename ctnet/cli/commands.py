"""Add sub-commands to a parser: one way for all of them, and the options that they share."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from ctnet import defaults

Run = Callable[[argparse.Namespace], int]

NAME_WIDTH = 14
"""Columns of a command's name in the list of commands."""


class Commands:
    """The sub-commands of a parser.

    The description of the parser lists them by group, which argparse itself cannot.

    Args:
        parser: Parser that gets the sub-commands. It must have a description.
        metavar: Word that stands for a sub-command in the usage line.
    """

    def __init__(self, parser: argparse.ArgumentParser, metavar: str = "COMMAND") -> None:
        self._parsers = parser.add_subparsers(
            required=True, metavar=metavar, prog=parser.prog, help=argparse.SUPPRESS
        )
        parser.usage = f"%(prog)s [-h] {metavar} ..."
        self._parser = parser

    def group(self, title: str) -> None:
        """Starts a group of commands under a title."""
        self._parser.description = f"{self._parser.description}\n\n{title}:"

    def add(
        self, name: str, summary: str, example: str, run: Run | None = None
    ) -> argparse.ArgumentParser:
        """Adds a command to the current group.

        Args:
            name: Name of the command.
            summary: What the command does, in one line.
            example: Call that the help shows.
            run: Function that runs the command and returns the exit status; None for a command
                that has sub-commands itself.

        Returns:
            The parser of the command, for its options.
        """
        parser = self._parsers.add_parser(
            name,
            description=summary,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if run is not None:
            parser.set_defaults(run=run)
        self._parser.description = f"{self._parser.description}\n  {name:<{NAME_WIDTH}}{summary}"
        return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds the argument ``model``."""
    parser.add_argument("model", help="name of a model, or local-dir:PATH")


def add_device(parser: argparse.ArgumentParser, default: str | None = "auto") -> None:
    """Adds ``--device``."""
    parser.add_argument("--device", default=default, help="auto, cpu, cuda, mps")


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Adds ``--overwrite``."""
    parser.add_argument(
        "--overwrite", action="store_true", help="replace files even if ctnet did not make them"
    )


def add_long_side(parser: argparse.ArgumentParser) -> None:
    """Adds ``--long-side``."""
    parser.add_argument(
        "--long-side",
        type=int,
        default=defaults.LONG_SIDE,
        help="working size in pixels (default: %(default)s)",
    )


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Adds ``--seed`` for rules that draw at random."""
    parser.add_argument(
        "--seed", type=whole_number, default=0, help="seed of mosaics and random palettes"
    )


def whole_number(text: str) -> int:
    """Reads a whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0")
    return int(text)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Adds ``--data`` and its default."""
    parser.add_argument(
        "--data", default="~/data/compositemt", help="folder of the data set (default: %(default)s)"
    )


def add_layout(parser: argparse.ArgumentParser) -> None:
    """Adds ``--layout``, the layout of the folder of ``--data``."""
    parser.add_argument(
        "--layout", default="auto", help="folder, compositemt, pascal-mt (default: found out)"
    )
