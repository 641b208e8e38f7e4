"""Figures of ``results/experiments``: what was tried before a recipe was chosen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from tools.pages import rewrite_marked

BATCH = 8
"""Crops of a step in every experiment."""


def update_reading(page: str | Path, experiments: str | Path) -> None:
    """Replaces the comparison of arrangements of classes in a Markdown file, picture included.

    Args:
        page: The Markdown file; the picture ``reading.png`` stands beside it.
        experiments: Folder of ``reading.json``.

    Raises:
        ValueError: If the file has no marks.
    """
    path, file = Path(page), Path(experiments) / "reading.json"
    rewrite_marked(path, "arrangements", reading_table(file))
    draw_reading(file, path.with_name("reading.png"))


def update_recipe(page: str | Path, experiments: str | Path) -> None:
    """Replaces the table of what each choice of the recipe brings in a Markdown file.

    Args:
        page: The Markdown file.
        experiments: Folder of ``recipe.json``.

    Raises:
        ValueError: If the file has no marks.
    """
    path = Path(page)
    experiment: dict[str, Any] = json.loads((Path(experiments) / "recipe.json").read_text())
    lines = ["| | seg | parts |", "|---|---|---|"]
    lines += [f"| {arm['name']} | {_cell(arm['seg'])} | {_cell(arm['parts'])} |"
              for arm in experiment["arms"]]  # fmt: skip
    rewrite_marked(path, "choices", "\n".join(lines))


def update_consistency(page: str | Path, experiments: str | Path) -> None:
    """Replaces the table of what teacher and consistency bring in a Markdown file.

    Args:
        page: The Markdown file.
        experiments: Folder of ``consistency.json``.

    Raises:
        ValueError: If the file has no marks.
    """
    path = Path(page)
    file = Path(experiments) / "consistency.json"
    experiment: dict[str, Any] = json.loads(file.read_text("utf-8"))
    lines = [
        f"{experiment['setting'][0].upper()}{experiment['setting'][1:]}:",
        "",
        "| | seg mIoU ↑ | parts mIoU ↑ | saliency mIoU ↑ | normals mean ° ↓ |",
        "|---|---|---|---|---|",
    ]
    for arm in experiment["arms"]:
        cells = (f"{arm[task]:.1f}" for task in ("seg", "parts", "saliency", "normals"))
        lines.append(f"| {arm['name']} | {' | '.join(cells)} |")
    rewrite_marked(path, "consistency", "\n".join(lines))


def draw_reading(file: Path, out: Path) -> None:
    """Draws how arrangements of the 21 classes in the cube learn (``reading.json``).

    Args:
        file: Losses and mIoU of each arrangement by steps.
        out: The picture to write.
    """
    experiment: dict[str, Any] = json.loads(file.read_text())
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=150)
        left, right = figure.subplots(1, 2)
        for number, arm in enumerate(experiment["arms"]):
            color = f"C{number}"
            steps, losses = zip(*arm["loss"], strict=True)
            left.plot([BATCH * step / 1000 for step in steps], losses, color=color)
            images = [BATCH * entry["steps"] / 1000 for entry in arm["measured"]]
            own, table, _ = zip(*(entry["seg"] for entry in arm["measured"]), strict=True)
            right.plot(images, own, "o:", color=color, markerfacecolor="white")
            right.plot(images, table, "o-", color=color, label=arm["name"])
        left.set(title=f"Loss of seg: {experiment['loss']}", ylim=(0, None))
        right.set(
            title="mIoU of seg on val: by a table counted afterwards; hollow: own reading",
            ylim=(0, None),
            xlim=left.get_xlim(),
        )
        for axes in (left, right):
            axes.set_xlabel("crops seen, thousands")
            axes.title.set_fontsize(9)
        right.legend(frameon=False, loc="lower right")
        figure.savefig(out, metadata={"Software": None})


def reading_table(file: Path) -> str:
    """Builds a Markdown table of the same experiment."""
    experiment: dict[str, Any] = json.loads(file.read_text())
    lines = ["| Classes lie | Crops | seg | parts |", "|---|---|---|---|"]
    for arm in experiment["arms"]:
        for entry in arm["measured"]:
            cells = [_cell(entry.get(task)) for task in ("seg", "parts")]
            crops = f"{BATCH * entry['steps']:,}"
            lines.append(f"| {arm['name']} | {crops} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def _cell(values: Sequence[float | None] | None) -> str:
    return " / ".join("–" if value is None else f"{value:.1f}" for value in values or (None,))
