"""Reading classes off outputs: time of a label table against that of eq. 5."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch

from benchmarks.speed import Bench, Finding
from ctnet.label_tables import TableReader, table_cells
from ctnet.labels import AnchorReader, ClassReader, class_anchors, decode_task
from ctnet.profiling.measure import Run
from ctnet.tasks import get_task


@torch.inference_mode()
def reading(bench: Bench) -> list[Finding]:
    """Compares reading the classes of a task by a table with reading them by eq. 5."""
    side = bench.side(512)
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(side * side, 3, generator=generator).to(bench.device)
    found = []
    for name in ("seg", "parts"):
        task = get_task(name)
        classes, cells = len(task.classes), table_cells(len(task.classes))
        table = torch.randn(cells, cells, cells, classes, generator=generator).log_softmax(-1)
        readers: Mapping[str, Mapping[str, ClassReader]] = {
            "eq. 5": {name: AnchorReader(class_anchors(classes))},
            "label table": {name: TableReader(table.half().to(bench.device))},
        }
        runs: dict[str, Run] = {
            way: partial(decode_task, outputs, task, reader) for way, reader in readers.items()
        }
        question = f"labels of {name} by {{}} / by eq. 5, {side} x {side}"
        found += bench.compare(question, runs, {"label table": 1.0})
    return found
