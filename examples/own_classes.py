"""A task with classes of your own: masks of eight classes in a folder, learned by one command.

Needs ``pip install 'ctnet[train]'`` and CompositeMT-mini, from whose class maps the masks are made.
The folder is like any of yours: ``images/``, ``animals/``, ``classes.toml`` and ``val.txt``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import ctnet
from ctnet.data.check import check_data
from ctnet.data.dataset import open_source
from ctnet.models.add_task import add_task
from ctnet.tasks import IGNORE, VOC_CLASSES
from ctnet.training.finetune import compare, find_task, finetune
from tools.pages import replace_marked

TASK = "animals"
CLASSES = ("background", "bird", "cat", "cow", "dog", "horse", "sheep", "person")
PHOTOGRAPHS = {"train": 240, "val": 80}
PAGE = Path("docs/adapting.md")


def write_folder(data: str, folder: Path) -> None:
    """Writes photographs that show animals, and their masks."""
    for name in ("images", TASK):
        (folder / name).mkdir(parents=True, exist_ok=True)
    table = np.full(IGNORE + 1, 0, np.uint8)
    table[IGNORE] = IGNORE
    for number, name in enumerate(CLASSES[1:], 1):
        table[VOC_CLASSES.index(name)] = number
    stems: dict[str, list[str]] = {}
    for split, count in PHOTOGRAPHS.items():
        source = open_source("compositemt", data, split)
        for index, stem in enumerate(source.ids):
            if source.origin(index) != "voc" or len(stems.setdefault(split, [])) == count:
                continue
            found = source.load(index)
            mask = table[found["seg"]]
            if not np.isin(mask, range(1, 7)).any():
                continue
            Image.fromarray(found["image"]).save(folder / "images" / f"{stem}.jpg", quality=95)
            Image.fromarray(mask).save(folder / TASK / f"{stem}.png")
            stems[split].append(stem)
    (folder / "val.txt").write_text("\n".join(stems["val"]) + "\n")
    names = ", ".join(f'"{name}"' for name in CLASSES)
    (folder / "classes.toml").write_text(f"[{TASK}]\nnames = [{names}]\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Makes the folder, trains, measures, and writes the table of docs/adapting.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="~/data/compositemt")
    parser.add_argument("--model", default="ctn-r1")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=Path("runs/animals-data"))
    parser.add_argument("--out", type=Path, default=Path("runs/animals"))
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args(argv)

    if not args.folder.exists():
        write_folder(args.data, args.folder)
    report = check_data(args.folder)
    print(report)
    model = ctnet.load(args.model)
    rows = []
    for what, everything in (("its embedding alone", False), ("everything", True)):
        out = args.out.with_name(f"{args.out.name}-all") if everything else args.out
        grown = add_task(model, find_task(TASK, args.folder), like="seg")
        recipe = "finetune" if everything else "new-task"
        tuned = finetune(grown, args.folder, out, f"single:{TASK}", recipe=recipe, steps=args.steps)
        results = compare(grown, tuned, f"single:{TASK}", out)
        run = json.loads((out / "run.json").read_text())
        before, after = (result.headline(TASK) for result in results)
        rows.append(f"| {what} | {before:.1f} | {after:.1f} | {run['seconds'] / 60:.0f} |")
        if not everything:
            for result in results:
                result.save(args.results)
    head = [
        f"{report.train} photographs, {len(CLASSES)} classes, {args.steps} steps of 6 crops, "
        f"measured on {report.val} others:",
        "",
        "| What is trained | mIoU before ↑ | after ↑ | Minutes |",
        "|---|---|---|---|",
    ]
    text = replace_marked(args.page.read_text(), "own-classes", "\n".join([*head, *rows]))
    args.page.write_text(text)


if __name__ == "__main__":
    main()
