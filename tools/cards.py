"""Write model cards, with metadata for the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Sequence

from huggingface_hub import EvalResult as Metric
from huggingface_hub import ModelCardData

from ctnet.evaluation.evaluate import EvalResult, headline_name
from ctnet.zoo.default_card import LIBRARY, PIPELINE, TAGS, usage
from ctnet.zoo.manifest import ModelInfo
from tools.result_tables import metrics_table, palette_table

CARD = """---
{metadata}
---
# {name}

{summary}

```python
import ctnet

{usage}
```

## Figures

On the val split of CompositeMT-mini, which training never saw; figures with an asterisk are on
labels that are at least partly derived or distilled, not drawn by people.{reading}

{table}

## Training

{training}

Data: {data}

Weights: {license}. Stored as fp16; statistics of norms and task codes as fp32.
"""


def model_card(info: ModelInfo, results: Sequence[EvalResult]) -> str:
    """Writes the card of a model.

    Args:
        info: The model.
        results: Its results of ``ctnet eval``.
    """
    proposes = info.config["system"] == "palette"
    return CARD.format(
        metadata=_metadata(info, results).to_yaml(),
        name=info.name,
        summary=info.summary,
        usage=usage(info.config["system"], info.name),
        reading=_reading(info),
        table=palette_table(results) if proposes else metrics_table(results),
        training="\n".join(f"- {name.replace('_', ' ')}: {x}" for name, x in info.training.items()),
        data=info.data,
        license=info.license,
    )


def _reading(info: ModelInfo) -> str:
    """Names the tasks whose classes are read by label tables, if any."""
    tasks = info.config.get("label_tables", ())
    if not tasks:
        return ""
    return (
        f" Classes of {' and '.join(tasks)} are read by label tables, which were counted on the "
        "train split."
    )


def _metadata(info: ModelInfo, results: Sequence[EvalResult]) -> ModelCardData:
    metrics = [
        Metric(
            task_type=PIPELINE,
            task_name="Composite tasking",
            dataset_type=result.data.lower(),
            dataset_name=result.data,
            dataset_config=f"rule {result.rule}",
            dataset_split=result.split,
            metric_type=headline_name(task),
            metric_name=f"{task} {headline_name(task)}",
            metric_value=round(result.headline(task), 4),
        )
        for result in results
        for task in result.scores
    ]
    return ModelCardData(
        model_name=info.name,
        library_name=LIBRARY,
        license=info.license.lower(),
        pipeline_tag=PIPELINE,
        tags=TAGS,
        eval_results=metrics,
    )
