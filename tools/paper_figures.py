"""The paper's Tables 1 to 4 as data: rows, columns, figures, and the zoo's model for each row.

Source: Popovic et al., CompositeTasking, CVPR 2021, Tables 1 to 4, on PASCAL-MT.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A column of the paper's tables.

    Attributes:
        task: Name of the task.
        head: Head of the column.
        scale: Factor from our figure to the paper's unit (% or degrees).
        lower: Whether lower is better, l = 1 in Delta_m.
    """

    task: str
    head: str
    scale: float = 1.0
    lower: bool = False


MEASURES = {
    measure.task: measure
    for measure in (
        Measure("edges", "Edge odsF ↑", scale=100.0),
        Measure("seg", "SemSeg mIoU ↑"),
        Measure("parts", "Parts mIoU ↑"),
        Measure("normals", "Normals mean ° ↓", lower=True),
        Measure("saliency", "Sal mIoU ↑"),
    )
}


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        names: Names of the row in the paper, one per head of the table.
        model: Name of the model in this zoo.
        rule: Rule that the row is tested on.
        paper: Figures of the paper, one per column.
        paper_delta: Delta_m of the paper in %, None in a table without it.
        baseline: Name of the zoo's baseline for Delta_m, None in a table without it.
    """

    names: tuple[str, ...]
    model: str
    rule: str
    paper: tuple[float, ...]
    paper_delta: float | None = None
    baseline: str | None = None

    @property
    def title(self) -> str:
        """The name of the row in a sentence."""
        return " on ".join(self.names)


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper.

    Attributes:
        number: Number of the table in the paper.
        title: Title of the table.
        heads: Heads of the columns that name a row.
        tasks: Tasks in the order of the columns.
        rows: Rows of the table.
    """

    number: int
    title: str
    heads: tuple[str, ...]
    tasks: tuple[str, ...]
    rows: tuple[Row, ...]


def _system_rows(rule: str, *rows: tuple[str, str, tuple[float, ...], float]) -> tuple[Row, ...]:
    return tuple(
        Row((name,), model, rule, paper, delta, "stn-s") for name, model, paper, delta in rows
    )


