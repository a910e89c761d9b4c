"""The quality of generated images as lines for people: what was measured, beside what it is to be held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sagan_deploy.reports import words

if TYPE_CHECKING:
    from rich.table import Table

    from sagan_deploy.training.quality import QualityReport
    from sagan_deploy.training.quality.files import FileQuality

LABEL_SHARE_GOAL = 0.9


@dataclass(frozen=True)
class QualityLine:
    """One measured number, what it is compared with (in words), and a sentence that explains it."""

    name: str
    value: str
    beside: str
    meaning: str
    verdict: str = ""


def quality_lines(quality: QualityReport) -> tuple[QualityLine, ...]:
    """All numbers of a report except those per class."""
    reached = quality.label_share >= LABEL_SHARE_GOAL
    return (
        QualityLine(
            "recognised as their class",
            words.percent(quality.label_share),
            f"goal ≥ {words.percent(LABEL_SHARE_GOAL, 0)}",
            f"Of {quality.images} generated images, as many of every class, this share is taken for the class that "
            "was asked for by a classifier trained on the real images.",
            "reached" if reached else "MISSED",
        ),
        *(
            QualityLine(
                f"classifier accuracy, {head}",
                words.percent(accuracy),
                "on real images",
                f"How often the classifier is right about the {head} of real images that it was not trained on: what "
                "it says of generated ones can hardly be better.",
            )
            for head, accuracy in quality.accuracy.items()
        ),
        QualityLine(
            "classifier Fréchet distance",
            words.number(quality.frechet),
            f"real against real {words.number(quality.frechet_real)}",
            "How far the generated images lie from half of the real ones in the classifier's features; the number "
            "beside it is what the other half reaches. Lower is better. It is no FID, nor comparable with one.",
        ),
        *(
            QualityLine(
                f"kinds of {attribute} per class",
                words.number(made),
                f"real {words.number(real)}",
                f"The effective number of different kinds of {attribute} within a class: 1 would mean that one is "
                "drawn again and again.",
            )
            for attribute, (made, real) in quality.kinds.items()
        ),
        QualityLine(
            "spread within a class",
            words.percent(quality.spread, 0),
            f"of the real; least {words.percent(quality.least_spread, 0)}",
            "The mean distance between two generated images of a class relative to two real ones: it falls towards 0 "
            "when a class collapses to one picture.",
        ),
    )


def files_table(rows: Sequence[FileQuality]) -> Table:
    """One line per file: quality by the classifier, and the distance from the first file's images."""
    from rich.table import Table

    table = Table(title=f"{rows[0].images} images each")
    if (real := rows[0].quality) is not None:
        table.title = (
            f"{real.images} images each; the classifier is right on {real.accuracy['label']:.1%} of real images, and "
            f"two halves of them are {real.frechet_real:.1f} apart"
        )
    if (seen := rows[0].features) is not None:
        score = f"; class score of the real images: {seen.score_real:.4g}" if seen.score_real is not None else ""
        table.caption = (
            f"Fréchet and kernel distance in {seen.extractor}; two halves of the real images: {seen.frechet_real:.4g}, "
            f"{seen.kernel_real:.4g}{score}"
        )
    shown = [_row(row) for row in rows]
    for name in shown[0]:
        table.add_column(name, justify="left" if name in ("file", "drawn by") else "right")
    for cells in shown:
        table.add_row(*cells.values())
    return table


def _row(row: FileQuality) -> dict[str, str]:
    cells = {"file": row.file, "drawn by": row.drawn_by}
    if (quality := row.quality) is not None:
        cells |= {"of their class": f"{quality.label_share:.1%}", "classifier Fréchet": f"{quality.frechet:.1f}"}
        cells |= {"spread": f"{quality.spread:.0%}", "worst class": f"{quality.least_spread:.0%}"}
    cells["codes off"] = f"{row.mean_code_difference:.3f} (most {row.max_code_difference})"
    if (seen := row.features) is not None:
        cells |= {"Fréchet": f"{seen.frechet:.4g}", "kernel": f"{seen.kernel:.4g}"}
        if seen.score is not None:
            cells["class score"] = f"{seen.score:.4g}"
    return cells
