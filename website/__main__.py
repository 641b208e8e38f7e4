"""The command line: ``python -m website build | notebooks | pictures``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from website.building import ROOT, build
from website.gallery import PICTURES
from website.notebooks import FOLDER, refresh
from website.pictures import draw_cards


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser of all commands."""
    parser = argparse.ArgumentParser(prog="python -m website", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    building = commands.add_parser("build", help="build the site; warnings are errors")
    building.set_defaults(run=_build)
    building.add_argument(
        "--out", type=Path, default=Path("build/site"), help="default: %(default)s/"
    )

    notebooks = commands.add_parser("notebooks", help="run notebooks and write their outputs")
    notebooks.set_defaults(run=_notebooks)
    notebooks.add_argument("paths", nargs="*", type=Path, metavar="NOTEBOOK", help="default: all")

    pictures = commands.add_parser("pictures", help="draw the pictures of the model cards")
    pictures.set_defaults(run=_pictures)
    return parser


def _build(args: argparse.Namespace) -> int:
    return build(args.out)


def _notebooks(args: argparse.Namespace) -> int:
    for path in args.paths or sorted((ROOT / FOLDER).glob("*.ipynb")):
        refresh(path)
        print(f"written: {path}")
    return 0


def _pictures(args: argparse.Namespace) -> int:
    for path in draw_cards(ROOT / "examples", ROOT / PICTURES):
        print(f"written: {path}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    args = build_parser().parse_args(argv)
    try:
        status: int = args.run(args)
    except ValueError as error:
        print(f"website: {error}", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
