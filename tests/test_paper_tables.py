"""The paper's tables: its own Delta_m from its own figures, missing results, marks, the reading."""

import json
from pathlib import Path

import pytest

from ctnet.evaluation.evaluate import EvalResult
from ctnet.evaluation.results import read_results
from tools.pages import update_tables_page
from tools.paper_comparison import answers, delta_m, reading, verdict
from tools.paper_figures import MEASURES, PAPER_TABLES, QUESTIONS
from tools.paper_tables import labels_table, paper_table

FIGURES = {
    "edges": "ods_f",
    "seg": "miou",
    "parts": "miou",
    "normals": "mean",
    "saliency": "miou",
}
MARKS = (
    *(f"table-{n}" for n in (1, 2, 3, 4)),
    "reading",
    "study",
    "labels",
    "trained",
    "complexity",
)


def make(model, rule, figures, distilled=(), **changes):
    """A result with the paper's units; odsF is stored from 0 to 1, as ``ctnet eval`` does."""
    scores = {}
    for task, value in figures.items():
        stored = value / 100 if task == "edges" and value is not None else value
        scores[task] = {FIGURES[task]: stored, "images": 7}
    kinds = {t: ("derived", "true") if t in distilled else ("true",) for t in figures}
    sources = {t: ("voc",) for t in figures}
    given = {"data": "data", "split": "val", "sources": sources, "labels": kinds} | changes
    return EvalResult(model, rule, scores=scores, seed=0, **given)


def as_paper(*tables, skip=()):
    """Results that are the paper's own figures."""
    rows = [(PAPER_TABLES[n - 1].tasks, row) for n in tables for row in PAPER_TABLES[n - 1].rows]
    return [
        make(row.model, row.rule, dict(zip(tasks, row.paper, strict=True)))
        for tasks, row in rows
        if row.model not in skip
    ]


def cells(table, results):
    """Cells of each row of a table by what names the row."""
    lines = paper_table(table, results).splitlines()[4:]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    names = len(table.heads)
    return {tuple(row[:names]): row[names:] for row in found}


@pytest.mark.parametrize("table", PAPER_TABLES[:3], ids=lambda table: table.number)
def test_the_papers_delta_m_follows_from_its_figures(table):
    figures = {(r.model, r.rule): dict(zip(table.tasks, r.paper, strict=True)) for r in table.rows}
    for row in table.rows:
        base = figures[row.baseline, row.rule]
        found = delta_m(figures[row.model, row.rule], base, table.tasks)
        assert found == pytest.approx(row.paper_delta, abs=0.02), row.title


def test_delta_m_by_hand():
    base = {"seg": 50.0, "normals": 20.0}
    assert delta_m({"seg": 55.0, "normals": 21.0}, base, ("seg", "normals")) == pytest.approx(2.5)
    assert delta_m({"seg": 55.0}, base, ("seg", "normals")) is None
    assert delta_m({"seg": 55.0}, {"seg": 0.0}, ("seg",)) is None
    assert delta_m({}, {}, ()) is None


def test_the_same_row_of_two_tables_has_the_same_figures():
    seen = {}
    for table in PAPER_TABLES:
        for row in table.rows:
            for task, value in zip(table.tasks, row.paper, strict=True):
                assert seen.setdefault((row.model, row.rule, task), value) == value


def test_tables_have_the_papers_rows_and_columns():
    first, second, third, fourth = PAPER_TABLES
    assert [row.title for row in first.rows] == ["S STN", "S MHN", "R1 STN", "R1 MHN", "R1 CTN"]
    assert [row.title for row in second.rows[5:]] == ["R2 STN", "R2 MHN", "R2 CTN"]
    assert [row.title for row in third.rows] == [
        "R3 on R3", "R2 on R3", "R2→R3 on R3", "R2 on R2", "R2→R3 on R2",
    ]  # fmt: skip
    assert [row.names for row in fourth.rows] == [
        ("R1", "S"), ("R1", "Rrnd"), ("Rrnd", "Rrnd"), ("Rrnd", "S"),
    ]  # fmt: skip
    header = paper_table(first, []).splitlines()[2]
    assert header == (
        "| Trained | Edge odsF ↑ | SemSeg mIoU ↑ | Parts mIoU ↑ | Normals mean ° ↓ | Sal mIoU ↑ | "
        "Delta_m % ↑ |"
    )
    assert "Delta_m" not in paper_table(fourth, [])


