"""The training loop, whatever is trained: resumable to the same numbers."""

from __future__ import annotations

import contextlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from safetensors.torch import load, load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ctnet.device import pick_device
from ctnet.networks.efficientnet_lite import EfficientNetLite
from ctnet.networks.encoders import Pretrained
from ctnet.networks.from_ctn import State, adapt_weights
from ctnet.networks.new_tasks import freeze_old_tasks
from ctnet.rules import R1, S, get_rule
from ctnet.training.config import TrainConfig
from ctnet.training.datasets import (
    CompositeDataset,
    LabelSource,
    Sample,
    StepSampler,
    collate,
    open_source,
    sampling_weights,
)
from ctnet.training.device_data import DeviceData, SharedBatch, SharedBatches, batch_palettes
from ctnet.training.distributed import (
    GradientSum,
    copy_from_main,
    from_main,
    is_main,
    open_on_main,
    own_rows,
    own_workers,
    require_same,
    sum_losses,
)
from ctnet.training.run_log import RunLog
from ctnet.training.synchronized import synchronize
from ctnet.training.transforms import training_transform

Network = TypeVar("Network", bound=nn.Module)

LOG_EVERY = 20

PALETTES = 1
"""Separates the chance of palettes from that of batches."""


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """Factor of the learning rate: linear warm-up, constant, linear to zero at the end."""
    rise = min(1.0, (step + 1) / max(1, config.warmup))
    fall = min(1.0, (config.steps - step) / max(1.0, config.decay * config.steps))
    return min(rise, fall)


