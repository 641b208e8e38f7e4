"""The content of a run, by digest: a path may change when a run resumes, its content may not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctnet.data.label_source import LabelSource
from ctnet.data.wrapped import source_files
from ctnet.rules import Rule

MOST_NAMED = 3
"""Names of photographs in a message."""


@dataclass(frozen=True)
class RunContent:
    """What a run is made of.

    Attributes:
        rule: What the rule asks for: its kind, and the task of each class.
        start: Digest of the weights or the file that the network starts from, None for none.
        photographs: Digest of each photograph with its labels, by name.
    """

    rule: Mapping[str, str]
    start: str | None
    photographs: Mapping[str, str]

    @classmethod
    def read(
        cls,
        rule: Rule | None,
        source: LabelSource,
        tasks: Sequence[str],
        weights: Mapping[str, Tensor] | None = None,
        encoder: str | None = None,
    ) -> RunContent:
        """Reads all files of the data, once.

        Args:
            rule: The rule; None for ``S``.
            source: Photographs and labels.
            tasks: Names of the tasks whose labels count.
            weights: Weights that the network starts from, if any.
            encoder: Without them, the file that the encoder's weights are read from, if any.
        """
        facts = {"kind": "S"}
        if rule is not None:
            facts = {"kind": rule.kind, **({"task": rule.task} if rule.task else {})}
            facts |= dict(sorted(rule.mapping))
        start = None if weights is None else _digest_weights(weights)
        if start is None and encoder is not None and Path(encoder).is_file():
            start = hashlib.sha256(Path(encoder).read_bytes()).hexdigest()
        named = dict.fromkeys((*tasks, "seg"))
        photographs = {
            name: _digest_photograph(source, index, tuple(named))
            for index, name in enumerate(source.ids)
        }
        return cls(facts, start, photographs)

    def to_dict(self) -> dict[str, Any]:
        """Returns it as plain types, which the constructor takes by name."""
        return asdict(self)

    def differences(self, earlier: RunContent) -> list[str]:
        """Lists the differences, in words."""
        differ = []
        for key in sorted(self.rule.keys() | earlier.rule.keys()):
            now, then = self.rule.get(key, "nothing"), earlier.rule.get(key, "nothing")
            if now != then:
                differ.append(f"rule ({key}: {now}, then {then})")
                break
        ours, theirs = self.photographs, earlier.photographs
        changed = [name for name in ours if name in theirs and ours[name] != theirs[name]]
        for what, names in (
            ("changed", changed),
            ("new", [name for name in ours if name not in theirs]),
            ("gone", [name for name in theirs if name not in ours]),
        ):
            if names:
                more = ", ..." if len(names) > MOST_NAMED else ""
                shown = f"{', '.join(names[:MOST_NAMED])}{more}"
                differ.append(f"data ({len(names)} of {len(theirs)} photographs {what}: {shown})")
        if self.start != earlier.start:
            differ.append("weights to start from")
        return differ


def _digest_weights(weights: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu()
        # Machines differ in the last bits of what they compute, as of an added task's embedding.
        rounded = value.to(torch.bfloat16) if value.is_floating_point() else value
        found.update(name.encode())
        found.update(rounded.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _digest_photograph(source: LabelSource, index: int, tasks: Sequence[str]) -> str:
    kinds = [source.kind(index, task) for task in tasks]
    found = hashlib.sha256(repr((source.origin(index), kinds)).encode())
    for path in source_files(source, index):
        found.update(path.name.encode())
        # What is missing may never be drawn.
        found.update(path.read_bytes() if path.is_file() else b"")
    # Half a digest tells accidents apart.
    return found.hexdigest()[:32]
