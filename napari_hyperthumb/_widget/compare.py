"""The compare widget: one picture by several codecs at the same number of bytes, to judge by eye."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Image
from napari.viewer import Viewer
from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import (
    QButtonGroup,
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSlider,
    QVBoxLayout,
    QWidget,
)
from superqt.utils import qthrottled

from ..compare import available_codecs
from ..errors import HyperThumbError
from ..texts import human_bytes
from . import preferences
from .comparison import ORIGINAL, Comparison, Score, compare_at, draw_figure
from .controls import LayerBox, not_ours, notify, scrolling
from .jobs import Report
from .layers import KEY, display_limits, find, label, show, show_error
from .panel import Panel
from .scores import ScoreTable
from .sources import Region, plane_of, visible_region
from .swipe import Swipe, camera_of

MODES = {
    "One": "A alone; B when you blink",
    "Grid": "All side by side; moving one moves them all",
    "Swipe": "A on the left of a line that you drag across the canvas, B on its right",
}
BLINK_KEY = "k"
THROTTLE_MS = 250


class CompareWidget(Panel):
    """Codes a picture with every codec at the same size, and lays the results over each other."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self._scorer = self.runner(behind=self._runner)
        self._comparison: Comparison | None = None
        self._scores: dict[str, Score] = {}
        self._other_shown = False
        self._swipe = Swipe(self.viewer, self._swiped)
        self._build()
        self._connect()
        self._layer_changed()

    # ---- building ----------------------------------------------------------------------------

    def _build(self) -> None:
        self.layer_box = LayerBox(self.viewer, not_ours)
        self.rate_box = QDoubleSpinBox()
        self.rate_box.setRange(0.02, 8)
        self.rate_box.setDecimals(2)
        self.rate_box.setSingleStep(0.05)
        self.rate_box.setValue(0.3)
        self.rate_box.setSuffix(" bits per pixel")
        self.same_box = QCheckBox("the thumbnail made by Encode")
        self.same_box.setToolTip("Compare the very file that is in the thumbnail layer, and use its size")
        self.codec_boxes = {codec.name: QCheckBox(codec.name) for codec in available_codecs()}
        codecs = QHBoxLayout()
        for box in self.codec_boxes.values():
            box.setChecked(True)
            codecs.addWidget(box)
        codecs.addStretch(1)
        self.compare_button = QPushButton("Compare")
        buttons = QHBoxLayout()
        buttons.addWidget(self.compare_button)
        buttons.addWidget(self.status.cancel_button)
        self.table = ScoreTable()

        self.a_box, self.b_box = QComboBox(), QComboBox()
        self.a_box.setToolTip("The left side of the swipe, the first of the blink")
        self.mode_buttons = QButtonGroup(self)
        modes = QHBoxLayout()
        for number, name in enumerate(MODES):
            button = QPushButton(name)
            button.setCheckable(True)
            button.setToolTip(MODES[name])
            self.mode_buttons.addButton(button, number)
            modes.addWidget(button)
        self.mode_buttons.button(0).setChecked(True)
        self.swipe_slider = QSlider(Qt.Orientation.Horizontal)
        self.swipe_slider.setRange(0, 1000)
        self.swipe_slider.setToolTip("Where the line is; or drag it on the canvas")
        self.blink_button = QPushButton(f"Blink ({BLINK_KEY.upper()})")
        self.blink_button.setToolTip(f"Change between A and B, also with the key {BLINK_KEY.upper()}")
        self.error_button = QPushButton("Error map B − A")
        self.signed_box = QCheckBox("signed")
        self.export_button = QPushButton("Export what is on screen…")

        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Image", self.layer_box)
        form.addRow("Size", self.rate_box)
        form.addRow("", self.same_box)
        form.addRow("Codecs", codecs)
        self.look = QWidget()
        grid = QGridLayout(self.look)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.addWidget(QLabel("A"), 0, 0)
        grid.addWidget(self.a_box, 0, 1)
        grid.addWidget(QLabel("B"), 0, 2)
        grid.addWidget(self.b_box, 0, 3)
        grid.setColumnStretch(1, 1)
        grid.setColumnStretch(3, 1)
        tools = QHBoxLayout()
        tools.addWidget(self.blink_button)
        tools.addWidget(self.error_button)
        tools.addWidget(self.signed_box)
        grid.addLayout(modes, 1, 0, 1, 4)
        grid.addWidget(self.swipe_slider, 2, 0, 1, 4)
        grid.addLayout(tools, 3, 0, 1, 4)
        grid.addWidget(self.export_button, 4, 0, 1, 4)
        inside = QWidget()
        layout = QVBoxLayout(inside)
        layout.addLayout(form)
        layout.addLayout(buttons)
        layout.addWidget(self.status)
        layout.addWidget(self.table)
        layout.addWidget(self.look)
        layout.addStretch(1)
        scrolling(inside, self)
        self.look.setEnabled(False)
        self.swipe_slider.setEnabled(False)

    def _connect(self) -> None:
        self.layer_box.changed.connect(self._layer_changed)
        self.compare_button.clicked.connect(self._compare)
        self.a_box.currentIndexChanged.connect(self._arrange)
        self.b_box.currentIndexChanged.connect(self._arrange)
        self.mode_buttons.idClicked.connect(self._arrange)
        self.swipe_slider.valueChanged.connect(self._slid)
        self.blink_button.clicked.connect(self.blink)
        self.error_button.clicked.connect(self._error_map)
        self.export_button.clicked.connect(self._ask_and_export)
        self._throttled = qthrottled(self._measure, timeout=THROTTLE_MS, leading=False)
        camera = camera_of(self.viewer)
        self.at_end(self.layer_box.detach, self._throttled.cancel)
        self.follow(self._offer_same, self.viewer.layers.events.inserted)
        self.follow(self._removed, self.viewer.layers.events.removed)
        self.follow(self._view_moved, camera.events.zoom, camera.events.center)
        self.viewer.bind_key(BLINK_KEY, lambda viewer: self.blink(), overwrite=True)
        self.at_end(lambda: self.viewer.bind_key(BLINK_KEY, None, overwrite=True), self._stop_looking)

    def _stop_looking(self) -> None:
        """Leave the viewer as it is without a comparison: no swipe, no grid of ours."""
        self._swipe.stop()
        if self.mode == "Grid":
            self._set_grid(False, self._sees_all())
        self.mode_buttons.button(0).setChecked(True)

    # ---- comparing ---------------------------------------------------------------------------

    def _layer_changed(self) -> None:
        self._runner.cancel()
        self._forget()
        layer = self.layer_box.layer
        self.compare_button.setEnabled(layer is not None)
        self._offer_same()
        if layer is None:
            self.status.say("Open an image to begin: File → Open, or File → Open Sample → HyperThumb")

    def _forget(self) -> None:
        self._stop_looking()
        self._scorer.cancel()
        self._comparison, self._scores = None, {}
        self.table.fill([], {})
        self.look.setEnabled(False)
        self.status.say("")

    def _existing(self) -> bytes | None:
        """The thumbnail that Encode made of the chosen layer."""
        layer = self.layer_box.layer
        found = None if layer is None else find(self.viewer, f"{layer.name} thumbnail")
        known = {} if found is None else found.metadata.get(KEY, {})
        return known.get("data") if known.get("whole") else None

    def _offer_same(self, event: object = None) -> None:
        data = self._existing()
        self.same_box.setVisible(data is not None)
        self.same_box.setText(f"the thumbnail made by Encode{f', {human_bytes(len(data))}' if data else ''}")
        if data is None:
            self.same_box.setChecked(False)

    def _removed(self, event: Any) -> None:
        self._offer_same()
        if self._comparison is not None and event.value is self._comparison.plane.layer:
            self._forget()

    def _compare(self) -> None:
        layer = self.layer_box.layer
        if layer is None:
            return
        try:
            plane = plane_of(layer, self.viewer.dims.point, self.viewer.dims.displayed)
        except HyperThumbError as error:
            self.status.say(notify(error))
            return
        data = self._existing() if self.same_box.isChecked() else None
        names = [name for name, box in self.codec_boxes.items() if box.isChecked()]
        bpp = self.rate_box.value()
        device, weights = (str(preferences.get(name)) for name in ("device", "weights"))

        def work(report: Report) -> Comparison:
            return compare_at(
                plane, data=data, bpp=bpp, names=names, device=device, weights=weights, report=report
            )

        self.status.busy("Coding with every codec")
        self._runner.submit(work, self._show, self._failed, self.status.progress)

    def _show(self, comparison: Comparison) -> None:
        if comparison.plane.layer not in self.viewer.layers:
            self.status.say("The image was removed while it was being coded")
            return
        self._swipe.stop()
        self._comparison = comparison
        for row in comparison.rows:
            self._layer(row.name)
        self._fill_table()
        names = list(comparison.images)
        with QSignalBlocker(self.a_box), QSignalBlocker(self.b_box):
            for box, at in ((self.a_box, 0), (self.b_box, 1)):
                box.clear()
                box.addItems(names)
                box.setCurrentIndex(at)
        self.look.setEnabled(True)
        self.status.say(f"All at {human_bytes(len(comparison.thumbnail))} or less")
        self._arrange()
        self._measure()

    def _name_of(self, name: str) -> str:
        """Of the layer that shows an image of the comparison."""
        assert self._comparison is not None
        source = self._comparison.plane.layer.name
        if name == ORIGINAL:
            return source
        return f"{source} reconstruction" if name == self._comparison.rows[0].name else f"{source} {name}"

    def _layer(self, name: str) -> Image:
        """The layer of an image of the comparison, made again where the user removed it."""
        assert self._comparison is not None
        plane = self._comparison.plane
        if name == ORIGINAL:
            return plane.layer
        found = find(self.viewer, self._name_of(name))
        pixels = self._comparison.images[name]
        if found is not None and np.shares_memory(np.asarray(found.data), pixels):
            return found
        return show(
            self.viewer,
            plane.layer,
            self._name_of(name),
            pixels,
            index=plane.index,
            rgb=bool(plane.layer.rgb),
            contrast_limits=display_limits(plane.layer),
            colormap=None if plane.layer.rgb else plane.layer.colormap,
            metadata={"source": plane.layer.name, "kind": "comparison", "whole": True},
        )

    # ---- looking -----------------------------------------------------------------------------

    @property
    def mode(self) -> str:
        """How the layers are shown: "One", "Grid" or "Swipe"."""
        return list(MODES)[self.mode_buttons.checkedId()]

    def _arrange(self, *_: object) -> None:
        comparison = self._comparison
        if comparison is None or comparison.plane.layer not in self.viewer.layers:
            return
        self._other_shown = False
        saw_all = self._sees_all()  # napari doesn't know for a moment while layers come and go in a grid
        a, b = self.a_box.currentText(), self.b_box.currentText()
        grid = self.mode == "Grid"
        wanted = {self._layer(name) for name in comparison.images} if grid else {self._layer(a)}
        self._swipe.stop()
        for layer in self.viewer.layers:
            layer.visible = layer in wanted
        self._set_grid(grid, saw_all)
        for layer in wanted:
            label(layer, self.mode != "One")
        self.swipe_slider.setEnabled(self.mode == "Swipe")
        if self.mode == "Swipe":
            self._swipe.start(
                comparison.plane.layer, comparison.plane.index, comparison.images[b], self._name_of(b)
            )
            self._swiped(self._swipe.column)

    def _set_grid(self, enabled: bool, saw_all: bool) -> None:
        """Switch the grid; somebody who saw the whole image sees all of it afterwards too."""
        canvas = getattr(self.viewer, "canvas", self.viewer)  # napari 0.9 moved the grid there
        grid = canvas.grid
        if grid.enabled == enabled:
            return
        grid.stride = 1
        grid.shape = (-1, -1)
        if enabled and self._comparison is not None and hasattr(canvas, "size"):
            grid.shape = grid_shape(len(self._comparison.images), canvas.size, self._comparison.plane.shape)
        grid.enabled = enabled
        if saw_all:
            self.viewer.reset_view()

    def _sees_all(self) -> bool:
        """Whether the whole image is on screen, along one side at least."""
        region = self._region()
        if region is None or self._comparison is None:
            return True
        sides = zip(region, self._comparison.plane.shape, strict=True)
        return any(stop - start >= 0.9 * side for (start, stop), side in sides)

    def _slid(self, position: int) -> None:
        if self._comparison is not None:
            self._swipe.move(position / 1000 * self._comparison.plane.shape[1])

    def _swiped(self, column: float) -> None:
        if self._comparison is not None:
            with QSignalBlocker(self.swipe_slider):
                self.swipe_slider.setValue(round(1000 * column / self._comparison.plane.shape[1]))

    def blink(self, *_: object) -> None:
        """Show B instead of A, or A again."""
        if self._comparison is None or self.mode == "Grid":
            return
        self._other_shown = not self._other_shown
        if self._swipe.active:
            self._swipe.show_right(not self._other_shown)
            return
        a, b = (self._layer(box.currentText()) for box in (self.a_box, self.b_box))
        # The new one first: the canvas is never empty in between.
        first, second = (b, a) if self._other_shown else (a, b)
        first.visible = True
        if first is not second:
            second.visible = False

    def _error_map(self) -> None:
        comparison = self._comparison
        if comparison is None:
            return
        a, b = self.a_box.currentText(), self.b_box.currentText()
        signed = self.signed_box.isChecked()
        layer = show_error(
            self.viewer,
            comparison.plane.layer,
            f"{comparison.plane.layer.name} difference",
            comparison.difference(a, b, signed=signed),
            comparison.peak,
            signed=signed,
            index=comparison.plane.index,
            metadata={"source": comparison.plane.layer.name, "kind": "error", "pair": (a, b)},
        )
        layer.visible = True
        self.viewer.layers.move(self.viewer.layers.index(layer), len(self.viewer.layers))
        self.status.say(f"{b} minus {a}" if signed else f"How far {b} is from {a}")

    # ---- measuring ---------------------------------------------------------------------------

    def _region(self) -> Region | None:
        comparison = self._comparison
        if comparison is None or comparison.plane.layer not in self.viewer.layers:
            return None
        return visible_region(comparison.plane.layer, comparison.plane.shape)

    def _view_moved(self, event: object = None) -> None:
        if self._comparison is not None:
            self._throttled()

    def _measure(self) -> None:
        region, comparison = self._region(), self._comparison
        if region is None or comparison is None:
            return

        def work(report: Report) -> dict[str, Score]:
            return comparison.score(region, report)

        def done(scores: dict[str, Score]) -> None:
            if comparison is self._comparison:
                self._scores = scores
                self._fill_table()

        self._scorer.submit(work, done, self._failed)

    def _fill_table(self) -> None:
        assert self._comparison is not None
        self.table.fill(self._comparison.rows, self._scores)

    # ---- exporting ---------------------------------------------------------------------------

    def _ask_and_export(self) -> None:
        if self._comparison is None:
            return
        name = f"{self._comparison.plane.layer.name} comparison.png"
        path, _ = QFileDialog.getSaveFileName(self, "Export figure", name, "Figures (*.png *.pdf *.svg)")
        if path:
            self.export(path)

    def export(self, path: str) -> None:
        """Write what is on screen, of every codec, as a labelled figure."""
        region, comparison = self._region(), self._comparison
        if region is None or comparison is None:
            notify(HyperThumbError("compare the codecs first"))
            return
        if not path.lower().endswith((".png", ".pdf", ".svg")):
            path += ".png"
        layer = comparison.plane.layer
        limits = display_limits(layer)
        colours = None if layer.rgb else np.asarray(layer.colormap.map(np.linspace(0, 1, 256)))

        def work(report: Report) -> str:
            scores = comparison.score(region, report)
            try:
                draw_figure(comparison, region, list(comparison.images), scores, path, limits, colours)
            except OSError as error:
                raise HyperThumbError(f"{path}: can't be written: {error.strerror or error}") from error
            return path

        self.status.busy("Drawing the figure")
        self._runner.submit(work, lambda done: self.status.say(f"Wrote {done}"), self._failed)


def grid_shape(count: int, canvas: tuple[int, int], image: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns that show `count` images as large as the canvas allows; sizes are height, width."""

    def zoom(columns: int) -> float:
        rows = -(-count // columns)
        return min(canvas[0] / rows / image[0], canvas[1] / columns / image[1])

    columns = max(range(1, count + 1), key=zoom)
    return -(-count // columns), columns
