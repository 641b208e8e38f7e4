"""Measures what one composite and five dense tasks cost with CTN, MHN and STN.

Multiply-adds are half the FLOPs of ``torch.utils.flop_counter``, which counts convolutions and
matrix products without their bias: the conditioned norm's table of scales and shifts is in them,
the one multiply-add per element that any norm applies is not and is counted apart. Look-ups,
activations and resampling are left out.

Memory is the peak of bytes of tensors that are alive at once, counted as operators return them. It
is exact and the same in every run; what an operator uses inside, such as a convolution's reordered
weights, is not seen.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ctnet.blocks.conditioned_batch_norm import ConditionedBatchNorm
from ctnet.models.base import CompositeModel, create
from ctnet.palette import Palette
from ctnet.profiling.measure import LiveBytes, cpu_name
from tools.complexity import Complexity, Cost, SystemCost

SIDE = 256
"""Height and width of the paper's images."""

ENCODERS = {
    "paper": "resnet34",
    "compact": "efficientnet_lite0",
    "light": "efficientnet_lite0",
}
"""Encoder of each size; the size's name is the decoder's."""


@dataclass(frozen=True)
class Request:
    """A model with what is asked of it.

    Attributes:
        model: Network in eval mode.
        image: RGB image (1,3,H,W).
        palettes: Task ids (H,W), one for each composite on the one encoding.
    """

    model: CompositeModel
    image: Tensor
    palettes: tuple[Tensor, ...]

    def run(self) -> list[Tensor]:
        """Encodes the image once and does what every palette asks."""
        features = self.model.encode(self.image)
        return [self.model.decode(features, palette) for palette in self.palettes]


def five_tasks(size: tuple[int, int], tasks: Sequence[str]) -> Palette:
    """Makes a mosaic that asks for every task: four quarters and a box in the middle.

    R1's mosaics ask for four tasks at most; MHN and STN could skip the fifth.
    """
    height, width = size
    palette = Palette.single(tasks[0], size, tasks)
    quarters = [(x, y) for y in (0, height // 2) for x in (0, width // 2)]
    boxes = [(x, y, x + width // 2, y + height // 2) for x, y in quarters]
    boxes.append((width // 4, height // 4, width - width // 4, height - height // 4))
    for box, task in zip(boxes, tasks, strict=True):
        palette = palette.paint_box(box, task)
    return palette


def requests(model: CompositeModel, side: int = SIDE) -> tuple[Request, Request]:
    """Makes the two requests of a model of five tasks: one composite, and five dense tasks."""
    size, tasks = (side, side), model.tasks
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    image = image.contiguous(memory_format=torch.channels_last)
    dense = tuple(Palette.single(task, size, tasks).tensor() for task in tasks)
    composite = (five_tasks(size, tasks).tensor(),)
    return Request(model, image, composite), Request(model, image, dense)


@torch.inference_mode()
def count(request: Request) -> Cost:
    """Counts multiply-adds and memory of a request; times are zero."""
    norms = [0]

    def add(module: nn.Module, inputs: Any, output: Tensor) -> None:
        norms[0] += output.numel()

    hooks = [
        module.register_forward_hook(add)
        for module in request.model.modules()
        if isinstance(module, nn.BatchNorm2d | ConditionedBatchNorm)
    ]
    known = [*request.model.parameters(), *request.model.buffers()]
    memory = LiveBytes([*known, request.image, *request.palettes])
    with FlopCounterMode(display=False) as flops, memory:
        request.run()
    for hook in hooks:
        hook.remove()
    return Cost(flops.get_total_flops() // 2, norms[0], memory.peak, 0.0, 0.0)


@torch.inference_mode()
def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _times(
    asked: Sequence[Request], reference: Request, rounds: int
) -> list[list[tuple[float, float]]]:
    """Times requests in turn, each right after the reference (A B A C A D, and again).

    Returns:
        For each request and round the seconds of the reference and its own.
    """
    found: list[list[tuple[float, float]]] = [[] for _ in asked]
    for _ in range(rounds):
        for pairs, request in zip(found, asked, strict=True):
            pairs.append((_seconds(reference.run), _seconds(request.run)))
    return found


def _with_times(cost: Cost, pairs: Sequence[tuple[float, float]]) -> Cost:
    return replace(
        cost,
        milliseconds=round(1000 * statistics.median(own for _, own in pairs), 2),
        ratio=round(statistics.median(own / other for other, own in pairs), 3),
    )


def _model(system: str, size: str) -> CompositeModel:
    torch.manual_seed(0)
    model = create(system, ENCODERS[size], size).eval()
    return model.to(memory_format=torch.channels_last)


def measure(
    rounds: int = 7, threads: int = 2, sizes: Sequence[str] = tuple(ENCODERS), side: int = SIDE
) -> Complexity:
    """Measures all systems.

    Args:
        rounds: Rounds of timing.
        threads: Threads of torch.
        sizes: Some of ``paper``, ``compact`` and ``light``.
        side: Height and width of the image in pixels.

    Raises:
        ValueError: If there is less than one round or thread.
    """
    if rounds < 1 or threads < 1:
        raise ValueError(f"at least one round and one thread; got {rounds} and {threads}.")
    torch.set_num_threads(threads)
    systems = []
    for size in sizes:
        models = {system: _model(system, size) for system in ("ctn", "mhn", "stn")}
        asked = [request for model in models.values() for request in requests(model, side)]
        counts = [count(request) for request in asked]
        times = _times(asked, asked[0], rounds)
        costs = [_with_times(*x) for x in zip(counts, times, strict=True)]
        for number, (system, model) in enumerate(models.items()):
            parameters = sum(parameter.numel() for parameter in model.parameters())
            own = costs[2 * number : 2 * number + 2]
            systems.append(SystemCost(size, system, ENCODERS[size], parameters, *own))
    return Complexity(
        tuple(systems), side, rounds, threads, cpu_name(), torch.__version__.partition("+")[0]
    )
