"""The folder of a training run: locked while it trains, its files replaced as a whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load, save_file
from torch import Tensor

from ctnet.training.distributed import from_main, is_main, open_on_main

STATE = "state.pt"
"""All that a run needs to go on."""


class RunFolder:
    """Where a run keeps its weights and its state; of several processes the first one writes.

    Args:
        path: The folder; :meth:`lock` makes it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = FileLock(self.path / ".lock", blocking=False)

    def lock(self) -> None:
        """Locks the folder until :meth:`unlock` or the end of the process.

        Raises:
            ValueError: If one is in it.
        """
        taken = False
        if is_main():
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire()
            except Timeout:
                taken = True
        if from_main(taken):
            raise ValueError(
                f"another training runs in {self.path}: wait for its end, or choose another folder."
            )

    def unlock(self) -> None:
        """Unlocks the folder."""
        self._lock.release(force=True)

    def write_weights(self, name: str, weights: Mapping[str, Tensor]) -> None:
        """Writes ``NAME.safetensors``."""
        partial = self.path / f"{name}.safetensors.partial"
        save_file(dict(weights), partial)
        partial.replace(self.path / f"{name}.safetensors")

    def read_weights(self) -> dict[str, Tensor]:
        """Reads the best weights by validation, or the last where there are none.

        Raises:
            FileNotFoundError: If there are neither.
        """
        for name in ("best", "last"):
            file = open_on_main(self.path / f"{name}.safetensors")
            if file is not None:
                with file:
                    return load(file.read())
        raise FileNotFoundError(f"no weights in {self.path}: the run has yet to train.")

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Writes all that the run needs to go on, and what of it is for people to ``run.json``."""
        partial = self.path / f"{STATE}.partial"
        torch.save(dict(state), partial)
        partial.replace(self.path / STATE)
        run = {
            "config": state["config"],
            "step": state["step"],
            "seconds": round(state["seconds"]),
        }
        (self.path / "run.json").write_text(json.dumps(run, indent=1) + "\n", "utf-8")

    def read_state(self, device: torch.device) -> dict[str, Any] | None:
        """Reads what :meth:`write_state` wrote; None in a new folder."""
        file = open_on_main(self.path / STATE)
        if file is None:
            return None
        with file:
            state: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
        return state
