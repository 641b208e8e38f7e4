"""Cards of the zoo's models, written from the manifest and ``results/*.json`` alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ctnet.evaluation.evaluate import EvalResult
from ctnet.evaluation.results import read_results
from ctnet.zoo.default_card import usage
from ctnet.zoo.locate import EMBEDDED
from ctnet.zoo.manifest import ModelInfo, list_models, model_info
from tools.result_tables import metrics_table, overview_table, palette_table

PICTURES = "docs/models"
"""Where the pictures of the cards are in the repository."""

CARD = """## {name}

{summary}

![{caption}](models/{name}.jpg)

*{caption}*

{figures}

| Parameters | Size | License | Where it is |
|---|---|---|---|
| {parameters} M | {size:.1f} MB | {license} | {place} |

```python
import ctnet

{usage}
```

??? info "Training"

{training}

    Data: {data}
"""


def gallery(results: Path) -> str:
    """Writes a table of all models of the zoo, and a card for each.

    Args:
        results: Folder of what ``ctnet eval`` measured.
    """
    measured = read_results(results)
    models = [model_info(name) for name in list_models()]
    cards = [
        _card(info, [result for result in measured if result.model == info.name]) for info in models
    ]
    return "\n".join([overview_table(models, measured), "", *cards])


def caption(info: ModelInfo) -> str:
    """Says what the picture of a model's card shows."""
    if info.config["system"] == "palette":
        return f"What {info.name} proposes to do where, over the photographs"
    return f"Photographs, and the composites of {info.name} under the rule {info.rule}"


def _card(info: ModelInfo, results: Sequence[EvalResult]) -> str:
    proposes = info.config["system"] == "palette"
    figures = palette_table(results) if proposes else metrics_table(results)
    training = "\n".join(
        f"    - {name.replace('_', ' ')}: {value}" for name, value in info.training.items()
    )
    return CARD.format(
        name=info.name,
        summary=info.summary,
        caption=caption(info),
        figures=figures if results else "Not measured yet.",
        parameters=f"{info.parameters / 1e6:.2f}",
        size=sum(file.size for file in info.files.values()) / 1e6,
        license=info.license,
        place=_place(info),
        usage=usage(info.config["system"], info.name),
        training=training,
        data=info.data,
    )


def _place(info: ModelInfo) -> str:
    if info.repo_id is not None:
        return f"`{info.repo_id}` on the Hub"
    return "the package" if (EMBEDDED / info.name).is_dir() else "`weights/` of a clone"
