"""The training loop: resumable to the same numbers, best checkpoint by validation."""

from __future__ import annotations

import contextlib
import csv
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ctnet.device import pick_device
from ctnet.networks.composite import CompositeModel, build
from ctnet.networks.efficientnet_lite import EfficientNetLite
from ctnet.rules import get_rule
from ctnet.tasks import get_task
from ctnet.training.auxiliary import AuxiliaryHeads
from ctnet.training.config import TrainConfig
from ctnet.training.datasets import (
    CompositeDataset,
    Sample,
    StepSampler,
    collate,
    open_source,
    sampling_weights,
)
from ctnet.training.losses import CompositeLoss, balanced_class_weights
from ctnet.training.transforms import training_transform

Validate = Callable[[CompositeModel], Mapping[str, float]]
"""Measures a model; the entry ``score`` decides which checkpoint is the best."""

State = dict[str, Tensor]

LOG_EVERY = 20


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """Factor of the learning rate: linear warm-up, constant, linear to zero at the end."""
    rise = min(1.0, (step + 1) / max(1, config.warmup))
    fall = min(1.0, (config.steps - step) / max(1.0, config.decay * config.steps))
    return min(rise, fall)


class Trainer:
    """Trains the network of a configuration.

    Args:
        config: The run.
        folder: Where checkpoints and logs go; a run that is there already goes on.
        validate: Measures the averaged weights every ``validate_every`` steps.

    Raises:
        ValueError: If the folder holds a run of another configuration.
    """

    def __init__(
        self, config: TrainConfig, folder: str | Path, validate: Validate | None = None
    ) -> None:
        self.config = config
        self.folder = Path(folder)
        self.validate = validate
        self.device = pick_device(config.device)
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)
        weights, heads = _initial_weights(config.init)
        self.model = self._create_model(weights)
        self.average = _copy_state(self.model)
        self.dataset = CompositeDataset(
            open_source(config.layout, config.data, "train"),
            get_rule(config.rule, config.model.tasks),
            config.model.tasks,
            training_transform(config.size, config.scale),
            config.cache,
            config.task_shares,
            config.mosaic_share,
        )
        self.weights = sampling_weights(
            self.dataset, config.repeat_threshold, config.source_weights
        )
        self.loss = CompositeLoss(
            config.model.tasks,
            config.loss_weights,
            config.focal_gamma,
            self._class_weights(),
            config.sharpness,
            config.guidance,
        )
        self.auxiliary = self._create_auxiliary(heads)
        self.optimizer = self._create_optimizer()
        self.autocast, self.scaler = self._precision()
        self.step = 0
        self.seconds = 0.0
        self.best = float("-inf")
        self._resume()

    def _create_model(self, weights: State | None) -> CompositeModel:
        model = build(self.config.model, self.config.pretrained_encoder and weights is None)
        if weights is not None:
            model.load_state_dict(weights, strict=True)
        return model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def _class_weights(self) -> dict[str, Tensor]:
        if not self.config.class_power:
            return {}
        found = {}
        for name in self.config.model.tasks:
            task = get_task(name)
            if task.kind != "classes":
                continue
            counts = torch.zeros(256, dtype=torch.int64)
            for index in range(len(self.dataset)):
                label = self.dataset.raw(index).get(name)
                if label is not None:
                    counts += torch.bincount(torch.from_numpy(label).flatten(), minlength=256)
            found[name] = balanced_class_weights(
                counts[: len(task.classes)], self.config.class_power
            )
        return found

    def _create_auxiliary(self, weights: State | None) -> AuxiliaryHeads | None:
        if not self.config.auxiliary:
            return None
        heads = AuxiliaryHeads(self.model, self.loss)
        if weights is not None:
            heads.load_state_dict(weights)
        return heads.to(self.device)

    def _create_optimizer(self) -> torch.optim.Optimizer:
        config = self.config
        for encoder in _encoders(self.model):
            for part in _stages(encoder)[: config.frozen_stages]:
                part.requires_grad_(False)
        slow = {id(p) for encoder in _encoders(self.model) for p in encoder.parameters()}
        trained = [p for p in self.model.parameters() if p.requires_grad]
        if self.auxiliary is not None:
            trained += self.auxiliary.parameters()
        groups = [
            {"params": [p for p in trained if id(p) in slow], "scale": config.encoder_rate},
            {"params": [p for p in trained if id(p) not in slow], "scale": 1.0},
        ]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]],
            config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def _precision(self) -> tuple[Callable[[], contextlib.AbstractContextManager[Any]], Any]:
        name = self.config.precision
        if name == "auto":
            name = "bf16" if self.device.type == "cuda" else "fp32"
        scaler = torch.amp.GradScaler(self.device.type, enabled=name == "fp16")
        if name == "fp32":
            return contextlib.nullcontext, scaler
        dtype = torch.bfloat16 if name == "bf16" else torch.float16
        return lambda: torch.autocast(self.device.type, dtype), scaler

    def train(self) -> CompositeModel:
        """Runs to the last step and returns the best model by validation, in eval mode.

        Without validation that is the last one.
        """
        config = self.config
        loader: DataLoader[Sample] = DataLoader(
            self.dataset,
            batch_sampler=StepSampler(
                self.weights, config.batch_size, range(self.step, config.steps), config.seed
            ),
            num_workers=config.workers,
            collate_fn=collate,
            pin_memory=self.device.type == "cuda",
        )
        log = RunLog(self.folder, self.step)
        started, first, before = time.monotonic() - self.seconds, self.step, self.seconds
        bar = tqdm(loader, initial=self.step, total=config.steps, unit="step", desc=config.name)
        for sample in bar:
            losses = self._train_step(sample.to(self.device))
            self.step += 1
            self.seconds = time.monotonic() - started
            log.add(losses)
            if self.step % LOG_EVERY == 0 or self.step == config.steps:
                rate = (self.step - first) * config.batch_size / (self.seconds - before)
                means = log.write_losses(self.step, self.optimizer, rate)
                shown = {name: f"{value:.3g}" for name, value in means.items()}
                bar.set_postfix(shown | {"img/s": f"{rate:.1f}"})
            if self.step % config.validate_every == 0 or self.step == config.steps:
                self._checkpoint(log)
        log.close()
        model = build(config.model)
        name = "best" if (self.folder / "best.safetensors").exists() else "last"
        model.load_state_dict(load_file(self.folder / f"{name}.safetensors"), strict=True)
        return model.eval()

    def _train_step(self, sample: Sample) -> dict[str, float]:
        config = self.config
        factor = learning_rate_at(self.step, config)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * group["scale"] * factor
        self.model.train()
        if config.frozen_statistics:
            for encoder in _encoders(self.model):
                encoder.eval()
        coarse = self.step < config.coarse_steps
        if self.auxiliary is not None:
            self.auxiliary.set_coarse(coarse)
        image = sample.image.contiguous(memory_format=torch.channels_last)
        with self.autocast():
            composite = self.model(image, sample.palette)
        loss, parts = self._losses(composite, sample, coarse)
        # Plain networks compute nothing where nothing is asked.
        if loss.requires_grad:
            self._update(loss)
        self._update_average()
        return parts

    def _losses(
        self, composite: Tensor, sample: Sample, coarse: bool
    ) -> tuple[Tensor, dict[str, float]]:
        if self.auxiliary is None:
            return self.loss(composite, sample)
        result = self.auxiliary(sample)
        extra = self.config.auxiliary * result.total
        if coarse:
            return extra, result.losses
        loss, parts = self.loss(composite, sample, result.guides)
        return loss + extra, parts

    def _update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        if bool(torch.isfinite(norm)) or self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()

    @torch.no_grad()
    def _update_average(self) -> None:
        # Early on the average follows quickly, so that it forgets where training began.
        decay = min(self.config.average, (self.step + 1) / (self.step + 10))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    def _checkpoint(self, log: RunLog) -> None:
        weights = {k: v.contiguous().cpu() for k, v in self.average.items()}
        save_file(weights, self.folder / "last.safetensors")
        if self.validate is not None:
            model = build(self.config.model)
            model.load_state_dict(weights)
            metrics = self.validate(model.to(self.device).eval())
            log.write_metrics(self.step, metrics)
            score = float(metrics["score"])
            if score > self.best:
                self.best = score
                save_file(weights, self.folder / "best.safetensors")
        state = {
            "config": self.config.to_dict(), "step": self.step, "seconds": self.seconds,
            "best": self.best, "model": self.model.state_dict(), "average": self.average,
            "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(),
            "auxiliary": None if self.auxiliary is None else self.auxiliary.state_dict(),
        }  # fmt: skip
        partial = self.folder / "state.pt.partial"
        torch.save(state, partial)
        partial.replace(self.folder / "state.pt")
        run = {"config": state["config"], "step": self.step, "seconds": round(self.seconds)}
        (self.folder / "run.json").write_text(json.dumps(run, indent=1) + "\n")

    def _resume(self) -> None:
        path = self.folder / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        # A run from before a field existed had the field's default.
        theirs = TrainConfig(self.config.name).to_dict() | state["config"]
        ours = self.config.to_dict()
        free = {"steps", "decay", "device", "workers", "validate_every", "validate_images", "cache"}
        differ = [k for k in ours if k not in free and _plain(ours[k]) != _plain(theirs[k])]
        if differ:
            raise ValueError(
                f"{self.folder} holds a run of another configuration (differs in "
                f"{', '.join(differ)}); choose another folder or the same configuration."
            )
        self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.auxiliary is not None:
            self.auxiliary.load_state_dict(state["auxiliary"])


