"""The decode widget: a thumbnail on screen or on disk, and the image that it holds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image
from napari.viewer import Viewer
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from .._napari import decoded, thumbnail_layer
from ..errors import HyperThumbError, ModelError, NotAThumbnailError, ThumbnailError
from ..files import THUMBNAIL_SUFFIX, bare_name
from ..texts import human_bytes, human_seconds
from . import preferences
from .controls import Facts, LayerBox, WeightsBox, notify, scrolling
from .jobs import Report
from .layers import KEY, find, show
from .panel import Panel
from .preview import PREVIEWED, Preview
from .sources import visible_region

if TYPE_CHECKING:
    from ..codec import Info
    from ..pixels import Array

FACTS = ("File", "Image", "Thumbnail", "Rate", "Values", "Weights", "Changes")
JPEGS = (".jpg", ".jpeg")


def may_be_thumbnail(layer: Image) -> bool:
    """A layer of ours that has its file with it, or one that napari opened from a JPEG."""
    known = layer.metadata.get(KEY, {})
    if known.get("kind") == "thumbnail":
        return bool(known.get("whole"))
    return KEY not in layer.metadata and str(layer.source.path or "").lower().endswith(JPEGS)


def file_of(layer: Image) -> bytes:
    """The bytes of the file behind a layer. Raises ThumbnailError."""
    data = layer.metadata.get(KEY, {}).get("data")
    if data is not None:
        return bytes(data)
    try:
        return Path(str(layer.source.path)).read_bytes()
    except OSError as error:
        raise ThumbnailError(f"{layer.source.path}: can't be read: {error.strerror or error}") from error


@dataclass(frozen=True)
class Described:
    """What a file says about itself; `info` is None for a JPEG without our metadata."""

    data: bytes = field(repr=False)
    info: Info | None


def describe(data: bytes) -> Described:
    """What a file says. Raises ThumbnailError for anything but a JPEG."""
    from ..codec import info

    try:
        return Described(data, info(data))
    except NotAThumbnailError:
        return Described(data, None)


def hr_region(
    lr: tuple[tuple[int, int], tuple[int, int]], scale: int, shape: tuple[int, int]
) -> tuple[slice, slice]:
    """The part of the image behind a part of its thumbnail."""
    rows, columns = (
        slice(start * scale, min(stop * scale, side)) for (start, stop), side in zip(lr, shape, strict=True)
    )
    return rows, columns


def reconstruction_of(layer: Image) -> str:
    """The name of the layer for a thumbnail's image."""
    return f"{layer.name.removesuffix(' thumbnail').removesuffix(THUMBNAIL_SUFFIX[:3])} reconstruction"


@dataclass(frozen=True)
class Placement:
    """Where a part of an image lies over its thumbnail."""

    scale: int
    """How many pixels of the image a pixel of the thumbnail has on a side."""
    offset: tuple[float, float]
    """Of its first row and column, in pixels of the thumbnail."""


