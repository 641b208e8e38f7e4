"""Measures how well a palette network finds the palette that a rule makes from true classes."""

from __future__ import annotations

from dataclasses import asdict

import torch
from tqdm import tqdm

from ctnet.data.dataset import CompositeDataset, measured_images, taken_evenly
from ctnet.data.label_source import LabelSource
from ctnet.evaluation.evaluate import EvalResult
from ctnet.evaluation.metrics import ClassMetric
from ctnet.models.palette_network import PaletteNetwork
from ctnet.rules import get_rule
from ctnet.tasks import IGNORE

PALETTE = "palette"
"""Name of the figures of a palette network in results."""


@torch.inference_mode()
def evaluate_palettes(
    network: PaletteNetwork,
    source: LabelSource,
    rule: str = "R2",
    name: str = "model",
    limit: int | None = None,
    progress: bool = True,
) -> EvalResult:
    """Measures a palette network by mIoU over the tasks (section 6.2).

    Args:
        network: Network in eval mode.
        source: Photographs and labels; those with the best class maps count.
        rule: Rule whose palettes are the truth; pixels without a class do not count.
        name: Name of the network in the result.
        limit: Most images, taken evenly; None takes all.
        progress: Show a progress bar.

    Raises:
        ValueError: If the rule is unknown or does not map classes, or no photograph has any.
    """
    parsed = get_rule(rule, network.tasks)
    if not parsed.needs_labels:
        raise ValueError(f"rule {rule} makes palettes by chance, which no image can tell.")
    sources = tuple(source.measured_on(parsed.reads, True))
    fit = taken_evenly(measured_images(source, parsed.reads, True), limit)
    if not fit:
        raise ValueError(
            f"nothing to measure: no photograph of {source.name} ({source.split}) has a class map."
        )
    dataset = CompositeDataset(source, parsed, network.tasks)
    metric = ClassMetric(len(network.tasks))
    for index in tqdm(fit, desc=f"{name} on {rule}", unit="image", disable=not progress):
        sample = dataset[index]
        pixels = (255 * sample.image).round().to(torch.uint8).permute(1, 2, 0).numpy()
        found = torch.tensor(network.predict(pixels).ids, dtype=torch.int64)
        metric.update(found, sample.palette, sample.palette != IGNORE)
    return EvalResult(
        name,
        parsed.name,
        source.name,
        source.split,
        {PALETTE: sources},
        {PALETTE: tuple(sorted({source.kind(i, parsed.reads) for i in fit}))},
        {PALETTE: asdict(metric.compute())},
        0,
    )
