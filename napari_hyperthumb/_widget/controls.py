"""Small controls the widgets share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from napari.components import ViewerModel
from napari.layers import Image
from qtpy.QtCore import QEvent, QObject, QSignalBlocker, Qt, Signal
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from ..texts import error_text
from . import preferences
from .layers import KEY


class LayerBox(QComboBox):
    """Image layers of the viewer, in step with the layer list.

    wanted: which layers to offer. The choice stays on its layer when others come, go or change names;
    when its layer goes, it falls to the selected one. Emits `changed` when it is on another layer.
    """

    changed = Signal()

    def __init__(self, viewer: ViewerModel, wanted: Callable[[Image], bool], parent: QWidget | None = None):
        super().__init__(parent)
        self._viewer, self._wanted = viewer, wanted
        self._layers: list[Image] = []
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(12)
        for event in (
            viewer.layers.events.inserted,
            viewer.layers.events.removed,
            viewer.layers.events.moved,
        ):
            event.connect(self.refresh)
        viewer.layers.events.connect(self._renamed)
        self.currentIndexChanged.connect(self._picked)
        self._current: Image | None = None
        self.refresh()

    @property
    def layer(self) -> Image | None:
        """The chosen layer."""
        return self._current

    def choose(self, layer: Image) -> None:
        """Go to a layer that is on offer."""
        if layer in self._layers:
            self.setCurrentIndex(self._layers.index(layer))

    def detach(self) -> None:
        """Follow the viewer no longer."""
        for event in (
            self._viewer.layers.events.inserted,
            self._viewer.layers.events.removed,
            self._viewer.layers.events.moved,
        ):
            event.disconnect(self.refresh)
        self._viewer.layers.events.disconnect(self._renamed)

    def _renamed(self, event: object) -> None:
        if getattr(event, "type", "") == "name":
            self.refresh()

    def refresh(self, event: object = None) -> None:
        """Read the layer list again."""
        found = [x for x in self._viewer.layers if isinstance(x, Image) and self._wanted(x)]
        before = self._current
        with QSignalBlocker(self):
            self._layers = found
            self.clear()
            self.addItems([layer.name for layer in found])
            active = self._viewer.layers.selection.active
            for candidate in (before, active, found[-1] if found else None):
                if candidate in found:
                    self.setCurrentIndex(found.index(candidate))
                    break
        self._picked()

    def _picked(self, index: int = -1) -> None:
        at = self.currentIndex()
        layer = self._layers[at] if 0 <= at < len(self._layers) else None
        if layer is not self._current:
            self._current = layer
            self.changed.emit()


def not_ours(layer: Image) -> bool:
    """Pictures of the user's own, not what we made of them."""
    return KEY not in layer.metadata or layer.metadata[KEY].get("kind") == "decoded"


