"""The command ``ctnet export``: a network as one file for other runtimes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

AddCommand = Callable[..., argparse.ArgumentParser]


def add_export_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], add: AddCommand
) -> None:
    """Adds the command to a parser.

    Args:
        commands: The parser's commands.
        add: Function (commands, name, summary, example, run) that adds one.
    """
    export = add(
        commands,
        "export",
        "write a network as one file for other runtimes (onnx needs the extra [export])",
        "ctnet export ctn-r1 --format onnx --out ctn-r1.onnx",
        _export,
    )
    export.add_argument("model", help="a model's name, or local-dir:PATH")
    export.add_argument(
        "--format", default="onnx", help="onnx, torchscript or torch-export (default: %(default)s)"
    )
    export.add_argument(
        "--int8", action="store_true", help="onnx: kernels in 8 bits, a quarter of the size"
    )
    export.add_argument("--out", type=Path, required=True, help="the file to write")


def _export(args: argparse.Namespace) -> int:
    from ctnet.export.write import export
    from ctnet.models.pretrained import load

    name = args.model.rstrip("/").rsplit("/", 1)[-1]
    path = export(load(args.model), args.out, args.format, name, args.int8)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {args.format}")
    return 0