class TrainingLoop(ABC, Generic[Network]):
    """Trains the network of a configuration; what is learned is for a subclass to say.

    Of several processes (:mod:`ctnet.training.distributed`) all make the loop and train; only the
    first validates and writes.

    Args:
        config: The run.
        folder: Where checkpoints and logs go; a run that is there already goes on.
        validate: Measures the averaged weights every ``validate_every`` steps; its entry ``score``
            decides which checkpoint is the best.
        source: Photographs and labels, in place of the data set that the configuration names.
        weights: Weights to start from, in place of those that the configuration names.

    Raises:
        ValueError: If the folder holds a run of another configuration, or another process has
            another one.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: str | Path,
        validate: Callable[[Network], Mapping[str, float]] | None = None,
        source: LabelSource | None = None,
        weights: State | None = None,
    ) -> None:
        self.config = config
        self.folder = Path(folder)
        self.validate = validate
        self.device = pick_device(config.device)
        if is_main():
            self.folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)
        heads = None
        if weights is None:
            weights, heads = _initial_weights(config.init)
        self.model = self._create_model(weights)
        copy_from_main(self.model)
        synchronize(self.model, _encoders(self.model) if config.frozen_statistics else ())
        self.average = _copy_state(self.model)
        self.dataset = CompositeDataset(
            source or open_source(config.layout, config.data, "train", config.model.tasks),
            None if config.rule == S else get_rule(config.rule, config.model.tasks),
            config.model.tasks,
            training_transform(config.size, config.scale),
            config.cache,
            config.task_shares,
            config.mosaic_share,
        )
        self._compare_processes()
        self.auxiliary = self._prepare(heads)
        if self.auxiliary is not None:
            copy_from_main(self.auxiliary)
        self.optimizer = self._create_optimizer()
        self._sum_gradients = GradientSum(
            p for group in self.optimizer.param_groups for p in group["params"]
        )
        self.autocast, self.scaler = self._precision()
        self.step = 0
        self.seconds = 0.0
        self._log: RunLog | None = None
        self._images, self._spent = 0, 0.0
        self.best = float("-inf")
        self._resume()

    @abstractmethod
    def _build(self, pretrained_encoder: Pretrained) -> Network:
        """Builds the network."""

    @abstractmethod
    def _prepare(self, heads: State | None) -> nn.Module | None:
        """Makes what the loss needs, and the heads that learn beside the network, if any.

        Args:
            heads: Weights of those heads, where the run starts from one that had them.
        """

    @abstractmethod
    def _loss(self, sample: Sample) -> tuple[Tensor, dict[str, float]]:
        """Runs the network on a batch: the total to minimise, and losses by name for the log."""

    def _create_model(self, weights: State | None) -> Network:
        pretrained: Pretrained = False
        if self.config.pretrained_encoder and weights is None:
            pretrained = self.config.encoder_weights or True
        model = self._build(pretrained)
        if weights is not None:
            model.load_state_dict(adapt_weights(weights, self.config.model), strict=True)
        return model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def _create_optimizer(self) -> torch.optim.Optimizer:
        config = self.config
        for encoder in _encoders(self.model):
            for part in _stages(encoder)[: config.frozen_stages]:
                part.requires_grad_(False)
        if config.only_added:
            freeze_old_tasks(self.model)
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

    def train(self) -> Network:
        """Runs to the last step and returns the best model by validation, in eval mode.

        Without validation that is the last one.
        """
        config = self.config
        show = tqdm if is_main() else partial(tqdm, disable=True)
        bar = show(
            self._batches(),
            initial=self.step,
            total=config.steps,
            unit="step",
            desc=config.name,
        )
        for sample in bar:
            shown = self.advance(sample)
            if shown:
                bar.set_postfix({name: f"{value:.3g}" for name, value in shown.items()})
        return self.finish()

    def _batches(self) -> Iterable[Sample]:
        config = self.config
        weights = sampling_weights(self.dataset, config.repeat_threshold, config.source_weights)
        steps = range(self.step, config.steps)
        rows = own_rows(config.batch_size)
        sampler = StepSampler(weights, config.batch_size, steps, config.seed, rows)
        if config.device_data and steps:
            data = DeviceData(self.dataset.source, config.model.tasks, self.device)
            shared = SharedBatches(data, config, weights)
            return (self.request(shared[step], step) for step in steps)
        loader: DataLoader[Sample] = DataLoader(
            self.dataset,
            batch_sampler=sampler,
            num_workers=own_workers(config.workers),
            collate_fn=collate,
            pin_memory=self.device.type == "cuda",
        )
        return loader

    def request(self, shared: SharedBatch, step: int) -> Sample:
        """Asks for tasks on a shared batch by the rule of this run.

        Returns:
            The rows of the batch that are for this process.
        """
        generator = np.random.default_rng((self.config.seed, step, PALETTES))
        shares = [self.config.task_shares.get(task, 1) for task in self.config.model.tasks]
        weights = shared.labelled * torch.tensor(shares, device=shared.labelled.device)
        palette = shared.sample.palette
        if self.dataset.rule is not None:
            palette = batch_palettes(
                self.dataset.rule, shared.sample, weights, generator, self.config.model.tasks
            )
        if self.config.mosaic_share:
            mosaic = batch_palettes(R1, shared.sample, weights, generator, self.config.model.tasks)
            draws = torch.from_numpy(generator.random(len(palette))).to(palette.device)
            chosen = draws < self.config.mosaic_share
            palette = torch.where(chosen[:, None, None], mosaic, palette)
        return replace(shared.sample, palette=palette).select(own_rows(len(palette)))

    def advance(self, sample: Sample) -> dict[str, float]:
        """Trains on one batch, writes log and checkpoints where they are due.

        Returns:
            Means of the losses, and images/s of all processes, every ``LOG_EVERY`` steps; nothing
            else.
        """
        config = self.config
        if self._log is None and is_main():
            self._log = RunLog(self.folder, self.step)
        started = time.monotonic()
        losses = self._train_step(sample.to(self.device))
        self.step += 1
        spent = time.monotonic() - started
        self.seconds += spent
        if self._log is None:
            return {}
        self._log.add(losses)
        self._images, self._spent = self._images + config.batch_size, self._spent + spent
        shown = {}
        last = self.step == config.steps
        if self.step % LOG_EVERY == 0 or last:
            rate = self._images / self._spent
            means = self._log.write_losses(self.step, self.optimizer, rate)
            shown = means | {"img/s": rate}
            self._images, self._spent = 0, 0.0
        if self.step % config.validate_every == 0 or last:
            self._checkpoint(self._log)
        return shown

    def finish(self) -> Network:
        """Ends the run: the best network by validation, or the last one, in eval mode."""
        if self._log is not None:
            self._log.close()
        model = self._build(False)
        name = from_main("best" if (self.folder / "best.safetensors").exists() else "last")
        file = open_on_main(self.folder / f"{name}.safetensors")
        if file is None:
            raise FileNotFoundError(f"no weights in {self.folder}: the run has yet to train.")
        with file:
            model.load_state_dict(load(file.read()), strict=True)
        return model.eval()

    def _train_step(self, sample: Sample) -> dict[str, float]:
        config = self.config
        factor = learning_rate_at(self.step, config)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * group["scale"] * factor
        # Statistics of norms serve old tasks too.
        self.model.train(not config.only_added)
        if config.frozen_statistics:
            for encoder in _encoders(self.model):
                encoder.eval()
        loss, parts = self._loss(sample)
        # Plain networks compute nothing where nothing is asked.
        if loss.requires_grad:
            self._update(loss)
        self._update_average()
        return sum_losses(parts)

    def _update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self._sum_gradients()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        if bool(torch.isfinite(norm)) or self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()

    @torch.no_grad()
    def _update_average(self) -> None:
        # Early on the average follows quickly, so that it forgets where training began.
        decay = min(self.config.average, (self.step + 1) / (self.step + 10))
        now = self.model.state_dict()
        for name, value in now.items():
            if not value.is_floating_point():
                self.average[name].copy_(value)
        names = [name for name, value in now.items() if value.is_floating_point()]
        follow = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        follow([self.average[name] for name in names], [now[name] for name in names], None)

    def _checkpoint(self, log: RunLog) -> None:
        weights = {k: v.contiguous().cpu() for k, v in self.average.items()}
        save_file(weights, self.folder / "last.safetensors")
        if self.validate is not None:
            model = self._build(False)
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

    def _compare_processes(self) -> None:
        config = self.config.to_dict()
        for name in ("data", "device", "workers", "cache", "encoder_weights", "init"):
            del config[name]
        require_same({"configuration": config, "data set": list(self.dataset.source.ids)})

    def _resume(self) -> None:
        file = open_on_main(self.folder / "state.pt")
        if file is None:
            return
        with file:
            state = torch.load(file, map_location=self.device, weights_only=True)
        # A run from before a field existed had the field's default.
        theirs = TrainConfig.from_dict(state["config"]).to_dict()
        ours = self.config.to_dict()
        free = {"steps", "decay", "device", "workers", "validate_every", "validate_images", "cache"}
        differ = [k for k in ours if k not in free and ours[k] != theirs[k]]
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


def _copy_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _encoders(model: nn.Module) -> list[nn.Module]:
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
    if "/" in init and ":" not in init:
        raise FileNotFoundError(f"no run at {init} to start from: train it first.")
    from ctnet.zoo import load

    return load(init).state_dict(), None
