"""The training loop, whatever is trained: phase by phase, resumable to the same numbers."""

from __future__ import annotations

import contextlib
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ctnet.blocks.efficientnet_lite import EfficientNetLite
from ctnet.blocks.encoders import Pretrained
from ctnet.data.balance import class_balance, write_balance
from ctnet.data.crop_batches import CropBatches, RequestedBatches, Requests
from ctnet.data.label_source import LabelSource
from ctnet.data.photograph_stack import PhotographStack
from ctnet.data.sample import Sample
from ctnet.data.sampling import (
    Balance,
    ClassDraws,
    StepDraws,
    count_classes,
    sampling_weights,
)
from ctnet.data.wrapped import CachedSource
from ctnet.models.add_task import freeze_old_tasks
from ctnet.models.convert import State, adapt_weights
from ctnet.models.device import pick_device
from ctnet.rules import Rule, S, get_rule
from ctnet.training.config import Span, TrainConfig
from ctnet.training.content import RunContent
from ctnet.training.distributed import (
    GradientSum,
    anywhere,
    copy_from_main,
    from_main,
    is_main,
    is_shared,
    own_rows,
    own_workers,
    require_same,
    sum_losses,
)
from ctnet.training.only_tasks import TaskAffines
from ctnet.training.resume import differences
from ctnet.training.run_folder import RunFolder
from ctnet.training.run_log import RunLog
from ctnet.training.stop import RunStoppedError, StopSignals, init_worker
from ctnet.training.synchronized import synchronize

Network = TypeVar("Network", bound=nn.Module)

LOG_EVERY = 20

SAVE_SECONDS = 120.0
"""Seconds of training between saves of the state, in addition to those at validations."""

MOST_SKIPPED = 50
"""Number of steps in a row without a finite gradient after which a run counts as diverged."""

TOTAL = "total"
"""Name of the whole loss among those of the tasks."""


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """Factor of the learning rate: linear warm-up, constant, linear to zero at the end.

    Args:
        step: Step of the phase.
        config: What holds in it.
    """
    rise = min(1.0, (step + 1) / max(1, config.warmup_steps))
    fall = min(1.0, (config.steps - step) / max(1.0, config.lr_decay_fraction * config.steps))
    return min(rise, fall)


class DivergedError(ValueError):
    """Losses, gradients or weights of a run are no longer finite."""


