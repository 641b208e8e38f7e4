"""The notebooks run from top to bottom, offline, and what they show holds.

``notebook_checks/NAME.py`` runs after the last cell, with what the cells have made.
"""

from pathlib import Path

import nbformat
import pytest

from website.building import ROOT
from website.notebooks import FOLDER, WIDTH, execute

NOTEBOOKS = sorted((ROOT / FOLDER).glob("*.ipynb"))
CHECKS = Path(__file__).with_name("notebook_checks")
MOST_BYTES = 1_700_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # Whatever would have to be fetched fails.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    execute(path, (CHECKS / f"{path.stem}.py").read_text("utf-8"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_committed_with_its_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert outputs and not any(out.output_type == "error" for out in outputs)
    assert all("image/png" not in out.get("data", {}) for out in outputs)
    for cell in notebook.cells:
        if any("image/jpeg" in out.get("data", {}) for out in cell.get("outputs", [])):
            assert len(cell.metadata["alt"]) > 20, "what its picture shows"


def test_all_are_small():
    assert len(NOTEBOOKS) == 7 and WIDTH <= 800
    assert sum(path.stat().st_size for path in NOTEBOOKS) < MOST_BYTES
