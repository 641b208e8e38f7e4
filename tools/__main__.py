"""Maintainers' commands: ``python -m tools COMMAND``; ``--help`` names the commands."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tools.experiments import update_reading
from tools.paper_tables import update_tables_page
from tools.readme_tables import update_labels_page, update_readme
from tools.release import Run, export_run, refresh, register, write_cards


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser of all commands."""
    parser = argparse.ArgumentParser(prog="python -m tools", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    export = commands.add_parser("export", help="write the checkpoint of a training run")
    export.set_defaults(run_command=_export)
    enter = commands.add_parser("register", help="write its card and its entry in the manifest")
    enter.set_defaults(run_command=_register)
    for command in (export, enter):
        command.add_argument("run", type=Path, help="folder of the training run")
        command.add_argument("folder", type=Path, help="folder of the checkpoint, .../NAME")
        command.add_argument(
            "--average", nargs="+", type=Path, default=[], help="runs to average its weights with"
        )
    enter.add_argument("--hardware", required=True, help="what the run ran on")
    enter.add_argument("--summary", required=True, help="what the model is, in a sentence")
    enter.add_argument("--note", default="", help="what a reader must know of the run")
    enter.add_argument(
        "--earlier", nargs="+", type=Path, default=[], help="runs that it went on from, in order"
    )

    again = commands.add_parser("refresh", help="bring card and entry up to date with the files")
    again.set_defaults(run_command=_refresh)
    again.add_argument("names", nargs="+", metavar="NAME", help="models whose files are here")

    cards = commands.add_parser("cards", help="write the cards of all models again")
    cards.set_defaults(run_command=_cards)

    tables = commands.add_parser(
        "tables", help="write the tables of the README, docs/tables.md and docs/labels.md"
    )
    tables.set_defaults(run_command=_tables)
    tables.add_argument("--readme", type=Path, default=Path("README.md"))
    tables.add_argument("--page", type=Path, default=Path("docs/tables.md"))
    tables.add_argument("--labels-page", type=Path, default=Path("docs/labels.md"))

    for command in (enter, again, cards, tables):
        command.add_argument("--results", type=Path, default=Path("results"))
    return parser


def _export(args: argparse.Namespace) -> None:
    export_run(Run(args.run, "", averaged=tuple(args.average)), args.folder)


def _register(args: argparse.Namespace) -> None:
    run = Run(args.run, args.hardware, args.note, tuple(args.earlier), tuple(args.average))
    register(args.folder, run, args.summary, args.results)


def _refresh(args: argparse.Namespace) -> None:
    for name in args.names:
        refresh(name, args.results)


def _cards(args: argparse.Namespace) -> None:
    write_cards(args.results)


def _tables(args: argparse.Namespace) -> None:
    update_readme(args.readme, args.results)
    update_tables_page(args.page, args.results)
    update_labels_page(args.labels_page, args.results)
    update_reading(args.labels_page, args.results / "experiments")
    print(f"written: {args.readme}, {args.page}, {args.labels_page}")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one of the commands."""
    args = build_parser().parse_args(argv)
    args.run_command(args)


if __name__ == "__main__":
    main()
