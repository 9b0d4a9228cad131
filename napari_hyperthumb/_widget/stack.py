"""The stack widget: whole stacks and channels of the viewer to a TIFF of thumbnails, plane by plane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
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

from ..errors import HyperThumbError, ImageError
from ..files import STACK_SUFFIX
from ..texts import human_bytes
from . import preferences
from .controls import notify
from .jobs import Report
from .panel import Panel

AXES = {2: ("YX",), 3: ("ZYX", "TYX", "CYX"), 4: ("TZYX", "CZYX", "TCYX"), 5: ("TCZYX",)}
"""What the axes of a layer may be, by their number; the colours of RGB are one more."""
VALUES = ("contrast limits", "data range", "0.1 to 99.9 percent")


@dataclass(frozen=True)
class Together:
    """Layers of one shape as channels of one array, which is read plane by plane."""

    layers: Sequence[Any] = field(repr=False)
    """Their data."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels first."""
        return (len(self.layers), *self.layers[0].shape)

    @property
    def dtype(self) -> Any:
        """Of the samples."""
        return self.layers[0].dtype

    def __getitem__(self, index: tuple[int, ...]) -> np.ndarray:
        """One plane, or a part of a channel."""
        return np.asarray(self.layers[index[0]][tuple(index[1:])])


@dataclass(frozen=True)
class Wanted:
    """What to encode, in the words of `encode_stack`."""

    array: Any = field(repr=False)
    axes: str
    ranges: Any
    channels: tuple[Any, ...]


def wanted_of(layers: Sequence[Image], axes: str, values: str) -> Wanted:
    """Layers as one stack: one layer with these axes, or several of them as its channels.

    Raises ImageError when they don't fit together, with what to do.
    """
    from ..channels import Percentile
    from ..stack import Channel

    if not layers:
        raise ImageError("select the image layers to encode; several become the channels of one stack")
    data = [layer.data[0] if layer.multiscale else layer.data for layer in layers]
    first = layers[0]
    if any(one.shape != data[0].shape or one.dtype != data[0].dtype for one in data):
        raise ImageError("the selected layers differ in shape or dtype: select those of one image")
    if len(layers) > 1 and (first.rgb or "C" in axes):
        raise ImageError("several layers become channels: they can't have colours or channels of their own")
    if first.rgb and data[0].shape[-1] == 4:
        raise ImageError(f"{first.name} has an alpha channel, which a JPEG can't hold: drop it first")
    array = Together(data) if len(layers) > 1 else data[0]
    whole = ("C" if len(layers) > 1 else "") + axes + ("S" if first.rgb else "")
    if len(whole) != len(array.shape):
        raise ImageError(f"{first.name} has {len(array.shape)} axes, not those of {whole}")
    ranges: Any = None
    if values == VALUES[2]:
        ranges = Percentile()
    elif values == VALUES[0] and not first.rgb and np.dtype(data[0].dtype) != np.uint8:
        ranges = [tuple(map(float, layer.contrast_limits)) for layer in layers]
        if "C" in axes:  # one layer shows all its channels with the same limits
            ranges = ranges[0]
    brightest = [[round(255 * float(part)) for part in layer.colormap.colors[-1][:3]] for layer in layers]
    channels = tuple(
        Channel(layer.name, (red, green, blue))
        for layer, (red, green, blue) in zip(layers, brightest, strict=True)
    )
    return Wanted(array, whole, ranges, channels if len(layers) > 1 else ())


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
