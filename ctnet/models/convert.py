"""Plain networks out of a CTN: what it does for one task needs no palette."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from torch import Tensor

from ctnet.label_tables import TableReader
from ctnet.labels import ClassAnchors
from ctnet.models.base import build
from ctnet.models.config import ModelConfig
from ctnet.models.ctn import CTN

State = dict[str, Tensor]

TABLES = "label_tables."
"""Where weights have their label tables, by task."""


def config_with_tables(config: ModelConfig, weights: State) -> ModelConfig:
    """Describes a network whose weights hold label tables.

    Args:
        config: The network without them, or with some of them.
        weights: Its weights; a task whose table is new to the configuration gets the table's own
            anchors (:meth:`ctnet.label_tables.TableReader.anchors`).
    """
    found = tuple(task for task in config.tasks if TABLES + task in weights)
    new = [task for task in found if task not in config.label_tables]
    kept = [entry for entry in config.anchors if entry.task not in new]
    own = [ClassAnchors(task, TableReader(weights[TABLES + task]).anchors()) for task in new]
    return replace(config, label_tables=found, anchors=(*kept, *own))


PALETTE_START = "seg"
"""Task of a CTN whose features a palette network starts from."""


def adapt_weights(weights: State, config: ModelConfig) -> State:
    """Turns weights into a start for a network of the same sizes and tasks, of any system.

    A network that learns gives other outputs, so label tables that it shall not have are left out.

    An MHN or STN that starts from a CTN does what that does for each task. A palette network has
    its features for segmentation, and a head of zeros.

    Args:
        weights: Weights of a CTN, or of the network's own system, which are left as they are.
        config: The network that starts.

    Raises:
        RuntimeError: If a CTN's encoder, decoder or tasks are others.
    """
    tables = {name for name in weights if name.startswith(TABLES)}
    dropped = tables - {TABLES + task for task in config.label_tables}
    if dropped:
        weights = {name: value for name, value in weights.items() if name not in dropped}
    if config.system == "ctn" or "representation.codes" not in weights:
        return weights
    model = cast(CTN, build(replace(config, system="ctn")))
    model.load_state_dict(weights, strict=True)
    encoder = {name: value for name, value in weights.items() if name.startswith("encoder.")}
    if config.system == "palette":
        decoder = _decoder(model, model.tasks.index(PALETTE_START))
        weight = decoder["head.weight"]
        decoder["head.weight"] = weight.new_zeros(len(model.tasks), *weight.shape[1:])
        decoder["head.bias"] = weight.new_zeros(len(model.tasks))
        return encoder | _under("decoder.", decoder)
    state: State = {} if config.system == "stn" else encoder
    for number in range(len(model.tasks)):
        decoder = _decoder(model, number)
        if config.system == "stn":
            state |= _under(f"networks.{number}.", encoder | _under("decoder.", decoder))
        else:
            state |= _under(f"decoders.{number}.", decoder)
    return state


def _decoder(model: CTN, task: int) -> State:
    return model.decoder.specialize(model.representation()[task]).state_dict()


def _under(prefix: str, state: State) -> State:
    return {prefix + name: value.detach().clone() for name, value in state.items()}
