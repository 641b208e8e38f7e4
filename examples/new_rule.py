"""Moves ctn-r2 to the rule ``indoor.toml`` and measures before and after, like the paper's Table 3.

Run from the root of the repository:
``PYTHONPATH=. python examples/new_rule.py --data ~/data/compositemt``.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import ctnet
from ctnet.training.finetune import compare, finetune
from tools.pages import replace_marked
from tools.paper_comparison import delta_m
from tools.result_tables import metrics_table

RULE = str(Path(__file__).with_name("indoor.toml"))
PAGE = Path(__file__).parent.parent / "docs" / "adapting.md"


def main(argv: Sequence[str] | None = None) -> None:
    """Fine-tunes, measures, and writes the results and the table of docs/adapting.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="~/data/compositemt")
    parser.add_argument("--model", default="ctn-r2")
    parser.add_argument("--recipe", default="finetune")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("runs/indoor"))
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args(argv)

    tuned = finetune(args.model, args.data, args.out, RULE, recipe=args.recipe, steps=args.steps)
    results = compare(ctnet.load(args.model), tuned, RULE, args.out)

    run = json.loads((args.out / "run.json").read_text())
    for result in results:
        result.save(args.results)
    old, new = ({task: result.headline(task) for task in result.scores} for result in results)
    delta = delta_m(new, old, tuple(old))
    gain = "–" if delta is None else f"{delta:+.1f} %"
    note = f"{run['step']} steps in {run['seconds'] / 60:.0f} minutes; Delta_m {gain}."
    text = replace_marked(args.page.read_text(), "new-rule", f"{metrics_table(results)}\n\n{note}")
    args.page.write_text(text)


if __name__ == "__main__":
    main()
