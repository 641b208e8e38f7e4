"""The commands on data sets: ``ctnet data check | convert``."""

from __future__ import annotations

import argparse
from pathlib import Path

from ctnet.cli.commands import Commands, add_layout


def add_commands(commands: Commands) -> None:
    """Adds ``ctnet data`` with its sub-commands."""
    data = commands.add(
        "data", "check your photographs and labels, or convert them", "ctnet data check clothing/"
    )
    parts = Commands(data)
    check = parts.add(
        "check",
        "read every file: images, labels per task, pixels per class, problems by file",
        "ctnet data check clothing/",
        _check,
    )
    check.add_argument("data", type=Path, help="folder of the data set")
    add_layout(check)
    check.add_argument("--val-share", type=float, help="share to validate on without a val.txt")

    coco = parts.add(
        "convert-coco",
        "make a folder of class maps of COCO instances (needs pycocotools)",
        "ctnet data convert-coco instances.json --images photos/ --out DATA",
        _convert_coco,
    )
    coco.add_argument("annotations", type=Path, help="JSON file of COCO instances")
    coco.add_argument("--images", type=Path, required=True, help="folder of the photographs")
    coco.add_argument("--task", default="objects", help="name of the task (default: %(default)s)")
    coco.add_argument("--out", type=Path, required=True, help="new folder of the data set")

    voc = parts.add(
        "convert-voc",
        "make a folder of the class maps of PASCAL VOC",
        "ctnet data convert-voc VOCdevkit/VOC2012 --out DATA",
        _convert_voc,
    )
    voc.add_argument("root", type=Path, help="folder with JPEGImages and SegmentationClass")
    voc.add_argument("--out", type=Path, required=True, help="new folder of the data set")


def _check(args: argparse.Namespace) -> int:
    from ctnet.data.check import check_data

    report = check_data(args.data, args.layout, args.val_share, progress=True)
    print(report)
    return 1 if report.problems else 0


def _convert_coco(args: argparse.Namespace) -> int:
    from ctnet.data.convert import convert_coco

    print(convert_coco(args.annotations, args.images, args.out, args.task))
    return 0


def _convert_voc(args: argparse.Namespace) -> int:
    from ctnet.data.convert import convert_voc

    print(convert_voc(args.root, args.out))
    return 0
