"""Adds the task ``foreground`` to ctn-r1, trains its embedding alone, and measures it.

Run from the root of the repository:
``PYTHONPATH=. python examples/new_task.py --data ~/data/compositemt``.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import ctnet
from ctnet.data.derived import DERIVATIONS
from ctnet.training.finetune import compare, finetune
from tools.pages import replace_marked

TASK = "foreground"
PAGE = Path(__file__).parent.parent / "docs" / "adapting.md"


def main(argv: Sequence[str] | None = None) -> None:
    """Trains the new task, measures it, and writes the table of docs/adapting.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="~/data/compositemt")
    parser.add_argument("--model", default="ctn-r1")
    parser.add_argument("--recipe", default="new-task")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--out", type=Path, default=Path("runs/foreground"))
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args(argv)

    rule = f"single:{TASK}"
    grown = ctnet.add_task(ctnet.load(args.model), DERIVATIONS[TASK].task, like="saliency")
    trained = finetune(grown, args.data, args.out, rule, recipe=args.recipe, steps=args.steps)
    before, after = compare(grown, trained, rule, args.out)

    run = json.loads((args.out / "run.json").read_text())
    lines = ["| Embedding | Foreground mIoU ↑ |", "|---|---|"]
    for name, result in (("that of saliency", before), ("its own, trained", after)):
        result.save(args.results)
        lines.append(f"| {name} | {result.headline(TASK):.1f} |")
    lines += ["", f"{run['step']} steps in {run['seconds'] / 60:.0f} minutes."]
    text = replace_marked(args.page.read_text(), "new-task", "\n".join(lines))
    args.page.write_text(text)


if __name__ == "__main__":
    main()
