"""Small training runs that one process makes, or several; run as a program, those of a folder.

``python training_worker.py DATA OUT CASE...`` trains in OUT/CASE-RANK and saves what came of it in
OUT/CASE-RANK.pt; the case ``parts`` saves what :func:`parts` returns. With
``CTNET_TEST_KILL=RANK:STEP`` in the environment that process kills itself in that step, with
``parent:STEP`` the first one kills what started it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tiny_encoder import TinyEncoder
from torch import Tensor, nn
from tqdm import tqdm

from ctnet.blocks.conditioned_batch_norm import ConditionedBatchNorm
from ctnet.blocks.decoder_config import DecoderConfig
from ctnet.blocks.encoders import BUILDERS
from ctnet.blocks.palette_pyramid import MixtureMap
from ctnet.models.config import ModelConfig
from ctnet.training import loop
from ctnet.training.config import TrainConfig
from ctnet.training.consistency import ConsistencyConfig
from ctnet.training.distributed import (
    GradientSum,
    anywhere,
    from_main,
    is_main,
    joined,
    mean_of_all,
    open_on_main,
    own_rows,
    rank,
    require_same,
    rows_before,
    sum_losses,
    world_size,
)
from ctnet.training.palette_trainer import PaletteTrainer
from ctnet.training.phases import Phase
from ctnet.training.synchronized import synchronize
from ctnet.training.trainer import Trainer

STEPS = 20
DECODER = DecoderConfig((8, 7, 6, 5, 4), (3, 3, 4, 4, 5), (3, 3), (4,) * 6, 6)


def base(data: Path) -> TrainConfig:
    """Batches of three: two processes have one image and two."""
    return TrainConfig(
        "tiny", ModelConfig("ctn", "tiny", DECODER), data=str(data), pretrained_encoder=False,
        crop_size=64, scale_range=(0.8, 1.5), batch_size=3, steps=STEPS, learning_rate=1e-3,
        encoder_lr_scale=0.5, warmup_steps=0, lr_decay_fraction=0.5, ema_decay=0.9,
        precision="fp32", device="cpu", workers=0, validate_every=5,
    )  # fmt: skip


CASES: dict[str, dict[str, Any]] = {
    "ctn-R1": {"aux_loss_weight": 0.5, "self_distillation_weight": 0.3, "class_weight_power": 0.3,
               "logit_scale": 20.0, "normals_loss": "angular",
               "phases": (Phase(3, "coarse", {"coarse_only": True, "frozen_stages": 1}),
                          Phase(8, "fine", {"batch_size": 4, "class_balanced_fraction": 0.5}),
                          Phase(9, "last", {"ema_decay": 0.5, "frozen_stages": 2,
                                            "frozen_statistics": True}))},
    "ctn-R1-consistency": {"steps": 8, "consistency": ConsistencyConfig(
        1.0, threshold=0.05, warmup_steps=4, every=2, cutmix_probability=1.0,
        task_shares={"normals": 2})},
    "ctn-R1-lite": {"encoder": "efficientnet_lite0", "steps": 4},
    "ctn-S": {"rule": "S", "aux_loss_weight": 0.5},
    "ctn-Rrnd": {"rule": "Rrnd", "frozen_statistics": True},
    "ctn-R2-device": {"rule": "R2", "mosaic_fraction": 0.3, "device_data": True,
                      "frozen_stages": 2},
    "mhn-R1": {"aux_loss_weight": 0.5},
    "mhn-S": {"rule": "S"},
    "stn-R1": {},
    "stn-S": {"rule": "S"},
    "palette-R2": {"rule": "R2", "class_weight_power": 0.3},
}  # fmt: skip
"""What differs from :func:`base`."""


def config_of(case: str, data: Path) -> TrainConfig:
    changes = dict(CASES[case])
    config = base(data)
    encoder = changes.pop("encoder", "tiny")
    model = replace(config.model, system=case.partition("-")[0], encoder=encoder)
    return replace(config, name=case, model=model, **changes)


@contextmanager
def float64() -> Iterator[None]:
    """Makes what is built inside compute in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def run(case: str, data: Path, folder: Path) -> dict[str, Any]:
    """Trains in float64; returns losses by step, the network and the averaged network."""
    config = config_of(case, data)
    losses: list[dict[str, float]] = []
    cls: Any = PaletteTrainer if config.model.system == "palette" else Trainer
    with float64():
        trainer = cls(config, folder)
    first = trainer.step
    train_step, gradients = trainer.train_step, trainer.sum_gradients
    end = os.environ.get("CTNET_TEST_KILL", "")

    def recorded(sample: Any) -> dict[str, float]:
        losses.append(train_step(sample))
        return losses[-1]

    def deadly() -> None:
        if end == f"{rank()}:{trainer.step}":
            os.kill(os.getpid(), signal.SIGKILL)
        if end == f"parent:{trainer.step}" and is_main():
            os.kill(os.getppid(), signal.SIGKILL)
        gradients()

    trainer.train_step, trainer.sum_gradients = recorded, deadly
    final = trainer.train()
    return {
        "first": first, "losses": losses, "model": trainer.model.state_dict(),
        "average": trainer.average, "final": final.double().state_dict(),
    }  # fmt: skip