class WeightsBox(QComboBox):
    """The bundled weights or those of a file, kept in the preferences. Emits `changed`."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setToolTip(
            "Networks of your own (hyperthumb train) or published ones (hyperthumb import-weights): a "
            ".safetensors file. Who decodes the thumbnail needs the same file."
        )
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(12)
        self.activated.connect(self._picked)
        self.refresh()

    @property
    def path(self) -> str:
        """Of the chosen file; empty for the bundled weights."""
        return str(preferences.get("weights"))

    def choose(self, path: str) -> None:
        """Use the weights in a file; empty: the bundled ones."""
        same = path == self.path
        preferences.set_("weights", path)
        self.refresh()
        if not same:
            self.changed.emit()

    def refresh(self) -> None:
        """Show what the preferences say."""
        self.clear()
        self.addItem("bundled")
        if self.path:
            self.addItem(Path(self.path).name)
        self.addItem("choose a file…")
        self.setCurrentIndex(1 if self.path else 0)

    def showEvent(self, event: QShowEvent) -> None:
        self.refresh()  # another widget may have chosen
        super().showEvent(event)

    def _picked(self, index: int) -> None:
        if index < self.count() - 1:
            self.choose("" if index == 0 else self.path)
            return
        found, _ = QFileDialog.getOpenFileName(self, "Choose weights", self.path, "Weights (*.safetensors)")
        self.choose(found or self.path)


class RateSlider(QWidget):
    """Bits per pixel on a logarithmic scale, with a box to type them.

    Emits `moved` while it is dragged, `released` when it comes to rest (let go, a key, a typed number).
    """

    moved = Signal(float)
    released = Signal(float)
    STEPS = 1000

    def __init__(self, low: float, high: float, value: float, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._low, self._high, self._value = low, high, value
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, self.STEPS)
        self.slider.setPageStep(50)
        self.slider.setSingleStep(10)
        self.slider.setToolTip("Bits of the whole file for each pixel of the image, on a logarithmic scale")
        self.box = QDoubleSpinBox()
        self.box.setDecimals(3)
        self.box.setSuffix(" bpp")
        self.box.setKeyboardTracking(False)
        self.box.setStepType(QDoubleSpinBox.StepType.AdaptiveDecimalStepType)
        self.box.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.left, self.right = QLabel(), QLabel()
        row = QHBoxLayout()
        row.addWidget(self.slider, 1)
        row.addWidget(self.box)
        ends = QHBoxLayout()
        ends.addWidget(self.left)
        ends.addStretch(1)
        ends.addWidget(self.right)
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setVerticalSpacing(0)
        layout.addWidget(self.slider, 0, 0)
        layout.addWidget(self.box, 0, 1)
        layout.addLayout(ends, 1, 0)
        self.slider.valueChanged.connect(self._slid)
        self.slider.sliderReleased.connect(lambda: self.released.emit(self._value))
        self.box.valueChanged.connect(self._typed)
        self.set_range(low, high)

    @property
    def value(self) -> float:
        """Bits per pixel."""
        return self._value

    def set_range(self, low: float, high: float) -> None:
        """What a picture can take; the value stays as it is, as far as it lies inside."""
        self._low, self._high = low, max(high, low * 1.001)
        self._value = min(max(self._value, self._low), self._high)
        self.left.setText(f"{self._low:.2g}")
        self.right.setText(f"{self._high:.2g}")
        self._show()

    def set_value(self, value: float) -> None:
        """Move without telling anybody."""
        self._value = min(max(value, self._low), self._high)
        self._show()

    def _show(self) -> None:
        with QSignalBlocker(self.slider), QSignalBlocker(self.box):
            share = math.log(self._value / self._low) / math.log(self._high / self._low)
            self.slider.setValue(round(share * self.STEPS))
            self.box.setRange(self._low, self._high)
            self.box.setValue(self._value)

    def _slid(self, position: int) -> None:
        self._value = self._low * (self._high / self._low) ** (position / self.STEPS)
        with QSignalBlocker(self.box):
            self.box.setValue(self._value)
        self.moved.emit(self._value)
        if not self.slider.isSliderDown():
            self.released.emit(self._value)

    def _typed(self, value: float) -> None:
        self._value = value
        with QSignalBlocker(self.slider):
            share = math.log(value / self._low) / math.log(self._high / self._low)
            self.slider.setValue(round(share * self.STEPS))
        self.moved.emit(value)
        self.released.emit(value)


class Facts(QWidget):
    """Names and values in two columns of pairs; values can be selected and copied."""

    def __init__(self, names: Sequence[str], columns: int = 2, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._values: dict[str, QLabel] = {}
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 2, 0, 2)
        grid.setHorizontalSpacing(10)
        grid.setVerticalSpacing(3)
        for number, name in enumerate(names):
            row, column = divmod(number, columns)
            label, value = QLabel(name), QLabel("–")
            value.setStyleSheet("font-weight: 600")
            value.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
            value.setWordWrap(columns == 1)
            grid.addWidget(label, row, 2 * column, Qt.AlignmentFlag.AlignTop)
            grid.addWidget(value, row, 2 * column + 1)
            grid.setColumnStretch(2 * column + 1, 1)
            self._values[name] = value

    def set(self, **values: str) -> None:
        """Values by name; underscores stand for blanks."""
        for name, text in values.items():
            self._values[name.replace("_", " ")].setText(text)

    def text(self, name: str) -> str:
        """A value as it is shown."""
        return self._values[name].text()

    def clear(self) -> None:
        """Nothing is known."""
        for label in self._values.values():
            label.setText("–")


class Status(QWidget):
    """A progress bar with a line about what is being done; keeps its place when nothing is.

    `cancel_button`, enabled while something runs, is for its owner to lay out.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(6)
        self.line = QLabel()
        self.line.setWordWrap(True)
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setEnabled(False)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 2, 0, 2)
        layout.setSpacing(3)
        layout.addWidget(self.bar)
        layout.addWidget(self.line)
        self.say("")

    def set_busy(self, busy: bool) -> None:
        """Whether there is something to cancel."""
        self.cancel_button.setEnabled(busy)
        if not busy:
            self.bar.setValue(0)

    def say(self, text: str) -> None:
        """Nothing runs; a line about how it went."""
        self.bar.setValue(0)
        self.line.setText(text)

    def busy(self, text: str) -> None:
        """Something runs."""
        self.line.setText(f"{text} …")

    def progress(self, fraction: float) -> None:
        """How far it is."""
        self.bar.setValue(round(1000 * fraction))


class _Scroll(QScrollArea):
    """Scrolls up and down only, and is always as wide as what it holds."""

    def __init__(self, inside: QWidget) -> None:
        super().__init__()
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidget(inside)
        inside.installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() in (QEvent.Type.LayoutRequest, QEvent.Type.Resize, QEvent.Type.StyleChange):
            width = self.widget().minimumSizeHint().width() + self.verticalScrollBar().sizeHint().width()
            if width != self.minimumWidth():
                self.setMinimumWidth(width)
        return bool(super().eventFilter(watched, event))


def scrolling(inside: QWidget, owner: QWidget) -> None:
    """Lay `inside` into `owner` so that it scrolls where a screen is too low for it."""
    layout = QVBoxLayout(owner)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.addWidget(_Scroll(inside))


def notify(error: Exception) -> str:
    """Show an error as a napari notification; returns its text."""
    from napari.utils.notifications import show_error

    text = error_text(error)
    show_error(text)
    return text
