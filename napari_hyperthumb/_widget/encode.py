"""The encode widget: a picture, one slider, and what each bit buys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari.viewer import Viewer
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QStackedWidget,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)
from superqt.utils import qthrottled

from ..errors import HyperThumbError
from ..files import THUMBNAIL_SUFFIX, write_atomically
from ..texts import decibels, human_bytes, human_seconds
from . import preferences
from .controls import (
    Facts,
    LayerBox,
    RateSlider,
    WeightsBox,
    not_ours,
    notify,
    scrolling,
)
from .encode_controller import EncodeController, Result, Wanted
from .layers import display_limits, find, show, show_error
from .panel import Panel
from .plots import CurvePlot, TablesPlot
from .sources import VALUES, is_eight_bit, plane_of, visible_region

if TYPE_CHECKING:
    from ..compare import RatePoint
    from ..session import RateCurve

SCALES = {"auto": None, "2": 2, "4": 4}
EFFORTS = ("fast", "best")
DEVICE_NAMES = {"auto": "automatic", "cpu": "CPU", "cuda": "GPU (CUDA)", "mps": "GPU (Apple)"}
THROTTLE_MS = 60
FACTS = ("File", "PSNR", "Rate", "SSIM", "Scale", "Level", "Encoding", "Decoding")


class EncodeWidget(Panel):
    """Codes an image layer, live while the slider moves, and shows the result as layers."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self._background = self.runner(behind=self._runner)
        self._controller = EncodeController(self, self._runner, self._background)
        self._shown: Result | None = None
        self._build()
        self._connect()
        self._weights_changed()
        self._layer_changed()

    # ---- building ----------------------------------------------------------------------------

    def _build(self) -> None:
        self.layer_box = LayerBox(self.viewer, not_ours)
        self.scale_box = QComboBox()
        self.scale_box.addItems(["automatic", "2 (half the side)", "4 (a quarter)"])
        self.scale_box.setToolTip("How many times smaller the thumbnail's side is than the image's")
        self.values_box = QComboBox()
        self.values_box.addItems(["contrast limits", "whole data range"])
        self.values_box.setToolTip(
            "What becomes black and white in the file. Values beyond the contrast limits are clipped."
        )
        self.effort_box = QComboBox()
        self.effort_box.addItems(["fast", "best (slow: some dozens of passes)"])
        self.effort_box.setToolTip(
            "How long the button Encode looks for better coefficients; previews are fast"
        )
        self.weights_box = WeightsBox()
        self.device_box = QComboBox()
        for key in preferences.DEVICES:
            self.device_box.addItem(DEVICE_NAMES[key], key)
        self.device_box.setCurrentIndex(self.device_box.findData(preferences.get("device")))
        self.target_box = QComboBox()
        self.target_box.addItems(["Bitrate", "File size", "PSNR (quality)"])

        self.slider = RateSlider(0.05, 2.0, 0.3)
        self.estimate = QLabel()
        slider_page = QWidget()
        column = QVBoxLayout(slider_page)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addWidget(self.slider)
        column.addWidget(self.estimate)
        self.bytes_box = QDoubleSpinBox()
        self.bytes_box.setRange(0.1, 1e7)
        self.bytes_box.setDecimals(1)
        self.bytes_box.setValue(20)
        self.bytes_box.setSuffix(" kB at most")
        self.psnr_box = QDoubleSpinBox()
        self.psnr_box.setRange(10, 60)
        self.psnr_box.setDecimals(1)
        self.psnr_box.setValue(32)
        self.psnr_box.setSuffix(" dB at least")
        self.pages = QStackedWidget()
        for page in (slider_page, _at_top(self.bytes_box), _at_top(self.psnr_box)):
            self.pages.addWidget(page)

        self.live_box = QCheckBox("Live preview")
        self.live_box.setChecked(True)
        self.live_box.setToolTip(
            "Code the part of the image on screen while the slider moves, and the whole of it when it stops"
        )
        self.error_box = QComboBox()
        self.error_box.addItems(["absolute error", "signed error"])
        self.error_box.setToolTip("What the error layer shows")
        options = QHBoxLayout()
        options.addWidget(self.live_box)
        options.addStretch(1)
        options.addWidget(self.error_box)

        self.encode_button = QPushButton("Encode")
        self.save_button = QPushButton("Save thumbnail…")
        self.save_button.setEnabled(False)
        buttons = QHBoxLayout()
        for button in (self.encode_button, self.status.cancel_button, self.save_button):
            buttons.addWidget(button)

        self.facts = Facts(FACTS)
        self.curve_plot = CurvePlot(self.viewer.theme)
        self.tables_plot = TablesPlot(self.viewer.theme)
        self.tabs = QTabWidget()
        self.tabs.addTab(self.curve_plot, "What a bit buys")
        self.tabs.addTab(self.tables_plot, "Tables")

        self.form = QFormLayout()
        self.form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self.form.addRow("Image", self.layer_box)
        self.form.addRow("Scale", self.scale_box)
        self.form.addRow("Values", self.values_box)
        self.form.addRow("Effort", self.effort_box)
        self.form.addRow("Weights", self.weights_box)
        self.form.addRow("Device", self.device_box)
        self.form.addRow("Aim at", self.target_box)
        inside = QWidget()
        layout = QVBoxLayout(inside)
        layout.addLayout(self.form)
        layout.addWidget(self.pages)
        layout.addLayout(options)
        layout.addLayout(buttons)
        layout.addWidget(self.status)
        layout.addWidget(self.facts)
        layout.addWidget(self.tabs)
        layout.addStretch(1)
        scrolling(inside, self)

    def _connect(self) -> None:
        self.layer_box.changed.connect(self._layer_changed)
        self.scale_box.currentIndexChanged.connect(self._scale_changed)
        self.values_box.currentIndexChanged.connect(self._picture_changed)
        self.weights_box.changed.connect(self._weights_changed)
        self.device_box.currentIndexChanged.connect(self._device_changed)
        self.target_box.currentIndexChanged.connect(self._target_changed)
        self.error_box.currentIndexChanged.connect(self._error_changed)
        # The first move is shown at once, then one in every THROTTLE_MS, and always the last.
        self._throttled = qthrottled(self._preview, timeout=THROTTLE_MS, leading=True)
        self.slider.moved.connect(self._moved)
        self.slider.released.connect(self._settled)
        self.encode_button.clicked.connect(self._encode)
        self.save_button.clicked.connect(self._ask_and_save)
        self.follow(self._theme_changed, self.viewer.events.theme)
        self.at_end(self.layer_box.detach, self._throttled.cancel)

    # ---- what the user does ------------------------------------------------------------------

    def _wanted(self) -> Wanted | None:
        """What the controls say; None, with a notification, where there is nothing to code."""
        layer = self.layer_box.layer
        if layer is None:
            notify(HyperThumbError("open or choose an image layer first"))
            return None
        values = VALUES[self.values_box.currentIndex()]
        try:
            plane = plane_of(layer, self.viewer.dims.point, self.viewer.dims.displayed, values)
        except HyperThumbError as error:
            self.status.say(notify(error))
            return None
        device = str(self.device_box.currentData())
        effort = EFFORTS[self.effort_box.currentIndex()]
        weights = self.weights_box.path
        return Wanted(plane, visible_region(layer, plane.shape), self._scale(), device, effort, weights)

    def _scale(self) -> int | None:
        return list(SCALES.values())[self.scale_box.currentIndex()]

    def _moved(self, bpp: float) -> None:
        self._show_estimate()
        curve = self._controller.point_at(self._scale(), bpp)
        if curve is not None:
            self.curve_plot.move_point(*curve)
        if self.live_box.isChecked():
            self._throttled()

    def _preview(self) -> None:
        wanted = self._wanted()
        if wanted is not None:
            self._controller.preview(wanted, self.slider.value)

    def _settled(self, bpp: float) -> None:
        self._throttled.cancel()
        if self.live_box.isChecked() and (wanted := self._wanted()):
            self._controller.settle(wanted, bpp)

    def _encode(self) -> None:
        wanted = self._wanted()
        if wanted is None:
            return
        kind, value = (
            ("bpp", self.slider.value),
            ("nbytes", 1000 * self.bytes_box.value()),
            ("psnr", self.psnr_box.value()),
        )[self.target_box.currentIndex()]
        self._controller.encode(wanted, kind, value)

    def _cancel(self) -> None:
        self._throttled.cancel()
        self._controller.cancel()
        super()._cancel()

    def _ask_and_save(self) -> None:
        if self._shown is None:
            return
        name = f"{self._shown.wanted.plane.layer.name}{THUMBNAIL_SUFFIX}".replace("/", "_")
        path, _ = QFileDialog.getSaveFileName(
            self, "Save thumbnail", name, "HyperThumb thumbnails (*.ht.jpg);;JPEG (*.jpg *.jpeg)"
        )
        if path:
            self.save(path)

    def save(self, path: str) -> None:
        """Write the thumbnail of the whole image; a name without an ending gets ours."""
        if self._shown is None or not self._shown.step.whole:
            notify(HyperThumbError("encode the whole image first"))
            return
        if not path.lower().endswith((".jpg", ".jpeg")):
            path += THUMBNAIL_SUFFIX
        try:
            write_atomically(path, self._shown.step.thumbnail.data)
        except HyperThumbError as error:
            self.status.say(notify(error))
            return
        self.status.say(f"Saved {Path(path).name}")

    # ---- what changes by itself --------------------------------------------------------------

    def _layer_changed(self) -> None:
        layer = self.layer_box.layer
        self._picture_changed()
        self.form.setRowVisible(
            self.values_box, layer is not None and not is_eight_bit(layer) and not layer.rgb
        )
        self.encode_button.setEnabled(layer is not None)
        self.slider.setEnabled(layer is not None)
        if layer is None:
            self.status.say("Open an image to begin: File → Open, or File → Open Sample → HyperThumb")

    def _picture_changed(self, *_: object) -> None:
        self._throttled.cancel()
        self._controller.forget()
        self._shown = None
        self.save_button.setEnabled(False)
        self.facts.clear()
        self.curve_plot.set_curves({}, False)
        self.status.say("")
        self._show_estimate()

    def _scale_changed(self) -> None:
        limits = self._controller.range_for(self._scale())
        if limits is not None:
            self.slider.set_range(*limits)
            self._show_estimate()

    def _weights_changed(self) -> None:
        """Weights from a file are of one scale; the bundled ones are of both."""
        bundled = not self.weights_box.path
        self.scale_box.setEnabled(bundled)
        if not bundled:
            self.scale_box.setCurrentIndex(0)
        self._picture_changed()

    def _device_changed(self) -> None:
        preferences.set_("device", self.device_box.currentData())

    def _target_changed(self, index: int) -> None:
        self.pages.setCurrentIndex(index)
        self.live_box.setEnabled(index == 0)

    def _error_changed(self) -> None:
        if self._shown is not None:
            self._update_error(self._shown)

    def _theme_changed(self) -> None:
        for plot in (self.curve_plot, self.tables_plot):
            plot.set_theme(self.viewer.theme)

    def _show_estimate(self) -> None:
        layer = self.layer_box.layer
        if layer is None:
            self.estimate.setText("")
            return
        try:
            plane = plane_of(layer, self.viewer.dims.point, self.viewer.dims.displayed)
        except HyperThumbError:
            self.estimate.setText("")
            return
        nbytes = self.slider.value * plane.shape[0] * plane.shape[1] / 8
        ratio = plane.raw_bytes / max(nbytes, 1)
        self.estimate.setText(f"about {human_bytes(nbytes)}  ·  {ratio:.0f} times smaller than the pixels")

    # ---- the controller's view ---------------------------------------------------------------

    def show_range(self, low: float, high: float) -> None:
        self.slider.set_range(low, high)
        self._show_estimate()

    def show_curves(self, curves: dict[int, RateCurve], sampled: bool) -> None:
        self.curve_plot.set_curves(curves, sampled)

    def show_rival(self, name: str, points: Sequence[RatePoint]) -> None:
        self.curve_plot.add_rival(name, points)

    def show_busy(self, text: str) -> None:
        self.status.busy(text)

    def show_progress(self, fraction: float) -> None:
        self.status.progress(fraction)

    def show_error(self, error: Exception) -> None:
        self._failed(error)

    def show_result(self, result: Result) -> None:
        if result.wanted.plane.layer not in self.viewer.layers:
            self.status.say("The image was removed while it was being coded")
            return
        self._shown = result
        self._update_layers(result)
        self._update_error(result)
        self._update_facts(result)
        self.save_button.setEnabled(result.step.whole)

    def _update_layers(self, result: Result) -> None:
        step, plane = result.step, result.wanted.plane
        source = plane.layer
        offset = (step.region[0][0], step.region[1][0])
        about = {"source": source.name, "whole": step.whole, "region": step.region}
        colormap = None if source.rgb else source.colormap
        show(
            self.viewer,
            source,
            f"{source.name} thumbnail",
            step.thumbnail.lr,
            index=plane.index,
            scale=step.thumbnail.scale,
            offset=offset,
            rgb=bool(source.rgb),
            colormap=colormap,
            visible=False,
            metadata={**about, "kind": "thumbnail", "data": step.thumbnail.data},
        )
        show(
            self.viewer,
            source,
            f"{source.name} reconstruction",
            step.image,
            index=plane.index,
            offset=offset,
            rgb=bool(source.rgb),
            contrast_limits=display_limits(source),
            colormap=colormap,
            metadata={**about, "kind": "reconstruction"},
        )

    def _update_error(self, result: Result) -> None:
        step, plane = result.step, result.wanted.plane
        name = f"{plane.layer.name} error"
        signed = self.error_box.currentIndex() == 1
        old = find(self.viewer, name)
        if plane.layer not in self.viewer.layers or (old is not None and not old.visible and not step.whole):
            return  # nobody looks at it while the slider moves
        show_error(
            self.viewer,
            plane.layer,
            name,
            step.error(signed=signed),
            step.peak,
            signed=signed,
            index=plane.index,
            offset=(step.region[0][0], step.region[1][0]),
            metadata={"source": plane.layer.name, "kind": "error", "region": step.region},
        )

    def _update_facts(self, result: Result) -> None:
        step = result.step
        thumbnail = step.thumbnail
        self.facts.set(
            File=human_bytes(thumbnail.nbytes),
            Rate=f"{thumbnail.bpp:.3f} bpp",
            PSNR=decibels(step.psnr),
            SSIM="–" if step.ssim is None else f"{step.ssim:.4f}",
            Scale=str(thumbnail.scale),
            Level=f"{thumbnail.level:+.2f}",
            Encoding=human_seconds(step.encode_s),
            Decoding=human_seconds(step.decode_s),
        )
        (top, bottom), (left, right) = step.region
        size = f"{right - left} × {bottom - top} pixels"
        text = f"The whole image, {size}" if step.whole else f"Preview of the part on screen, {size}"
        if result.wanted.plane.has_alpha:
            text += "; its alpha channel is left out"
        if thumbnail.level < -1:
            text += "; coarser than the networks were trained for"
        self.status.say(text)
        self.tables_plot.set_tables(thumbnail.tables, step.format.gray)
        if step.whole:
            self.curve_plot.move_point(thumbnail.bpp, step.psnr)


def _at_top(inside: QWidget) -> QWidget:
    page = QWidget()
    layout = QVBoxLayout(page)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.addWidget(inside)
    layout.addStretch(1)
    return page