PAPER_TABLES = (
    PaperTable(
        1,
        "tested on S",
        ("Trained",),
        ("edges", "seg", "parts", "normals", "saliency"),
        _system_rows(
            "S",
            ("S STN", "stn-s", (69.50, 63.69, 58.76, 15.58, 69.38), 0.0),
            ("S MHN", "mhn-s", (68.10, 60.77, 54.21, 16.44, 67.21), -4.60),
            ("R1 STN", "stn-r1", (68.30, 59.82, 49.88, 16.07, 69.94), -5.05),
            ("R1 MHN", "mhn-r1", (67.70, 61.64, 52.84, 16.40, 67.70), -4.71),
            ("R1 CTN", "ctn-r1", (68.60, 62.45, 52.59, 16.93, 67.81), -4.93),
        ),
    ),
    PaperTable(
        2,
        "tested on R2",
        ("Trained",),
        ("edges", "seg", "parts", "normals", "saliency"),
        _system_rows(
            "R2",
            ("S STN", "stn-s", (65.80, 79.32, 56.21, 14.75, 73.23), 0.0),
            ("S MHN", "mhn-s", (64.60, 73.94, 50.65, 15.68, 71.01), -5.57),
            ("R1 STN", "stn-r1", (64.80, 74.12, 44.81, 15.42, 73.22), -6.58),
            ("R1 MHN", "mhn-r1", (65.20, 75.97, 49.07, 15.62, 71.74), -5.15),
            ("R1 CTN", "ctn-r1", (62.30, 76.73, 48.87, 16.45, 71.40), -7.13),
            ("R2 STN", "stn-r2", (63.90, 83.91, 59.63, 17.13, 70.04), -2.30),
            ("R2 MHN", "mhn-r2", (64.40, 83.71, 58.44, 17.44, 67.02), -3.87),
            ("R2 CTN", "ctn-r2", (69.20, 84.70, 59.74, 18.12, 67.95), -2.37),
        ),
    ),
    PaperTable(
        3,
        "CTN across rules; Delta_m against R3 on R3 and R2 on R2",
        ("Trained", "Tested"),
        ("edges", "parts", "normals", "saliency"),
        (
            Row(("R3", "R3"), "ctn-r3", "R3", (70.20, 61.19, 18.34, 75.35), 0.0, "ctn-r3"),
            Row(("R2", "R3"), "ctn-r2", "R3", (69.70, 59.41, 20.11, 65.21), -6.68, "ctn-r3"),
            Row(("R2→R3", "R3"), "ctn-r2-r3", "R3", (69.70, 60.91, 18.68, 75.00), -0.87, "ctn-r3"),
            Row(("R2", "R2"), "ctn-r2", "R2", (69.20, 59.74, 18.12, 67.95), 0.0, "ctn-r2"),
            Row(("R2→R3", "R2"), "ctn-r2-r3", "R2", (69.40, 60.84, 17.95, 68.31), 0.90, "ctn-r2"),
        ),
    ),
    PaperTable(
        4,
        "CTN on random palettes",
        ("Trained", "Tested"),
        ("seg", "parts", "normals", "saliency"),
        (
            Row(("R1", "S"), "ctn-r1", "S", (62.45, 52.59, 16.93, 67.81)),
            Row(("R1", "Rrnd"), "ctn-r1", "Rrnd", (35.89, 21.11, 64.36, 66.71)),
            Row(("Rrnd", "Rrnd"), "ctn-rnd", "Rrnd", (59.58, 52.28, 17.16, 67.60)),
            Row(("Rrnd", "S"), "ctn-rnd", "S", (52.26, 51.88, 22.65, 65.34)),
        ),
    ),
)
"""Tables 1 to 4 of the paper (Popovic et al., CVPR 2021) on PASCAL-MT."""


@dataclass(frozen=True)
class Question:
    """A question that two rows of a table answer.

    Attributes:
        text: The question: is the first row better than the second?
        table: Number of the table.
        first: Number of the first row, from 0.
        second: Number of the second row.
    """

    text: str
    table: int
    first: int
    second: int


QUESTIONS = (
    Question("Does a shared encoder help over a network a task, trained on S?", 1, 1, 0),
    Question("Do mosaics help a network a task over single tasks?", 1, 2, 0),
    Question("Trained on mosaics, is CTN better than a network a task?", 1, 4, 2),
    Question("Trained on mosaics, is CTN better than a shared encoder?", 1, 4, 3),
    Question("Is CTN trained on mosaics better than a network a task trained on S?", 1, 4, 0),
    Question("Trained on mosaics, is CTN better under R2 than a shared encoder?", 2, 4, 3),
    Question("Does a network a task gain under R2 from training on R2?", 2, 5, 2),
    Question("Does a shared encoder gain under R2 from training on R2?", 2, 6, 3),
    Question("Does CTN gain under R2 from training on R2?", 2, 7, 4),
    Question("Trained on R2, is CTN better under R2 than a network a task?", 2, 7, 5),
    Question("Trained on R2, is CTN better under R2 than a shared encoder?", 2, 7, 6),
    Question("Under R3, is CTN trained on R2 as good as one trained on R3?", 3, 1, 0),
    Question("Does further training on R3 help the one trained on R2, under R3?", 3, 2, 1),
    Question("Is it then as good under R3 as one trained on R3 alone?", 3, 2, 0),
    Question("Does it keep what it knew under R2?", 3, 4, 3),
    Question("Trained on mosaics, does CTN do random palettes as well as single tasks?", 4, 1, 0),
    Question("Does training on random palettes help there?", 4, 2, 1),
    Question(
        "Trained on random palettes, is CTN as good on single tasks as with mosaics?", 4, 3, 0
    ),
    Question("Does it do single tasks better than random palettes?", 4, 3, 2),
)
"""What the paper's tables answer, as comparisons of two rows."""