@float64()
def normalize(norm: str, rows: slice) -> dict[str, Tensor]:
    """Runs a norm on rows of a batch of five, forward and backward, in training mode."""
    generator = torch.Generator().manual_seed(0)
    x, weight = 3 + torch.randn(2, 5, 4, 6, 7, generator=generator)
    index = torch.randint(2, (5, 6, 7), generator=generator)
    module = nn.Sequential(nn.BatchNorm2d(4) if norm == "plain" else ConditionedBatchNorm(4, 3, 2))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    synchronize(module)
    x = x[rows].requires_grad_()
    if norm == "plain":
        y = module(x)
    else:
        mixtures = MixtureMap(torch.eye(2), index[rows])
        y = module[0](x, mixtures, torch.arange(6.0).view(2, 3) / 6)
    (y.square() * weight[rows]).sum().backward()
    GradientSum(module.parameters())()
    found = {"y": y.detach(), "x": x.grad}
    found |= {f"grad.{name}": p.grad for name, p in module.named_parameters()}
    return found | dict(module.named_buffers())


def sum_gradients() -> list[Tensor | None]:
    """Sums gradients that both processes have, that one has, and that none has."""
    shapes = (2, 3, 1, 1), (4, 3, 3, 3), (5,), (6,)
    parameters = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    parameters[1] = nn.Parameter(parameters[1].data.to(memory_format=torch.channels_last))
    add = GradientSum(parameters)
    for step in range(2):
        for parameter in parameters:
            parameter.grad = None
        for number in (0, 1, 2) if rank() == 0 else (0, 1):
            p = parameters[number]
            values = torch.arange(float(p.numel())).view(p.shape)
            p.grad = torch.empty_like(p).copy_(values * (1 + rank() + step))
        add()
        assert parameters[1].grad.stride() == parameters[1].stride()
    return [p.grad for p in parameters]


def error_of(call: Callable[[], object]) -> str:
    try:
        call()
    except ValueError as error:
        return str(error)
    return ""


@float64()
def parts(out: Path) -> dict[str, Any]:
    """Calls each of the functions that processes share."""
    file = out / f"only-{rank()}.txt"
    if is_main():
        file.write_text("from 0")
    values = torch.arange(5.0)[own_rows(5)]
    with open_on_main(file) or sys.stdin as opened:
        text = opened.read()
    odd = nn.Sequential(nn.BatchNorm1d(3))
    return {
        "norms": {
            f"{norm}-{split}": normalize(norm, slice(0, split) if is_main() else slice(split, 5))
            for norm in ("plain", "conditioned")
            for split in (0, 2)
        },
        "gradients": sum_gradients(),
        "rows": (own_rows(5), world_size()),
        "anywhere": anywhere([values < 0, values == 0, values == 4]),
        "before": [rows_before(x) for x in (values, values > 2)],
        "mean": float(mean_of_all(values)),
        "weighted": float(mean_of_all(values, values + 1)),
        "none": float(mean_of_all(values[:0] if is_main() else values)),
        "losses": sum_losses({"seg": 1.0 + rank(), "edges": 2.0}),
        "from_main": from_main(f"rank {rank()}"),
        "file": text,
        "missing": open_on_main(out / "missing"),
        "same": error_of(lambda: require_same({"seed": 1})),
        "different": error_of(lambda: require_same({"seed": 1, "color": rank()})),
        "few": error_of(lambda: own_rows(1)),
        "norm": error_of(lambda: synchronize(odd)),
        "frozen": error_of(lambda: synchronize(odd, [odd])),
    }


def prepare() -> None:
    """Makes training small and quiet."""
    loop.tqdm = partial(tqdm, disable=True)
    loop.LOG_EVERY = 1
    sys.modules["torch.utils.tensorboard"] = None  # type: ignore[assignment]
    BUILDERS["tiny"] = lambda _: TinyEncoder()


def main() -> int:
    data, out, *cases = sys.argv[1:]
    prepare()
    try:
        with joined("cpu"):
            for case in cases:
                folder = Path(out) / f"{case}-{rank()}"
                found = parts(Path(out)) if case == "parts" else run(case, Path(data), folder)
                torch.save(found, folder.with_suffix(".pt"))
    except OSError as error:
        print(f"process {os.environ['RANK']}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
