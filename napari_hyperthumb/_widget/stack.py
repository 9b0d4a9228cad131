"""The stack widget: whole stacks and channels of the viewer to a TIFF of thumbnails, plane by plane."""

from __future__ import annotations

from typing import Any

from napari.layers import Image
from napari.viewer import Viewer
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QPushButton,
    QVBoxLayout,
)

from .._napari_stack import AXES, VALUES, wanted_of
from ..errors import HyperThumbError
from ..files import STACK_SUFFIX
from ..texts import human_bytes
from . import preferences
from .controls import notify
from .jobs import Report
from .panel import Panel


class StackWidget(Panel):
    """Encodes the selected layers with a progress bar, and opens what it made."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.axes_box = QComboBox()
        self.axes_box.setToolTip("What the layer's axes are: T time, C channel, Z depth")
        self.values_box = QComboBox()
        self.values_box.addItems(VALUES)
        self.values_box.setToolTip("Values that become black and white; those beyond are clipped")
        self.rate_box = QDoubleSpinBox()
        self.rate_box.setRange(0.01, 8)
        self.rate_box.setDecimals(2)
        self.rate_box.setSingleStep(0.05)
        self.rate_box.setValue(0.5)
        self.rate_box.setSuffix(" bpp")
        self.save_button = QPushButton("Encode and save…")
        form = QFormLayout()
        form.addRow("Axes", self.axes_box)
        form.addRow("Black and white", self.values_box)
        form.addRow("Rate of each plane", self.rate_box)
        buttons = QHBoxLayout()
        buttons.addWidget(self.save_button)
        buttons.addWidget(self.status.cancel_button)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addLayout(buttons)
        layout.addWidget(self.status)
        layout.addStretch(1)
        self.save_button.clicked.connect(self._ask_and_encode)
        self.follow(self._selected, napari_viewer.layers.selection.events.changed)
        self._selected()

    def layers(self) -> list[Image]:
        """The selected image layers, in the viewer's order."""
        return [x for x in self.viewer.layers if x in self.viewer.layers.selection and isinstance(x, Image)]

    def _selected(self, *_: object) -> None:
        layers = self.layers()
        options = AXES.get(layers[0].ndim, ()) if layers else ()
        if len(layers) > 1:
            options = tuple(axes for axes in options if "C" not in axes)
        if [self.axes_box.itemText(i) for i in range(self.axes_box.count())] != list(options):
            self.axes_box.clear()
            self.axes_box.addItems(options)
        self.save_button.setEnabled(bool(options))
        if self._runner.busy:  # the line tells how far it is
            return
        names = ", ".join(layer.name for layer in layers)
        self.status.say(f"Selected: {names}" if options else "Select the image layers to encode")

    def _ask_and_encode(self) -> None:
        name = self.layers()[0].name if self.layers() else "stack"
        path, _ = QFileDialog.getSaveFileName(
            self, "Save the thumbnails", f"{name}{STACK_SUFFIX}", f"Stack of thumbnails (*{STACK_SUFFIX})"
        )
        if path:
            self.encode(path)

    def encode(self, path: str) -> None:
        """Encode the selected layers into a file, off the main thread."""
        if not path.lower().endswith((".tif", ".tiff")):
            path += STACK_SUFFIX
        try:
            wanted = wanted_of(self.layers(), self.axes_box.currentText(), self.values_box.currentText())
        except HyperThumbError as error:
            self.status.say(notify(error))
            return
        bpp, device = self.rate_box.value(), str(preferences.get("device"))

        def work(report: Report) -> Any:
            from ..stack import encode_stack

            stack = encode_stack(
                wanted.array,
                wanted.axes,
                value_range=wanted.ranges,
                channels=wanted.channels,
                bpp=bpp,
                device=device,
                progress=report,
            )
            stack.save(path)
            return stack

        self.status.busy(f"Encoding {wanted.axes} {'x'.join(map(str, wanted.array.shape))}")
        self._runner.submit(work, lambda stack: self._done(stack, path), self._failed, self.status.progress)

    def _done(self, stack: Any, path: str) -> None:
        costs = "; ".join(str(cost) for cost in stack.costs or ())
        text = f"{len(stack.planes)} planes, {human_bytes(stack.nbytes)}, {stack.bpp:.3f} bpp; {costs}"
        try:
            self.viewer.open(path, plugin="napari-hyperthumb")
        except HyperThumbError as error:  # dask is missing, say; the file is there all the same
            text += f". {notify(error)}"
        self.status.say(text)
