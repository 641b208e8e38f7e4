"""The commands ``ctnet export`` and ``ctnet import``: networks from and for other code."""

from __future__ import annotations

import argparse
from pathlib import Path

from ctnet.cli.commands import Commands, add_model, add_overwrite
from ctnet.outputs import check_outputs


def add_commands(commands: Commands) -> None:
    """Adds ``ctnet export`` and ``ctnet import``."""
    export = commands.add(
        "export",
        "write a network as one file for other runtimes (onnx needs the extra [export])",
        "ctnet export ctn-r1 --format onnx --out ctn-r1.onnx",
        _export,
    )
    add_model(export)
    export.add_argument(
        "--format", default="onnx", help="onnx, torchscript or torch-export (default: %(default)s)"
    )
    export.add_argument(
        "--int8", action="store_true", help="onnx: 8-bit kernels, a quarter of the file size"
    )
    export.add_argument("--out", type=Path, required=True, help="file to write")
    add_overwrite(export)

    original = commands.add(
        "import",
        "convert a checkpoint of the paper's published code",
        "ctnet import epoch=99.ckpt --out imported/",
        _import,
    )
    original.add_argument("checkpoint", type=Path, help="layout v0 or v1, .ckpt or .safetensors")
    original.add_argument("--out", type=Path, required=True, help="folder of the new checkpoint")
    add_overwrite(original)


def _export(args: argparse.Namespace) -> int:
    from ctnet.export.write import export
    from ctnet.models.pretrained import load

    check_outputs([args.out], overwrite=args.overwrite)
    name = args.model.rstrip("/").rsplit("/", 1)[-1]
    path = export(load(args.model), args.out, args.format, name, args.int8)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {args.format}")
    return 0


def _import(args: argparse.Namespace) -> int:
    from ctnet.models.checkpoint import save_checkpoint
    from ctnet.models.import_original import import_published
    from ctnet.zoo.files import CONFIG_FILE

    check_outputs([args.out / CONFIG_FILE], [args.checkpoint], args.overwrite)
    save_checkpoint(import_published(args.checkpoint), args.out)
    print(f"weights: {args.out}; use them as local-dir:{args.out}")
    return 0
