"""The notebooks run from top to bottom, offline, and what they claim in their cells holds."""

import nbformat
import pytest

from website.building import ROOT
from website.notebooks import FOLDER, WIDTH, execute

NOTEBOOKS = sorted((ROOT / FOLDER).glob("*.ipynb"))
MOST_BYTES = 1_500_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # Whatever would have to be fetched fails.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cells = execute(path).cells
    assert any("assert" in cell.source for cell in cells if cell.cell_type == "code")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_committed_with_its_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert outputs and not any(out.output_type == "error" for out in outputs)
    assert all("image/png" not in out.get("data", {}) for out in outputs)


def test_all_are_small():
    assert len(NOTEBOOKS) == 6 and WIDTH <= 800
    assert sum(path.stat().st_size for path in NOTEBOOKS) < MOST_BYTES