class DecodeWidget(Panel):
    """Shows what a thumbnail says, and reconstructs its image as a layer that lies over it."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self._described: Described | None = None
        self._preview: Preview | None = None
        self._build()
        self.layer_box.changed.connect(self._layer_changed)
        self.open_button.clicked.connect(self._ask_and_open)
        self.decode_button.clicked.connect(self._decode)
        self.ours_box.toggled.connect(preferences.set_opens_thumbnails)
        self.at_end(self.layer_box.detach, self._drop_preview)
        self._layer_changed()

    def _build(self) -> None:
        self.layer_box = LayerBox(self.viewer, may_be_thumbnail)
        self.open_button = QPushButton("Open file…")
        self.scale_box = QComboBox()
        self.scale_box.addItem("2", 2)
        self.scale_box.addItem("4", 4)
        self.scale_box.setToolTip("The file has lost its metadata: say how many times smaller it was made")
        self.part_box = QComboBox()
        self.part_box.addItems(["whole image", "part on screen"])
        self.weights_box = WeightsBox()
        self.any_box = QCheckBox("With other weights, at a loss of quality")
        self.any_box.setToolTip(
            "The file's own weights aren't here: decode with the bundled ones all the same"
        )
        self.decode_button = QPushButton("Decode")
        self.facts = Facts(FACTS, columns=1)
        self.ours_box = QCheckBox("napari opens *.ht.jpg as thumbnails without asking")
        self.ours_box.setToolTip(
            "napari's own reader takes every JPEG, so it asks which one to use when a thumbnail is dropped "
            "onto the canvas. This is kept in napari's Preferences, Plugins. Other JPEGs open as ever."
        )
        self.ours_box.setChecked(preferences.opens_thumbnails())
        self.form = QFormLayout()
        self.form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self.form.addRow("Thumbnail", self.layer_box)
        self.form.addRow("", self.open_button)
        self.form.addRow("Scale", self.scale_box)
        self.form.addRow("Decode", self.part_box)
        self.form.addRow("Weights", self.weights_box)
        self.form.addRow("", self.any_box)
        for row in (self.scale_box, self.weights_box, self.any_box):
            self.form.setRowVisible(row, False)
        buttons = QHBoxLayout()
        buttons.addWidget(self.decode_button)
        buttons.addWidget(self.status.cancel_button)
        inside = QWidget()
        layout = QVBoxLayout(inside)
        layout.addLayout(self.form)
        layout.addLayout(buttons)
        layout.addWidget(self.status)
        layout.addWidget(self.facts)
        layout.addStretch(1)
        layout.addWidget(self.ours_box)
        scrolling(inside, self)

    # ---- choosing ----------------------------------------------------------------------------

    def _layer_changed(self) -> None:
        self._runner.cancel()
        self._drop_preview()
        self._described = None
        self.facts.clear()
        for row in (self.scale_box, self.weights_box, self.any_box):
            self.form.setRowVisible(row, False)
        layer = self.layer_box.layer
        self.decode_button.setEnabled(layer is not None)
        if layer is None:
            self.status.say("Open a thumbnail: the button above, or drop a .ht.jpg onto the canvas")
            return
        self.status.busy("Reading the file")
        self._runner.submit(lambda report: describe(file_of(layer)), self._show_described, self._failed)

    def _ask_and_open(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, "Open thumbnail", "", "HyperThumb thumbnails and JPEG (*.ht.jpg *.jpg *.jpeg)"
        )
        if path:
            self.open(path)

    def open(self, path: str) -> None:
        """Show a file's thumbnail as a layer and choose it."""

        def work(report: Report) -> Described:
            try:
                return describe(Path(path).read_bytes())
            except OSError as error:
                raise ThumbnailError(f"{path}: can't be read: {error.strerror or error}") from error

        def done(described: Described) -> None:
            scale = described.info.scale if described.info else 1
            name = f"{bare_name(Path(path))} thumbnail"
            pixels, options, _ = thumbnail_layer(described.data, name, scale)
            self.layer_box.choose(self.viewer.add_image(pixels, **options))

        self.status.busy("Reading the file")
        self._runner.submit(work, done, self._failed)

    def _show_described(self, described: Described) -> None:
        self._described = described
        about = described.info
        self.form.setRowVisible(self.scale_box, about is None)
        self.form.setRowVisible(self.weights_box, about is None)
        self.status.say("")
        if about is None:
            self.facts.clear()
            self.facts.set(File=human_bytes(len(described.data)))
            self.facts.set(
                Changes="no metadata: an ordinary JPEG, or a thumbnail that lost it. Choose its scale"
            )
            return
        low, high = about.format.range
        kind = "gray" if about.format.gray else "RGB"
        self.facts.set(
            File=human_bytes(about.nbytes),
            Image=f"{about.shape[1]} × {about.shape[0]} pixels, {kind}",
            Thumbnail=f"{about.lr_size[1]} × {about.lr_size[0]} pixels, {about.scale} times smaller",
            Rate=f"{about.bpp:.3f} bits per pixel",
            Values=f"{about.format.dtype}, {low:g} to {high:g}",
            Weights=f"{about.model} ({about.digest[:8]})",
            Changes="; ".join(about.lost) or "none since it was made",
        )

    # ---- decoding ----------------------------------------------------------------------------

    def _decode(self) -> None:
        layer, described = self.layer_box.layer, self._described
        if layer is None or described is None:
            notify(HyperThumbError("choose a thumbnail first"))
            return
        scale = described.info.scale if described.info else int(self.scale_box.currentData())
        options: dict[str, Any] = {
            "device": preferences.get("device"),
            "weights": self.weights_box.path,
            "any_model": self.any_box.isChecked(),
        }
        if described.info is None:
            options["scale"] = scale
        lr_shape = (layer.data.shape[0], layer.data.shape[1])
        shape = described.info.shape if described.info else (lr_shape[0] * scale, lr_shape[1] * scale)
        region = (slice(0, shape[0]), slice(0, shape[1]))
        if self.part_box.currentIndex() == 1:
            region = options["region"] = hr_region(visible_region(layer, lr_shape), scale, shape)
        place = Placement(scale, (region[0].start / scale, region[1].start / scale))
        preview = self._previewed(layer, described, region, place)
        data, small = described.data, np.asarray(layer.data)

        def work(report: Report) -> tuple[Any, float]:
            from time import perf_counter

            started = perf_counter()
            if preview and described.info:
                preview.begin(small, scale, region, described.info.format)
                options["show"] = preview.place
            return decoded(data, progress=report, **options), perf_counter() - started

        def progress(fraction: float) -> None:
            self.status.progress(fraction)
            if preview:
                preview.draw()

        def done(result: tuple[Any, float]) -> None:
            image, seconds = result
            shown = self._put(layer, described, image, place)
            if preview:
                preview.end(shown is not None)
            if shown is None:
                self.status.say("The thumbnail was removed while it was being decoded")
                return
            layer.visible = False
            self.status.say(f"{image.shape[1]} × {image.shape[0]} pixels in {human_seconds(seconds)}")

        self.status.busy("Decoding")
        self._runner.submit(work, done, self._failed, progress)

    def _previewed(
        self, layer: Image, described: Described, region: tuple[slice, slice], place: Placement
    ) -> Preview | None:
        """A preview where the image is large and no older one of it is to be seen."""
        large = math.prod(part.stop - part.start for part in region) >= PREVIEWED
        if not large or described.info is None or find(self.viewer, reconstruction_of(layer)):
            return None
        self._drop_preview()

        def remove(made: Image) -> None:
            if made in self.viewer.layers:
                self.viewer.layers.remove(made)

        self._preview = Preview(lambda pixels: self._put(layer, described, pixels, place), remove)
        return self._preview

    def _drop_preview(self) -> None:
        if self._preview is not None:
            self._preview.end(done=False)
            self._preview = None

    def _put(self, layer: Image, described: Described, image: Array, place: Placement) -> Image | None:
        """Show an image over its thumbnail; None where that was removed."""
        if layer not in self.viewer.layers:
            return None
        low, high = described.info.format.range if described.info else (0.0, 255.0)
        return show(
            self.viewer,
            layer,
            reconstruction_of(layer),
            image,
            scale=1 / place.scale,
            offset=place.offset,
            rgb=image.ndim == 3,
            contrast_limits=(low, high if high > low else math.nextafter(low, math.inf) + 1),
            metadata={"kind": "decoded"},
        )

    def _cancel(self) -> None:
        super()._cancel()
        self._drop_preview()

    def _failed(self, error: Exception) -> None:
        self._drop_preview()
        if isinstance(error, ModelError):
            self.form.setRowVisible(self.weights_box, True)
            self.form.setRowVisible(self.any_box, True)
            error = ModelError(f"{str(error).split(': give')[0]}: choose their file, or tick the box")
        super()._failed(error)