def test_our_figures_stand_beside_the_papers():
    rows = cells(PAPER_TABLES[0], as_paper(1))
    assert rows["S STN",][0] == "69.5 (69.50)"
    assert rows["S STN",][-1] == "0.0 (0.00)"
    assert rows["R1 CTN",] == [
        "68.6 (68.60)", "62.5 (62.45)", "52.6 (52.59)", "16.9 (16.93)", "67.8 (67.81)",
        "−4.9 (−4.93)",
    ]  # fmt: skip


def test_what_is_not_measured_is_a_dash():
    rows = cells(PAPER_TABLES[0], as_paper(1, skip=["mhn-r1"]))
    assert rows["R1 MHN",][0] == "– (67.70)"
    assert all(cell.startswith("– (") for cell in rows["R1 MHN",])
    nothing = cells(PAPER_TABLES[1], [])
    assert all(cell.startswith("– (") for row in nothing.values() for cell in row)


def test_delta_m_needs_the_baseline():
    rows = cells(PAPER_TABLES[0], as_paper(1, skip=["stn-s"]))
    assert rows["R1 CTN",][0] == "68.6 (68.60)"
    assert rows["R1 CTN",][-1] == "– (−4.93)"


@pytest.mark.parametrize("missing", ["absent", "null"])
def test_delta_m_needs_every_figure(missing):
    results = as_paper(1)
    figures = dict(zip(PAPER_TABLES[0].tasks, PAPER_TABLES[0].rows[1].paper, strict=True))
    if missing == "absent":
        del figures["normals"]
    else:
        figures["normals"] = None
    results[1] = make("mhn-s", "S", figures)
    rows = cells(PAPER_TABLES[0], results)
    assert rows["S MHN",][-3:] == ["– (16.44)", "67.2 (67.21)", "– (−4.60)"]


@pytest.mark.parametrize("changes", [{"data": "another"}, {"split": "train"}, {"sources": {}}])
def test_results_of_other_photographs_do_not_compare(changes):
    results = as_paper(1)
    figures = dict(zip(PAPER_TABLES[0].tasks, PAPER_TABLES[0].rows[1].paper, strict=True))
    results[1] = make("mhn-s", "S", figures, **changes)
    assert cells(PAPER_TABLES[0], results)["S MHN",][-1] == "– (−4.60)"
    asked = {(x.question.first, x.question.second) for x in answers(results)}
    assert asked == {(2, 0), (4, 2), (4, 3), (4, 0)}, "row 1 is S MHN"


def test_labels_that_are_not_all_true_have_an_asterisk():
    figures = dict(zip(PAPER_TABLES[0].tasks, PAPER_TABLES[0].rows[1].paper, strict=True))
    results = as_paper(1)
    results[1] = make("mhn-s", "S", figures, distilled=["parts"])
    rows = cells(PAPER_TABLES[0], results)
    assert rows["S MHN",][2] == "54.2\\* (54.21)"
    assert rows["S MHN",][1] == "60.8 (60.77)"
    assert rows["S MHN",][-1] == "−4.6\\* (−4.60)"
    assert "\\*" not in "".join(rows["S STN",])


def test_the_papers_figures_agree_with_themselves():
    for number in (1, 2, 3, 4):
        found = answers(as_paper(number))
        assert [x.question for x in found] == [x for x in QUESTIONS if x.table == number]
        for answer in found:
            assert answer.ours == pytest.approx(answer.paper, abs=1e-6)
            assert verdict(*answer.means) in ("same", "tie")


def test_questions_name_rows_of_their_table():
    for question in QUESTIONS:
        rows = PAPER_TABLES[question.table - 1].rows
        assert rows[question.first].rule and rows[question.second].rule
        assert question.first != question.second


