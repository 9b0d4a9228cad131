"""The table of the compare widget: every codec's bytes, PSNR and SSIM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem, QWidget

from ..texts import decibels

if TYPE_CHECKING:
    from ..compare import Coded
    from .comparison import Score

COLUMNS = ("", "Bytes", "PSNR\n(dB)", "SSIM", "PSNR\non screen", "SSIM\non screen")
UNKNOWN = "–"


class ScoreTable(QTableWidget):
    """As high and wide as what it holds; nothing in it can be chosen or edited."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(0, len(COLUMNS), parent)
        self.setHorizontalHeaderLabels(COLUMNS)
        self.verticalHeader().hide()
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.setWordWrap(False)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.fill([], {})

    def fill(self, rows: Sequence[Coded], scores: Mapping[str, Score]) -> None:
        """Show the codecs' files; scores: of the part on screen, by name, as far as they are known."""
        self.setRowCount(len(rows))
        for number, row in enumerate(rows):
            here = scores.get(row.name)
            psnr, ssim = (None, None) if here is None else (here.psnr, here.ssim)
            texts = (
                row.name,
                f"{row.nbytes:,}" + (" (larger)" if row.exceeds else ""),
                _decibels(row.psnr),
                _similarity(row.ssim),
                _decibels(psnr),
                _similarity(ssim),
            )
            for column, text in enumerate(texts):
                item = QTableWidgetItem(text)
                if column:
                    item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                self.setItem(number, column, item)
        header = self.horizontalHeader()
        self.setFixedHeight(header.sizeHint().height() + sum(map(self.rowHeight, range(len(rows)))) + 6)
        self.setMinimumWidth(header.length() + 8)


def _decibels(value: float | None) -> str:
    return UNKNOWN if value is None else decibels(value).removesuffix(" dB")


def _similarity(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3f}"
