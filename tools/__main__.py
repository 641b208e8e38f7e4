"""Run the maintainers' tools: ``python -m tools COMMAND``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ctnet.cli.commands import Commands
from tools.experiments import update_consistency, update_reading, update_recipe
from tools.pages import update_labels_page, update_readme, update_tables_page
from tools.release import export_run, refresh, register, write_cards
from tools.run import Run


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="python -m tools",
        description="Tools for maintainers of the zoo; CONTRIBUTING.md shows them in use.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = Commands(parser)

    commands.group("Add a checkpoint")
    export = commands.add(
        "export",
        "write the checkpoint of a training run",
        "python -m tools export runs/ctn-r1 runs/ctn-r1/export",
        _export,
    )
    entry = commands.add(
        "register",
        "write a checkpoint's model card and manifest entry",
        "python -m tools register runs/ctn-r1 ctnet/zoo/embedded/ctn-r1 \\\n"
        '      --hardware "2 CPU cores" --summary "Compact CTN trained on mosaics (R1)."',
        _register,
    )
    for command in (export, entry):
        command.add_argument(
            "training_run", type=Path, metavar="RUN", help="folder of the training run"
        )
        command.add_argument(
            "folder", type=Path, metavar="FOLDER", help="folder of the checkpoint, .../NAME"
        )
        command.add_argument(
            "--average",
            nargs="+",
            type=Path,
            default=[],
            metavar="RUN",
            help="runs whose weights are averaged with those of RUN",
        )
    entry.add_argument("--hardware", required=True, help="hardware of the training")
    entry.add_argument("--summary", required=True, help="one sentence about the model")
    entry.add_argument("--note", default="", help="remark on the training, such as an early stop")
    entry.add_argument(
        "--earlier",
        nargs="+",
        type=Path,
        default=[],
        metavar="RUN",
        help="earlier runs of the same training, in order",
    )

    commands.group("Update what is generated")
    update = commands.add(
        "refresh",
        "update a model's card and manifest entry from its files and results",
        "python -m tools refresh ctn-r2",
        _refresh,
    )
    update.add_argument("names", nargs="+", metavar="NAME", help="names of models")
    cards = commands.add(
        "cards", "rewrite the cards of all models", "python -m tools cards", _cards
    )
    tables = commands.add(
        "tables",
        "rewrite the tables in README.md, docs/tables.md and docs/labels.md",
        "python -m tools tables",
        _tables,
    )
    tables.add_argument(
        "--readme", type=Path, default=Path("README.md"), help="default: %(default)s"
    )
    tables.add_argument(
        "--page", type=Path, default=Path("docs/tables.md"), help="default: %(default)s"
    )
    tables.add_argument(
        "--labels-page", type=Path, default=Path("docs/labels.md"), help="default: %(default)s"
    )
    tables.add_argument(
        "--training-page", type=Path, default=Path("docs/training.md"), help="default: %(default)s"
    )
    tables.add_argument(
        "--data-page", type=Path, default=Path("docs/data.md"), help="default: %(default)s"
    )

    for command in (entry, update, cards, tables):
        command.add_argument(
            "--results", type=Path, default=Path("results"), help="default: %(default)s/"
        )
    return parser


def _export(args: argparse.Namespace) -> int:
    export_run(Run(args.training_run, "", averaged=tuple(args.average)), args.folder)
    return 0


def _register(args: argparse.Namespace) -> int:
    run = Run(args.training_run, args.hardware, args.note, tuple(args.earlier), tuple(args.average))
    register(args.folder, run, args.summary, args.results)
    return 0


def _refresh(args: argparse.Namespace) -> int:
    for name in args.names:
        refresh(name, args.results)
    return 0


def _cards(args: argparse.Namespace) -> int:
    write_cards(args.results)
    return 0


def _tables(args: argparse.Namespace) -> int:
    update_readme(args.readme, args.results)
    update_tables_page(args.page, args.results)
    update_labels_page(args.labels_page, args.results)
    update_reading(args.labels_page, args.results / "experiments")
    update_recipe(args.training_page, args.results / "experiments")
    update_consistency(args.data_page, args.results / "experiments")
    print(f"written: {args.readme}, {args.page}, {args.labels_page}, {args.training_page}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one of the commands and returns the exit status."""
    args = build_parser().parse_args(argv)
    status: int = args.run(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
