"""Pages that show experiments, from the files of what was measured."""

import json

import pytest
from PIL import Image

from tools.experiments import update_reading, update_recipe

EXPERIMENT = {
    "loss": "mean",
    "arms": [
        {
            "name": "near",
            "loss": [[10, 3.0], [20, 2.0]],
            "measured": [{"steps": 250, "seg": [12.34, 20.0, None]}],
        }
    ],
}


def test_arrangements_stand_in_the_page(tmp_path):
    (tmp_path / "reading.json").write_text(json.dumps(EXPERIMENT))
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- arrangements: begin -->\n<!-- arrangements: end -->\nafter\n")
    update_reading(page, tmp_path)
    assert "| near | 2,000 | 12.3 / 20.0 / – | – |" in page.read_text().splitlines()
    assert page.read_text().startswith("before\n") and page.read_text().endswith("after\n")
    with Image.open(tmp_path / "reading.png") as picture:
        assert picture.width > picture.height > 100


def test_choices_stand_in_the_page(tmp_path):
    arms = [{"name": "none", "seg": [1.25, 2.0, 3.0], "parts": [4.0, None, 5.0]}]
    (tmp_path / "recipe.json").write_text(json.dumps({"arms": arms}))
    page = tmp_path / "page.md"
    page.write_text("<!-- choices: begin -->\nold\n<!-- choices: end -->\n")
    update_recipe(page, tmp_path)
    assert page.read_text().splitlines()[3] == "| none | 1.2 / 2.0 / 3.0 | 4.0 / – / 5.0 |"
    assert "old" not in page.read_text()


def test_a_page_without_marks_is_refused(tmp_path):
    (tmp_path / "reading.json").write_text(json.dumps(EXPERIMENT))
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    with pytest.raises(ValueError, match="arrangements"):
        update_reading(page, tmp_path)
    assert page.read_text() == "nothing\n"
