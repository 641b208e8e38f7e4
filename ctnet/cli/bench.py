"""The command ``ctnet bench``: time and memory of a model on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from ctnet import defaults
from ctnet.cli.commands import Commands, add_device, add_overwrite
from ctnet.outputs import check_outputs, png_mark
from ctnet.rules import get_rule


def add_commands(commands: Commands) -> None:
    """Adds ``ctnet bench``."""
    bench = commands.add(
        "bench",
        "measure time and memory of a model for image sizes and batch sizes",
        "ctnet bench ctn-r1 --sides 256 512 --batches 1 4 --out bench.png",
        _bench,
    )
    bench.add_argument(
        "model", nargs="?", default=defaults.MODEL, help="the model (default: %(default)s)"
    )
    bench.add_argument(
        "--palette", default="R1", help="R1, Rrnd or single:TASK (default: %(default)s)"
    )
    bench.add_argument(
        "--sides",
        type=int,
        nargs="+",
        default=[128, 256, 512],
        metavar="PIXELS",
        help="sides of the images in pixels (default: 128 256 512)",
    )
    bench.add_argument(
        "--batches",
        type=int,
        nargs="+",
        default=[1, 2, 4],
        metavar="N",
        help="images of a batch (default: 1 2 4)",
    )
    bench.add_argument(
        "--rounds", type=int, default=5, help="times that each is run (default: %(default)s)"
    )
    bench.add_argument("--threads", type=int, help="CPU threads of torch (default: torch's own)")
    add_device(bench)
    bench.add_argument("--compile", action="store_true", help="torch.compile the look-up")
    bench.add_argument("--out", type=Path, help="plot to write (PNG), beside the printed table")
    add_overwrite(bench)


def _bench(args: argparse.Namespace) -> int:
    from ctnet.models.base import CompositeModel
    from ctnet.models.device import pick_device
    from ctnet.profiling.bench import bench, draw, table

    if args.out is not None:
        check_outputs([args.out], overwrite=args.overwrite)
    model = CompositeModel.from_pretrained(args.model, device=pick_device(args.device))
    model.fuse(compile=args.compile)
    rule = get_rule(args.palette, model.tasks)
    points = bench(model, rule, args.sides, args.batches, args.rounds, args.threads)
    print(table(points))
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        draw(points, args.model).save(args.out, optimize=True, pnginfo=png_mark())
        print(f"written: {args.out}")
    return 0