class RunLog:
    """Losses and metrics as CSV and, where the package is there, for TensorBoard.

    Args:
        folder: Where ``losses.csv``, ``metrics.csv`` and the event files go.
        step: Rows after this step, left from an interrupted run, are dropped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.folder = folder
        for name in ("losses.csv", "metrics.csv"):
            _drop_rows_after(folder / name, step)
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._board: Any = SummaryWriter(str(folder), purge_step=step + 1)
        except ImportError:
            self._board = None

    def add(self, losses: Mapping[str, float]) -> None:
        """Adds the losses of a step to the running means."""
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def write_losses(
        self, step: int, optimizer: torch.optim.Optimizer, rate: float
    ) -> dict[str, float]:
        """Writes the means since the last time and returns them."""
        means = {name: self._sums[name] / self._counts[name] for name in sorted(self._sums)}
        self._sums, self._counts = {}, {}
        rate_now = optimizer.param_groups[-1]["lr"]
        self._write("losses.csv", step, means | {"learning_rate": rate_now, "images_per_s": rate})
        return means

    def write_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the figures of a validation."""
        self._write("metrics.csv", step, metrics)

    def _write(self, name: str, step: int, values: Mapping[str, float]) -> None:
        with (self.folder / name).open("a", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([step, key, f"{value:.6g}"] for key, value in values.items())
        if self._board is not None:
            for key, value in values.items():
                self._board.add_scalar(f"{name.removesuffix('.csv')}/{key}", value, step)

    def close(self) -> None:
        """Flushes and closes the event files."""
        if self._board is not None:
            self._board.close()


def _drop_rows_after(path: Path, step: int) -> None:
    if path.exists():
        rows = path.read_text().splitlines(keepends=True)
        path.write_text("".join(row for row in rows if int(row.split(",")[0]) <= step))


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _copy_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _encoders(model: CompositeModel) -> list[nn.Module]:
    networks = getattr(model, "networks", [model])
    return [network.encoder for network in networks]


def _stages(encoder: nn.Module) -> list[nn.Module]:
    """Parts of an encoder in the order in which the image passes them."""
    if isinstance(encoder, EfficientNetLite):
        return [encoder.stem, *encoder.stages]
    children = list(encoder.children())
    # timm's networks come in a wrapper.
    return _stages(children[0]) if len(children) == 1 else children


def _initial_weights(init: str | None) -> tuple[State | None, State | None]:
    """Reads the weights to start from, and those of auxiliary heads where a run has them."""
    if init is None:
        return None, None
    if Path(init).is_dir():
        state = torch.load(Path(init) / "state.pt", map_location="cpu", weights_only=True)
        return state["average"], state["auxiliary"]
    if init.endswith(".safetensors"):
        return load_file(init), None
    from ctnet.zoo import load

    return load(init).state_dict(), None
