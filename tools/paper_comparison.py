"""Compare the zoo with the paper's tables: gains, Delta_m, and answers to the same questions.

The data sets differ, so the pattern compares, not the numbers: :func:`reading` answers what the
paper's tables answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ctnet.evaluation.evaluate import EvalResult
from tools.paper_figures import MEASURES, PAPER_TABLES, QUESTIONS, PaperTable, Question, Row

TIE = 0.5
"""Gains below this, in %, count as ties."""

Figures = Mapping[str, float]
"""Figures by task, in the paper's units."""


def gains(figures: Figures, base: Figures, tasks: Sequence[str]) -> tuple[float, ...]:
    """Computes the gain of each task over a baseline, (−1)^l (M_m − M_b)/M_b, in %.

    Raises:
        ZeroDivisionError: If a figure of the baseline is zero.
    """
    signs = [-1.0 if MEASURES[task].lower else 1.0 for task in tasks]
    return tuple(
        100 * sign * (figures[task] - base[task]) / base[task]
        for sign, task in zip(signs, tasks, strict=True)
    )


def delta_m(figures: Figures, base: Figures, tasks: Sequence[str]) -> float | None:
    """Computes Delta_m, the mean of :func:`gains`, in %.

    Returns:
        The mean, None if a figure is missing.
    """
    if not tasks or any(task not in figures or not base.get(task) for task in tasks):
        return None
    found = gains(figures, base, tasks)
    return sum(found) / len(found)


def figures_of(result: EvalResult | None) -> dict[str, float]:
    """Returns the measured figures in the paper's units, without those that are NaN."""
    if result is None:
        return {}
    found = {}
    for task, measure in MEASURES.items():
        try:
            found[task] = measure.scale * result.headline(task)
        except (KeyError, TypeError):
            continue
    return {task: value for task, value in found.items() if math.isfinite(value)}


class Measured:
    """Results by model and rule."""

    def __init__(self, results: Sequence[EvalResult]) -> None:
        self._results = {(result.model, result.rule): result for result in results}

    def result(self, row: Row) -> EvalResult | None:
        """Returns the result of a row, None if it is not measured."""
        return self._results.get((row.model, row.rule))

    def baseline(self, row: Row) -> EvalResult | None:
        """Returns the result of a row's baseline, None if it is not measured."""
        return self._results.get((row.baseline or "", row.rule))

    def delta(self, table: PaperTable, row: Row) -> float | None:
        """Returns Delta_m of a row, None if it cannot be computed."""
        result, base = self.result(row), self.baseline(row)
        if result is None or base is None or not _same_data(result, base):
            return None
        return delta_m(figures_of(result), figures_of(base), table.tasks)


def _same_data(a: EvalResult, b: EvalResult) -> bool:
    """Returns whether two results are of the same photographs, by what the results record."""

    def key(result: EvalResult) -> tuple[object, ...]:
        sources = [tuple(result.sources.get(task, ())) for task in MEASURES]
        return result.data, result.split, sources

    def counts(result: EvalResult) -> list[object]:
        return [result.scores.get(task, {}).get("images") for task in MEASURES]

    return key(a) == key(b) and (a.rule != b.rule or counts(a) == counts(b))


@dataclass(frozen=True)
class Answer:
    """The first row of a question's table over the second, here and in the paper.

    Attributes:
        question: The question.
        ours: Gain of each task that both rows have here, in %.
        paper: The paper's gains of these tasks.
    """

    question: Question
    ours: tuple[float, ...]
    paper: tuple[float, ...]

    @property
    def means(self) -> tuple[float, float]:
        """Our mean gain over the tasks, and the paper's."""
        count = len(self.ours)
        return sum(self.ours) / count, sum(self.paper) / count

    @property
    def agreeing(self) -> int:
        """Number of tasks whose gain has the paper's sign."""
        return [verdict(*gains) for gains in zip(self.ours, self.paper, strict=True)].count("same")


def verdict(ours: float, paper: float) -> str:
    """Says whether two gains have the ``same`` or the ``other`` sign, or either is a ``tie``."""
    if min(abs(ours), abs(paper)) < TIE:
        return "tie"
    return "same" if (ours > 0) == (paper > 0) else "other"


def answers(results: Sequence[EvalResult]) -> list[Answer]:
    """Answers the questions whose rows are both measured, on the same photographs."""
    found = Measured(results)
    answered = []
    for question in QUESTIONS:
        table = PAPER_TABLES[question.table - 1]
        first, second = table.rows[question.first], table.rows[question.second]
        a, b = found.result(first), found.result(second)
        if a is None or b is None or not _same_data(a, b):
            continue
        ours = figures_of(a), figures_of(b)
        tasks = [task for task in table.tasks if task in ours[0] and ours[1].get(task)]
        if tasks:
            papers = [dict(zip(table.tasks, row.paper, strict=True)) for row in (first, second)]
            answered.append(
                Answer(question, gains(*ours, tasks), gains(papers[0], papers[1], tasks))
            )
    return answered


def reading(results: Sequence[EvalResult]) -> str:
    """Says in Markdown what the tables answer, here and in the paper."""
    answered = answers(results)
    if not answered:
        return "No two rows of a table are measured yet."
    found = [verdict(*answer.means) for answer in answered]
    lines = [
        f"Questions with the paper's answer here: {found.count('same')} of {len(found)}; with the "
        f"opposite one: {found.count('other')}; open: {found.count('tie')}, as a gain below "
        f"{TIE} %, here or in the paper, says nothing.",
        "",
        "| Table | Question | Gain in the paper | Gain here | Tasks as in the paper |",
        "|---|---|---|---|---|",
    ]
    for answer in answered:
        ours, paper = answer.means
        cells = (
            str(answer.question.table),
            answer.question.text,
            f"{signed(paper)} %",
            f"{signed(ours)} %",
            f"{answer.agreeing} of {len(answer.ours)}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def signed(value: float, digits: int = 1) -> str:
    """Formats a number with its sign; zero has none."""
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return f"{'−' if value < 0 else '+'}{text}"