class TrainingLoop(ABC, Generic[Network]):
    """Trains the network of a configuration; subclasses define the loss.

    Of several processes (:mod:`ctnet.training.distributed`) all make the loop and train; only the
    first validates and writes.

    The folder is this loop's alone until :meth:`close`, which :meth:`train` ends with.

    Args:
        config: The run.
        folder: Where checkpoints and logs go; a run that is there already goes on.
        validate: Measures the averaged weights every ``validate_every`` steps; its entry ``score``
            decides which checkpoint is the best.
        source: Photographs and labels, instead of the data set that the configuration names.
        weights: Weights to start from, instead of those that the configuration names.

    Attributes:
        images: Images that this loop has trained on, of all processes.
        signals: What stops the run; :meth:`train` catches them.

    Raises:
        ValueError: If the folder holds a run of another configuration, rule or data, another
            training is in it, or another process has another configuration.
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
        self.files = RunFolder(folder)
        self.signals = StopSignals(waits=is_shared())
        self.validate = validate
        self.device = pick_device(config.device)
        torch.manual_seed(config.seed)
        heads = None
        if weights is None:
            weights, heads = _initial_weights(config.init)
        self.model = self._create_model(weights)
        copy_from_main(self.model)
        still = all(span.config.frozen_statistics for span in config.spans)
        synchronize(self.model, find_encoders(self.model) if still else ())
        self.average = _copy_state(self.model)
        self.span = config.span_at(0)
        self.rule = None if config.rule == S else get_rule(config.rule, config.model.tasks)
        self.source = source or config.open_data()
        if config.cache and not isinstance(self.source, CachedSource):
            self.source = CachedSource(self.source)
        self._compare_processes()
        self.content = self._read_content(weights)
        self._counts: dict[str, Tensor] = {}
        self.auxiliary = self._prepare(weights, heads)
        if self.auxiliary is not None:
            copy_from_main(self.auxiliary)
        self._begin_phase()
        self.optimizer = self._create_optimizer()
        self.schedule = self._create_schedule(0)
        self.sum_gradients = GradientSum(_learned(self.optimizer))
        self.autocast, self.scaler = self._precision()
        self.step = 0
        self.seconds = 0.0
        self._log: RunLog | None = None
        self._logged: Mapping[str, list[float]] = {}
        self.images = 0
        self._images, self._spent = 0, 0.0
        self.best = float("-inf")
        self._skipped = 0
        self._within_step = False
        self._must_validate = False
        self._saved_step, self._saved_at = 0, time.monotonic()
        self.files.lock()
        try:
            self._resume()
        except BaseException:
            self.close()
            raise

    @property
    def phase(self) -> TrainConfig:
        """What holds in the present phase."""
        return self.span.config

    @abstractmethod
    def _build(self, pretrained_encoder: Pretrained) -> Network:
        """Builds the network."""

    @abstractmethod
    def _prepare(self, weights: State | None, heads: State | None) -> nn.Module | None:
        """Makes the heads that learn beside the network, if any.

        Args:
            weights: Weights that the run starts from, if any.
            heads: Weights of those heads, where the run starts from one that had them.
        """

    @abstractmethod
    def _begin_phase(self) -> None:
        """Makes the loss of the present phase."""

    @abstractmethod
    def compute_loss(self, sample: Sample) -> tuple[Tensor, dict[str, float]]:
        """Runs the network on a batch: the total to minimize, and losses by name for the log."""

    def _create_result(self, weights: State) -> Network:
        """Builds the network that the run results in, with its weights."""
        model = self._build(False)
        model.load_state_dict(weights, strict=True)
        return model.eval()

    def _result_weights(self) -> State:
        return self.average

    def _create_model(self, weights: State | None) -> Network:
        pretrained: Pretrained = False
        if self.config.pretrained_encoder and weights is None:
            pretrained = self.config.encoder_weights or True
        model = self._build(pretrained)
        if weights is not None:
            model.load_state_dict(adapt_weights(weights, self.config.model), strict=True)
        return model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def _create_optimizer(self) -> torch.optim.Optimizer:
        config = self.phase
        # The phase before may have frozen more.
        self.model.requires_grad_(True)
        for encoder in find_encoders(self.model):
            for number, part in enumerate(_stages(encoder)):
                part.requires_grad_(number >= config.frozen_stages)
        self.affines: TaskAffines | None = None
        if config.only_added:
            freeze_old_tasks(self.model)
        elif config.only_tasks:
            self.affines = TaskAffines(self.model, config.only_tasks)
        slow = {id(p) for encoder in find_encoders(self.model) for p in encoder.parameters()}
        trained = [p for p in self.model.parameters() if p.requires_grad]
        if self.auxiliary is not None:
            trained += [p for p in self.auxiliary.parameters() if p.requires_grad]
        rate = config.learning_rate
        groups = [
            {"params": [p for p in trained if id(p) in slow], "lr": rate * config.encoder_lr_scale},
            {"params": [p for p in trained if id(p) not in slow], "lr": rate},
        ]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]],
            rate,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def _create_schedule(self, step: int) -> LambdaLR:
        """Creates the schedule of the learning rate, starting at a step of the phase."""
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        rate = partial(learning_rate_at, config=self.phase)
        return LambdaLR(self.optimizer, rate, last_epoch=step - 1)

    def _enter(self, span: Span) -> None:
        """Goes on with a phase; what the optimizer knows of weights that go on learning stays."""
        if span.number == self.span.number:
            return
        self.span = span
        if span.config.only_tasks:
            # What stays as it is in such a phase is what the run has come to: the average.
            self.model.load_state_dict(self.average)
        self._begin_phase()
        known = self.optimizer.state
        # Gradients of what learns no more would count when the others are clipped.
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer = self._create_optimizer()
        self.schedule = self._create_schedule(0)
        self.sum_gradients = GradientSum(_learned(self.optimizer))
        for parameter in _learned(self.optimizer):
            if parameter in known:
                self.optimizer.state[parameter] = known[parameter]

    def class_counts(self, task: str) -> Tensor:
        """Returns the pixels of each class of a task on each photograph (N,C), counted once."""
        if task not in self._counts:
            self._counts[task] = count_classes(self.source, task)
        return self._counts[task]

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

        Raises:
            RunStoppedError: After SIGINT or SIGTERM, with the state saved.
            DivergedError: If the loss is not finite; nothing is written then.
        """
        self.files.lock()
        try:
            with self.signals.caught():
                self._run()
                return self.finish()
        except KeyboardInterrupt:
            raise self.stopped() from None
        except ConnectionError:
            # Processes that are stopped together end one after the other.
            if self.signals.requested:
                raise self.stopped() from None
            raise
        finally:
            self.close()

    def _run(self) -> None:
        config = self.config
        show = tqdm if is_main() else partial(tqdm, disable=True)
        with show(
            self.batches(),
            initial=self.step,
            total=config.steps,
            unit="step",
            desc=config.name,
        ) as bar:
            for sample in bar:
                shown = self.advance(sample)
                if shown:
                    bar.set_postfix({name: f"{value:.3g}" for name, value in shown.items()})
                requested = torch.tensor(self.signals.requested, device=self.device)
                if is_shared() and anywhere([requested])[0]:
                    raise KeyboardInterrupt

    def stopped(self) -> RunStoppedError:
        """Saves the state where a run is stopped and returns what says where it goes on."""
        if is_main() and self.step > self._saved_step and not self._within_step:
            self._save_state()
        if not self._saved_step:
            return RunStoppedError("stopped before there was anything to save.")
        return RunStoppedError(
            f"stopped; the same command goes on from step {self._saved_step} of "
            f"{self.config.steps}."
        )

    def close(self) -> None:
        """Closes the log and lets other trainings into the folder."""
        if self._log is not None:
            self._log.close()
            self._log = None
        self.files.unlock()

    def batches(self) -> Iterator[Sample]:
        """Yields the batches of all phases; train on each before you ask for the next."""
        stack: PhotographStack | None = None
        while self.step < self.config.steps:
            self._enter(self.config.span_at(self.step))
            config, steps = self.phase, range(self.step, self.span.end)
            class_maps = self.class_maps
            if config.device_data and stack is None:
                tasks = config.model.tasks
                stack = PhotographStack.load(self.source, tasks, self.device, class_maps)
            crops = CropBatches(
                self.source,
                config.model.tasks,
                self.draws(self.rule),
                config.crop_size,
                config.scale_range,
                own_rows(config.batch_size),
                stack,
                class_maps,
            )
            batches = RequestedBatches(crops, self.requests)
            if stack is not None:
                yield from (batches[step] for step in steps)
                continue
            loader: DataLoader[Sample] = DataLoader(
                batches,
                batch_size=None,
                sampler=steps,
                num_workers=own_workers(config.workers),
                worker_init_fn=init_worker,
            )
            yield from loader

    @property
    def class_maps(self) -> tuple[str, ...]:
        """The class maps that are needed whatever the tasks: the rule's, and for class balance."""
        reads = () if self.rule is None else (self.rule.reads,)
        return tuple(dict.fromkeys(("seg", *reads)))

    @property
    def requests(self) -> Requests:
        """What the rule asks for in the present phase."""
        return Requests(
            self.rule,
            self.config.model.tasks,
            self.config.seed,
            self.phase.task_shares,
            self.phase.mosaic_fraction,
        )

    def draws(self, rule: Rule | None) -> StepDraws:
        """Returns which photographs each step of the present phase takes, if a rule asks."""
        config = self.phase
        weights = sampling_weights(self.source, rule, config.source_weights)
        classes = None
        if config.class_balanced_fraction:
            counts = self.class_counts("seg")
            classes = ClassDraws.create(config.class_balanced_fraction, counts, weights)
        return StepDraws(weights, config.batch_size, config.seed, classes)

    def _open_log(self) -> RunLog:
        """Opens the log; that of a new run begins with what the network will see of each class."""
        log = RunLog(self.folder, self.step, self._logged)
        if self.step:
            self._note_phase(log)
            return log
        draws = self.draws(self.rule)
        for task, counts in self._counts.items():
            balance = Balance.compute(self.source, task, counts, draws.weights, draws.classes)
            balance.write(self.folder / f"balance-{task}.csv")
            log.note(self.step, str(balance))
        if self._counts:
            balances = [class_balance(self.source, task, n) for task, n in self._counts.items()]
            write_balance(self.folder / "classes.csv", balances)
        self._note_phase(log)
        return log

    def _note_phase(self, log: RunLog) -> None:
        if self.config.phases:
            changes = self.config.phases[self.span.number].to_dict()
            named = ", ".join(f"{key} {value}" for key, value in changes.items() if key != "name")
            number = f"{self.span.number + 1} of {len(self.config.phases)}"
            log.note(self.step, f"phase {number}, {self.span.name}: {named}")

    def advance(self, sample: Sample) -> dict[str, float]:
        """Trains on one batch, writes log and checkpoints where they are due.

        Returns:
            Means of the losses, and images/s of all processes, every ``LOG_EVERY`` steps; nothing
            else.
        """
        if self._must_validate:
            self._validate_saved()
        self._enter(self.config.span_at(self.step))
        config = self.phase
        if self._log is not None and self.step == self.span.start:
            self._note_phase(self._log)
        if self._log is None and is_main():
            self._log = self._open_log()
        started = time.monotonic()
        with self.signals.held():
            self._within_step = True
            losses = self.train_step(sample.to(self.device))
            spent = time.monotonic() - started
            self.step += 1
            self.images += config.batch_size
            self.seconds += spent
            self._images, self._spent = self._images + config.batch_size, self._spent + spent
            if self._log is not None:
                self._log.add(losses)
            self._within_step = False
        shown = {}
        last = self.step == self.config.steps
        if self._log is not None and (self.step % LOG_EVERY == 0 or last):
            rate = self._images / self._spent
            means = self._log.write_losses(self.step, self.optimizer, rate)
            shown = means | {"img/s": rate}
            self._images, self._spent = 0, 0.0
        self.schedule.step()
        if self.step % config.validate_every == 0 or last:
            self._checkpoint()
        elif is_main() and time.monotonic() - self._saved_at > SAVE_SECONDS:
            self._save_state()
        return shown

    def finish(self) -> Network:
        """Ends the run: the best network by validation, or the last one, in eval mode."""
        if self._must_validate:
            self._validate_saved()
        result = self._create_result(self.files.read_weights())
        self.close()
        return result

    def train_step(self, sample: Sample) -> dict[str, float]:
        """Trains on a batch and returns the losses by name; :meth:`advance` counts the step."""
        config = self.phase
        # Statistics of norms serve the other tasks too.
        self.model.train(not (config.only_added or config.only_tasks))
        if config.frozen_statistics:
            for encoder in find_encoders(self.model):
                encoder.eval()
        loss, parts = self.compute_loss(sample)
        losses = sum_losses(parts | {TOTAL: float(loss.detach())})
        if not all(map(math.isfinite, losses.values())):
            named = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
            raise self._diverged(f"the loss is not finite ({named})")
        # Plain networks compute nothing where nothing is asked.
        if loss.requires_grad:
            self._update(loss)
        self._update_average()
        del losses[TOTAL]
        return losses

    def _diverged(self, what: str) -> DivergedError:
        kept = ""
        if self._saved_step:
            kept = (
                f" {self.folder} keeps the state of step {self._saved_step}: another run starts "
                f'there by init = "{self.folder}".'
            )
        return DivergedError(
            f"{self.config.name} diverges: at step {self.step + self._within_step} {what}, the "
            f"learning rate {self.optimizer.param_groups[-1]['lr']:.3g}. Lower it.{kept}"
        )

    def _update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.sum_gradients()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.phase.grad_clip_norm)
        finite = bool(torch.isfinite(norm))
        self._skipped = 0 if finite else self._skipped + 1
        if self._skipped > MOST_SKIPPED:
            raise self._diverged(f"{MOST_SKIPPED} gradients in a row were not finite")
        if finite or self.scaler.is_enabled():
            kept = contextlib.nullcontext if self.affines is None else self.affines.others_kept
            with kept():
                self.scaler.step(self.optimizer)
            self.scaler.update()

    def _average_decay(self) -> float:
        """Decay of the moving average at the present step."""
        # Early on the average follows quickly, so that it forgets where training began.
        return min(self.phase.ema_decay, (self.step + 1) / (self.step + 10))

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = self._average_decay()
        now = self.model.state_dict()
        for name, value in now.items():
            if not value.is_floating_point():
                self.average[name].copy_(value)
        names = [name for name, value in now.items() if value.is_floating_point()]
        follow = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        follow([self.average[name] for name in names], [now[name] for name in names], None)

    def _checkpoint(self) -> None:
        """Saves weights and state, and validates."""
        self._check_weights()
        if not is_main():
            return
        self.files.write_weights("last", self._portable_weights())
        # The full output of a network that learns at coarse strides means nothing yet.
        self._must_validate = self.validate is not None and not self.phase.coarse_only
        # First, so that whatever ends a validation costs no step.
        self._save_state()
        if self._must_validate:
            self._validate_saved()

    def _validate_saved(self) -> None:
        """Validates the weights of the state that was saved last."""
        if self._log is None:
            self._log = self._open_log()
        weights = self._portable_weights()
        with self.signals.held(waits=False):
            metrics = self._measure(self._create_result(weights).to(self.device), self._log)
        self._must_validate = False
        if metrics is not None:
            self._log.write_metrics(self.step, metrics)
            score = float(metrics["score"])
            if score > self.best:
                self.best = score
                self.files.write_weights("best", weights)
        self._save_state()

    def _measure(self, network: Network, log: RunLog) -> Mapping[str, float] | None:
        if self.validate is None:
            return None
        try:
            return self.validate(network)
        except Exception as error:
            # Whatever it is, what was learned is worth more than a measure of it.
            log.note(self.step, f"not validated, {type(error).__name__}: {error}")
            return None

    def _portable_weights(self) -> State:
        return {k: v.contiguous().cpu() for k, v in self._result_weights().items()}

    def _check_weights(self) -> None:
        """Checks that what is about to be saved is finite.

        Raises:
            DivergedError: If it is not.
        """
        for weights in (self.model.state_dict(), self.average):
            for name, value in weights.items():
                if not bool(value.isfinite().all()):
                    raise self._diverged(f"{name} is not finite")

    def _save_state(self) -> None:
        self._check_weights()
        logged = self._logged if self._log is None else self._log.pending
        self.files.write_state(
            {
                "config": self.config.to_dict(), "content": self.content, "step": self.step,
                "seconds": self.seconds, "best": self.best, "must_validate": self._must_validate,
                "logged": dict(logged), "model": self.model.state_dict(), "average": self.average,
                "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(),
                "auxiliary": None if self.auxiliary is None else self.auxiliary.state_dict(),
            }
        )  # fmt: skip
        self._saved_step, self._saved_at = self.step, time.monotonic()

    def _read_content(self, weights: State | None) -> dict[str, Any]:
        if not is_main():
            return {}
        config = self.config
        encoder = config.encoder_weights if config.pretrained_encoder else None
        content = RunContent.read(self.rule, self.source, config.model.tasks, weights, encoder)
        return content.to_dict()

    def _compare_processes(self) -> None:
        config = self.config.to_dict()
        for name in ("data", "device", "workers", "cache", "encoder_weights", "init"):
            del config[name]
        require_same({"configuration": config, "data set": list(self.source.ids)})

    def _resume(self) -> None:
        state = self.files.read_state(self.device)
        if state is None:
            return
        # A run from before a field existed had the field's default.
        try:
            theirs = TrainConfig.from_dict(state["config"])
            made_of = RunContent(**state["content"])
        except (ValueError, KeyError) as error:
            raise ValueError(f"{self.folder} holds a run of another ctnet: {error}") from error
        differ = differences(self.config, theirs, state["step"])
        if is_main():
            differ += RunContent(**self.content).differences(made_of)
        differ = from_main(differ)
        if differ:
            raise ValueError(
                f"{self.folder} holds another run; its weights are not those of this one: it "
                f"differs in {', '.join(differ)}. Choose another folder, or the same as then."
            )
        self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
        self._saved_step, self._logged = self.step, state["logged"]
        self._must_validate = state["must_validate"] and is_main()
        # The optimizer's state is that of the phase that the last step was in.
        self._enter(self.config.span_at(self.step - 1))
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule = self._create_schedule(self.step - self.span.start)
        self.scaler.load_state_dict(state["scaler"])
        if self.auxiliary is not None:
            self.auxiliary.load_state_dict(state["auxiliary"])


def _copy_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _learned(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def find_encoders(model: nn.Module) -> list[nn.Module]:
    """Returns the encoders of a network: one, or one of each task of an STN."""
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
    from ctnet.models.pretrained import load

    return load(init).state_dict(), None