def test_the_opposite_answer():
    tasks = PAPER_TABLES[1].tasks
    worse = dict.fromkeys(tasks, 40.0)
    better = worse | {"normals": 36.0, "seg": 44.0, "edges": 40.1}
    results = [make("ctn-r1", "R2", worse), make("ctn-r2", "R2", better)]
    (answer,) = answers(results)
    assert answer.question.text == "Does CTN gain under R2 from training on R2?"
    # Lower is better for normals, which lose in the paper.
    assert answer.ours == pytest.approx((0.25, 10, 0, 10, 0))
    assert [verdict(*x) for x in zip(answer.ours, answer.paper, strict=True)] == [
        "tie", "same", "tie", "other", "tie",
    ]  # fmt: skip
    paper = (11.08, 10.39, 22.24, -10.15, -4.83)
    assert answer.paper == pytest.approx(paper, abs=0.01)
    text = reading(results)
    assert "Questions with the paper's answer here: 1 of 1; with the opposite one: 0;" in text
    assert text.endswith(f"| +{sum(paper) / 5:.1f} % | +4.1 % | 1 of 5 |")


def test_reading_of_nothing():
    assert answers([]) == []
    assert "No two rows" in reading([make("ctn-r1", "S", {"seg": 1.0})])


def test_labels_are_listed_once():
    figures = dict.fromkeys(MEASURES, 50.0)
    results = [make(m, "S", figures, ["parts"]) for m in ("ctn-r1", "stn-s", "another")]
    lines = labels_table(results).splitlines()
    assert len(lines) == 3
    assert lines[2].startswith("| S | 7 voc, true | 7 voc, true | 7 voc, derived + true |")


def test_the_page_is_written_between_its_marks(tmp_path):
    figures = dict.fromkeys(MEASURES, 50.0)
    make("ctn-r1", "R2", figures).save(tmp_path)
    make("ctn-r2", "R2", figures).save(tmp_path)
    page = tmp_path / "tables.md"
    page.write_text(
        "By hand.\n" + "".join(f"<!-- {m}: begin -->\nold\n<!-- {m}: end -->\n" for m in MARKS)
    )
    update_tables_page(page, tmp_path)
    text = page.read_text()
    assert text.startswith("By hand.\n")
    assert "old" not in text
    for table in PAPER_TABLES:
        assert paper_table(table, read_results(tmp_path)) in text
    assert "python -m benchmarks complexity" in text
    assert "Not run yet." in text
    make("ctn-r1", "R2", figures).save(tmp_path / "study")
    update_tables_page(page, tmp_path)
    text = page.read_text()
    study = text.partition("<!-- study: begin -->")[2].partition("<!-- study: end -->")[0]
    assert "**Table 2, tested on R2" in study and "Table 1" not in study
    assert study.count("| R1 CTN |") == 1 and "R2 CTN" not in study
    update_tables_page(page, tmp_path)
    assert page.read_text() == text


def test_a_page_without_marks_is_an_error(tmp_path):
    make("ctn-r1", "S", {"seg": 1.0}).save(tmp_path)
    (tmp_path / "tables.md").write_text("nothing")
    with pytest.raises(ValueError, match="table-1: begin"):
        update_tables_page(tmp_path / "tables.md", tmp_path)


def test_other_files_are_no_results(tmp_path):
    make("ctn-r1", "S", {"seg": 1.0}).save(tmp_path)
    (tmp_path / "complexity.json").write_text(json.dumps({"systems": [], "cpu": "x"}))
    assert [result.model for result in read_results(tmp_path)] == ["ctn-r1"]


def test_the_repositorys_page_has_all_marks():
    page = Path(__file__).parents[1] / "docs" / "tables.md"
    if not page.exists():
        pytest.skip("an installed package has no docs folder")
    text = page.read_text("utf-8")
    assert all(f"<!-- {m}: begin -->" in text and f"<!-- {m}: end -->" in text for m in MARKS)
