"""The widgets as a user drives them, in a viewer on a (virtual) screen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtWidgets")

from napari.utils.notifications import notification_manager
from napari_fixtures import needs_screen, small_photo, until
from PIL import Image as Pillow
from qtpy.QtCore import QEvent, QMimeData, QPointF, Qt, QThreadPool, QTimer, QUrl
from qtpy.QtGui import QDropEvent, QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QFileDialog

from napari_hyperthumb import (
    HyperThumbWarning,
    ModelError,
    ThumbnailError,
    _napari,
    decode,
    encode,
    info,
    load_model,
)
from napari_hyperthumb._widget import decode as decode_widget
from napari_hyperthumb._widget import preferences
from napari_hyperthumb.checkpoint import Model
from napari_hyperthumb.session import Session

pytestmark = [needs_screen, pytest.mark.usefixtures("tiny_weights")]


@pytest.fixture
def viewer(make_napari_viewer: Callable[..., Any]) -> Any:
    return make_napari_viewer()


@pytest.fixture
def open_widget(viewer: Any) -> Iterator[Callable[[str], Any]]:
    """Opens a widget by its name in the manifest."""
    opened = []

    def open_one(name: str) -> Any:
        _, widget = viewer.window.add_plugin_dock_widget("napari-hyperthumb", name)
        opened.append(widget)
        return widget

    yield open_one
    for widget in opened:
        widget.detach()


@pytest.fixture(autouse=True)
def fresh_preferences(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the plugin remembers, for one test."""
    kept: dict[str, Any] = {"device": "auto", "save_bpp": 0.5, "weights": ""}
    monkeypatch.setattr(preferences, "get", kept.__getitem__)
    monkeypatch.setattr(preferences, "set_", kept.__setitem__)
    return kept


@pytest.fixture
def told() -> list[str]:
    """What napari's notifications say."""
    return _Told()


class _Told(list):  # type: ignore[type-arg]
    def __init__(self) -> None:
        super().__init__()
        self.before = len(notification_manager.records)

    def text(self) -> str:
        return " | ".join(str(r.message) for r in notification_manager.records[self.before :])


def names(viewer: Any) -> list[str]:
    return [layer.name for layer in viewer.layers]


def idle(widget: Any) -> None:
    until(lambda: not widget._runner.busy)


def pause(seconds: float) -> None:
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() > end)


def whole(widget: Any) -> bool:
    return widget._shown is not None and widget._shown.step.whole


# ---- encode ----------------------------------------------------------------------------------


def test_the_image_box_follows_the_layer_list(viewer: Any, open_widget: Any) -> None:
    widget = open_widget("Encode")
    box = widget.layer_box
    assert box.layer is None
    assert not widget.encode_button.isEnabled()
    first = viewer.add_image(small_photo(), rgb=True, name="first")
    assert box.layer is first
    viewer.add_image(small_photo(), rgb=True, name="second")
    viewer.add_labels(np.zeros((8, 8), int))
    assert box.layer is first
    assert [box.itemText(i) for i in range(box.count())] == ["first", "second"]
    first.name = "renamed"
    assert box.itemText(0) == "renamed"
    viewer.layers.remove(first)
    assert box.layer.name == "second"
    viewer.layers.clear()
    assert box.layer is None
    assert "Open" in widget.status.line.text()


def test_dragging_previews_and_letting_go_codes_the_whole_image(viewer: Any, open_widget: Any) -> None:
    source = viewer.add_image(small_photo(), rgb=True, name="photo")
    widget = open_widget("Encode")
    slider = widget.slider.slider
    slider.setSliderDown(True)
    for position in (400, 500, 600):
        slider.setValue(position)
    until(lambda: widget._shown is not None)
    idle(widget)
    assert names(viewer) == ["photo", "photo thumbnail", "photo reconstruction", "photo error"]
    layers = list(viewer.layers)
    slider.setSliderDown(False)
    until(lambda: whole(widget))
    idle(widget)
    assert list(viewer.layers) == layers
    assert [layer.visible for layer in layers] == [True, False, True, False]
    assert source.data is layers[0].data
    assert layers[1].data.shape[0] in (32, 16)
    np.testing.assert_array_equal(layers[1].scale, (64 / layers[1].data.shape[0],) * 2)
    assert widget.facts.text("Rate").endswith("bpp")
    assert widget.facts.text("SSIM") != "–"
    assert widget.save_button.isEnabled()
    until(lambda: not widget._background.busy)
    assert {"JPEG", "WebP"} <= set(widget.curve_plot.rivals)
    assert widget.tables_plot.tables is not None
    before = widget._shown.step.thumbnail.nbytes
    slider.setValue(1000)  # the keyboard: moves without a drag
    until(lambda: widget._shown.step.thumbnail.nbytes != before and whole(widget))
    assert list(viewer.layers) == layers


@pytest.fixture
def one_core() -> Iterator[QThreadPool]:
    """Qt's threads on a machine with one core."""
    pool = QThreadPool.globalInstance()
    before = pool.maxThreadCount()
    pool.setMaxThreadCount(1)
    yield pool
    pool.setMaxThreadCount(before)


def test_the_curves_that_wait_for_the_slider_dont_hold_it_up(
    viewer: Any, open_widget: Any, one_core: QThreadPool
) -> None:
    viewer.add_image(small_photo(), rgb=True, name="photo")
    widget = open_widget("Encode")
    for rate in (0.7, 0.9, 1.1):
        widget.slider.box.setValue(rate)
        until(lambda: whole(widget))
        idle(widget)
    until(lambda: not widget._background.busy)
    assert one_core.waitForDone(10_000)
    assert one_core.activeThreadCount() == 0  # every loan was given back


def test_the_numbers_beside_the_slider_follow_it(viewer: Any, open_widget: Any) -> None:
    viewer.add_image(np.zeros((1000, 1000, 3), np.uint8), rgb=True)
    widget = open_widget("Encode")
    widget.live_box.setChecked(False)
    widget.slider.box.setValue(0.8)
    assert "100 kB" in widget.estimate.text()
    assert "30 times smaller" in widget.estimate.text()
    assert not widget._runner.busy


@pytest.mark.parametrize(("target", "check"), [(1, "bytes"), (2, "psnr")])
def test_targets_are_met_saved_and_reopened(
    viewer: Any, open_widget: Any, tmp_path: Path, target: int, check: str
) -> None:
    viewer.add_image(small_photo(), rgb=True, name="photo")
    widget = open_widget("Encode")
    widget.target_box.setCurrentIndex(target)
    widget.bytes_box.setValue(2.0)
    widget.psnr_box.setValue(10)
    widget.encode_button.click()
    assert widget.status.cancel_button.isEnabled()
    until(lambda: whole(widget))
    idle(widget)
    assert not widget.status.cancel_button.isEnabled()
    step = widget._shown.step
    assert step.thumbnail.nbytes <= 2000 if check == "bytes" else step.psnr >= 10
    widget.save(str(tmp_path / "photo"))
    saved = tmp_path / "photo.ht.jpg"
    assert saved.read_bytes() == step.thumbnail.data
    assert "Saved" in widget.status.line.text()
    viewer.layers.clear()
    viewer.open(saved, plugin="napari-hyperthumb")
    assert names(viewer) == ["photo thumbnail", "photo reconstruction"]
    np.testing.assert_array_equal(viewer.layers[1].data, step.image)


def test_saving_where_nothing_can_be_written_is_told(
    viewer: Any, open_widget: Any, tmp_path: Path, told: _Told
) -> None:
    viewer.add_image(small_photo(), rgb=True)
    widget = open_widget("Encode")
    widget.save(str(tmp_path / "a.jpg"))
    assert "Encode the whole image first" in told.text()
    widget.slider.box.setValue(0.5)
    until(lambda: whole(widget))
    widget.save(str(tmp_path / "missing" / "a.ht.jpg"))
    assert "can't be written" in told.text()


def slow(report: Any, started: list[float]) -> None:
    """Works for as long as nobody stops it."""
    started.append(time.monotonic())
    while time.monotonic() - started[0] < 20:
        time.sleep(0.01)
        report(0.5)


@pytest.fixture
def slow_session(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    started: list[float] = []
    monkeypatch.setattr(Session, "calibrate", lambda self, *, quick, report: slow(report, started))
    return started


def test_cancel_stops_the_work(viewer: Any, open_widget: Any, slow_session: list[float]) -> None:
    viewer.add_image(small_photo(), rgb=True)
    widget = open_widget("Encode")
    widget.encode_button.click()
    until(lambda: slow_session)
    widget.status.cancel_button.click()
    until(lambda: not widget._runner.busy, 5)
    assert widget.status.line.text() == "Cancelled"
    assert len(viewer.layers) == 1


def test_a_layer_removed_while_it_is_coded(viewer: Any, open_widget: Any, slow_session: list[float]) -> None:
    layer = viewer.add_image(small_photo(), rgb=True)
    widget = open_widget("Encode")
    widget.encode_button.click()
    until(lambda: slow_session)
    viewer.layers.remove(layer)
    until(lambda: not widget._runner.busy, 5)
    assert len(viewer.layers) == 0


def test_results_for_a_removed_layer_are_dropped(viewer: Any, open_widget: Any) -> None:
    layer = viewer.add_image(small_photo(), rgb=True)
    widget = open_widget("Encode")
    widget.slider.box.setValue(0.5)
    until(lambda: whole(widget))
    result = widget._shown
    viewer.layers.clear()
    widget.show_result(result)
    assert len(viewer.layers) == 0
    assert "removed" in widget.status.line.text()
    assert layer not in viewer.layers


def test_the_viewer_is_closed_while_an_image_is_coded(
    make_napari_viewer: Any, slow_session: list[float]
) -> None:
    viewer = make_napari_viewer()
    viewer.add_image(small_photo(), rgb=True)
    _, widget = viewer.window.add_plugin_dock_widget("napari-hyperthumb", "Encode")
    widget.encode_button.click()
    until(lambda: slow_session)
    runner = widget._runner
    viewer.close()
    until(lambda: not runner.busy, 10)


KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "gray": (small_photo()[..., 0], {}),
    "uint16": (small_photo()[..., 0].astype(np.uint16) * 200, {"contrast_limits": (1000, 30000)}),
    "float": (small_photo()[..., 0] / 255 - 0.5, {}),
    "float colour": (small_photo() / np.float32(255), {"rgb": True}),
    "rgba": (np.dstack([small_photo(), np.full((64, 96), 128, np.uint8)]), {"rgb": True}),
    "stack": (np.stack([small_photo()[..., 0]] * 3), {"scale": (3, 0.5, 0.5), "units": ("um",) * 3}),
    "multiscale": ([small_photo()[..., 0], small_photo()[::2, ::2, 0]], {"multiscale": True}),
    "rotated": (small_photo(), {"rgb": True, "rotate": 30, "scale": (0.2, 0.2), "units": ("um", "um")}),
    "tiny": (small_photo()[:1, :1], {"rgb": True}),
    "odd": (small_photo()[:37, :53, 0], {"colormap": "green", "gamma": 0.7}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_every_kind(viewer: Any, open_widget: Any, kind: str) -> None:
    data, options = KINDS[kind]
    source = viewer.add_image(data, name="it", **options)
    if kind == "stack":
        viewer.dims.set_current_step(0, 2)
    widget = open_widget("Encode")
    widget.slider.box.setValue(0.7)
    until(lambda: whole(widget))
    idle(widget)
    result = viewer.layers["it reconstruction"]
    full = data[0] if kind == "multiscale" else data
    assert result.data.shape[-2 - result.rgb :][:2] == full.shape[-2 - source.rgb :][:2]
    assert result.units == source.units
    assert result.dtype == source.dtype
    if not source.rgb:
        assert result.contrast_limits == source.contrast_limits
        assert result.colormap.name == source.colormap.name
    if kind == "stack":
        assert result.data_to_world((0, 5, 6)) == source.data_to_world((2, 5, 6))
    else:
        np.testing.assert_allclose(result.data_to_world((5, 6)), source.data_to_world((5, 6)))
    if kind == "rgba":
        assert "alpha" in widget.status.line.text()


def test_a_lazy_stack_is_coded(viewer: Any, open_widget: Any) -> None:
    da = pytest.importorskip("dask.array")
    viewer.add_image(da.from_array(np.stack([small_photo()[..., 0]] * 2), chunks=(1, 32, 32)), name="lazy")
    widget = open_widget("Encode")
    widget.slider.box.setValue(0.7)
    until(lambda: whole(widget))
    assert viewer.layers["lazy reconstruction"].data.shape == (1, 64, 96)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (np.full((32, 32), np.nan, np.float32), "nan_to_num"),
        (np.zeros((32, 32), bool), "mask"),
        (np.zeros((0, 8, 8), np.uint8), "empty"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # napari's own
def test_what_cannot_be_coded_is_told(
    viewer: Any, open_widget: Any, told: _Told, data: np.ndarray, says: str
) -> None:
    viewer.add_image(data, contrast_limits=(0, 1))
    widget = open_widget("Encode")
    widget.encode_button.click()
    until(lambda: told.text())
    idle(widget)
    assert says in told.text()
    assert says in widget.status.line.text()


def test_a_volume_on_screen_is_told(viewer: Any, open_widget: Any, told: _Told) -> None:
    viewer.add_image(np.zeros((4, 16, 16), np.uint8))
    widget = open_widget("Encode")
    viewer.dims.ndisplay = 3
    widget.encode_button.click()
    assert "2D" in told.text()


def test_the_device_is_remembered(viewer: Any, open_widget: Any, fresh_preferences: dict[str, Any]) -> None:
    open_widget("Encode").device_box.setCurrentIndex(1)
    assert fresh_preferences["device"] == "cpu"
    assert open_widget("Encode").device_box.currentData() == "cpu"


def test_a_device_that_is_not_there_is_told(viewer: Any, open_widget: Any, told: _Told) -> None:
    viewer.add_image(small_photo(), rgb=True)
    widget = open_widget("Encode")
    widget.device_box.setCurrentIndex(2)
    widget.encode_button.click()
    until(told.text)
    assert "cuda" in told.text()


def test_the_error_can_be_signed_and_plots_follow_the_theme(viewer: Any, open_widget: Any) -> None:
    viewer.add_image(small_photo(), rgb=True, name="photo")
    widget = open_widget("Encode")
    widget.slider.box.setValue(0.5)
    until(lambda: whole(widget))
    layer = viewer.layers["photo error"]
    widget.error_box.setCurrentIndex(1)
    assert layer.data.min() < 0
    dark = widget.curve_plot.figure.get_facecolor()
    viewer.theme = "light"
    assert widget.curve_plot.figure.get_facecolor() != dark


def test_another_picture_starts_afresh(viewer: Any, open_widget: Any) -> None:
    viewer.add_image(small_photo(), rgb=True, name="a")
    other = viewer.add_image(small_photo()[::-1], rgb=True, name="b")
    widget = open_widget("Encode")
    widget.slider.box.setValue(0.5)
    until(lambda: whole(widget))
    widget.layer_box.choose(other if widget.layer_box.layer is not other else viewer.layers["a"])
    assert widget._shown is None
    assert not widget.save_button.isEnabled()
    assert widget.facts.text("PSNR") == "–"
    assert widget.curve_plot.curves == {}


def test_a_closed_dock_works_and_follows_no_more(
    viewer: Any, open_widget: Any, slow_session: list[float]
) -> None:
    viewer.add_image(small_photo(), rgb=True)
    widget = open_widget("Encode")
    widget.encode_button.click()
    until(lambda: slow_session)
    viewer.window.remove_dock_widget(widget)
    until(lambda: not widget._runner.busy, 5)
    viewer.layers.clear()
    viewer.theme = "light"
    assert widget.layer_box.count() == 1
    again = open_widget("Encode")
    assert again is not widget
    assert again.layer_box.count() == 0


# ---- decode ----------------------------------------------------------------------------------


@pytest.fixture
def thumbnail_file(tmp_path: Path) -> Path:
    path = tmp_path / "photo.ht.jpg"
    encode(small_photo(), level=0.0, scale=2, device="cpu").save(path)
    return path


def test_a_thumbnail_layer_is_described_and_decoded(
    viewer: Any, open_widget: Any, thumbnail_file: Path
) -> None:
    viewer.open(thumbnail_file, plugin="napari")  # as any JPEG
    layer = viewer.layers[0]
    widget = open_widget("Decode")
    until(lambda: widget._described is not None)
    assert "96 × 64" in widget.facts.text("Image")
    assert widget.facts.text("Weights").startswith("tiny-x2")
    assert not widget.form.isRowVisible(widget.scale_box)
    widget.decode_button.click()
    until(lambda: len(viewer.layers) == 2)
    result = viewer.layers[1]
    assert result.data.shape == (64, 96, 3)
    np.testing.assert_allclose(result.data_to_world((-0.5, -0.5)), layer.data_to_world((-0.5, -0.5)))
    np.testing.assert_allclose(result.data_to_world((63.5, 95.5)), layer.data_to_world((31.5, 47.5)))
    assert not layer.visible
    widget.decode_button.click()
    idle(widget)
    assert len(viewer.layers) == 2  # used again


@pytest.mark.parametrize("ends", ["done", "cancelled", "failed"])
def test_a_large_image_sharpens_part_by_part(
    viewer: Any,
    open_widget: Any,
    thumbnail_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    ends: str,
) -> None:
    monkeypatch.setattr(decode_widget, "PREVIEWED", 64 * 96)
    whole = decode(thumbnail_file)
    go_on = threading.Event()

    def in_parts(data: bytes, *, show: Any, progress: Any, **_: Any) -> Any:
        show(slice(0, 32), slice(0, 96), whole[:32])
        while not go_on.wait(0.06):
            progress(0.5)
        if ends == "failed":
            raise ThumbnailError("the data: damaged")
        return whole

    monkeypatch.setattr(decode_widget, "decoded", in_parts)
    viewer.open(thumbnail_file, plugin="napari")
    small = viewer.layers[0]
    widget = open_widget("Decode")
    until(lambda: widget._described is not None)
    widget.decode_button.click()
    until(lambda: len(viewer.layers) == 2)
    preview = viewer.layers[1]
    np.testing.assert_array_equal(preview.data[:32], whole[:32])
    np.testing.assert_array_equal(preview.data[32:], small.data[16:].repeat(2, 0).repeat(2, 1))
    np.testing.assert_allclose(preview.data_to_world((63.5, 95.5)), small.data_to_world((31.5, 47.5)))
    if ends == "cancelled":
        widget.status.cancel_button.click()
    go_on.set()
    idle(widget)
    if ends == "done":
        assert viewer.layers[1] is preview
        np.testing.assert_array_equal(preview.data, whole)
        widget._layer_changed()
    assert names(viewer) == ["photo.ht", "photo reconstruction"][: 1 + (ends == "done")]
    assert small.visible == (ends != "done")


def test_only_the_part_on_screen_is_decoded(viewer: Any, open_widget: Any, thumbnail_file: Path) -> None:
    viewer.open(thumbnail_file, plugin="napari-hyperthumb")
    small, large = viewer.layers
    complete = large.data.copy()
    viewer.layers.remove(large)
    small.visible = True
    widget = open_widget("Decode")
    until(lambda: widget._described is not None)
    small.corner_pixels = np.array([[4, 8], [19, 31]])
    widget.part_box.setCurrentIndex(1)
    widget.decode_button.click()
    until(lambda: len(viewer.layers) == 2)
    part = viewer.layers[1]
    np.testing.assert_array_equal(part.data, complete[8:40, 16:64])
    np.testing.assert_allclose(part.data_to_world((0, 0)), (8, 16))


def test_a_file_is_opened_from_the_widget(
    viewer: Any, open_widget: Any, thumbnail_file: Path, told: _Told
) -> None:
    widget = open_widget("Decode")
    assert not widget.decode_button.isEnabled()
    widget.open(str(thumbnail_file))
    until(lambda: widget._described is not None)
    assert names(viewer) == ["photo thumbnail"]
    widget.open(str(thumbnail_file.with_name("missing.ht.jpg")))
    until(told.text)
    assert "can't be read" in told.text()


@pytest.mark.filterwarnings("ignore::napari_hyperthumb.errors.HyperThumbWarning")
def test_a_stripped_file_asks_for_its_scale(viewer: Any, open_widget: Any, thumbnail_file: Path) -> None:
    stripped = thumbnail_file.with_name("stripped.jpg")
    with Pillow.open(thumbnail_file) as image:
        image.info.pop("comment")
        image.save(stripped, quality="keep")
    viewer.open(stripped, plugin="napari")
    widget = open_widget("Decode")
    until(lambda: widget._described is not None)
    assert widget.form.isRowVisible(widget.scale_box)
    assert "no metadata" in widget.facts.text("Changes")
    widget.scale_box.setCurrentIndex(0)
    widget.decode_button.click()
    until(lambda: len(viewer.layers) == 2)
    assert viewer.layers[1].data.shape == (64, 96, 3)


@pytest.mark.filterwarnings("ignore::napari_hyperthumb.errors.HyperThumbWarning")
def test_other_weights_need_a_tick(
    viewer: Any, open_widget: Any, tmp_path: Path, other_model: Model, told: _Told
) -> None:
    path = tmp_path / "other.ht.jpg"
    encode(small_photo(), level=0.0, model=other_model, device="cpu").save(path)
    with pytest.raises(ModelError):
        viewer.open(path, plugin="napari-hyperthumb")
    widget = open_widget("Decode")
    widget.open(str(path))
    until(lambda: widget._described is not None)
    widget.decode_button.click()
    until(told.text)
    assert "tick the box" in told.text()
    widget.any_box.setChecked(True)
    widget.decode_button.click()
    until(lambda: len(viewer.layers) == 2)


def test_weights_of_ones_own_are_chosen_kept_and_found_again(
    viewer: Any,
    open_widget: Any,
    other_weights: Path,
    tmp_path: Path,
    told: _Told,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    viewer.add_image(small_photo(), rgb=True, name="photo")
    encoder = open_widget("Encode")
    answers = iter(["", str(other_weights)])
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (next(answers), ""))
    box = encoder.weights_box
    box.activated.emit(box.count() - 1)  # and the dialog is left without a choice
    assert box.currentText() == "bundled"
    box.activated.emit(box.count() - 1)
    assert box.currentText() == other_weights.name
    assert not encoder.scale_box.isEnabled()
    encoder.slider.box.setValue(0.7)
    until(lambda: whole(encoder))
    thumbnail = encoder._shown.step.thumbnail
    assert thumbnail.model.startswith("other-x2")
    path = tmp_path / "own.ht.jpg"
    encoder.save(str(path))
    back = encoder._shown.step.image

    viewer.layers.clear()
    viewer.open(path, plugin="napari-hyperthumb")  # the reader knows them
    np.testing.assert_array_equal(viewer.layers["own reconstruction"].data, back)
    viewer.layers.remove("own reconstruction")
    decoder = open_widget("Decode")
    until(lambda: decoder._described is not None)
    decoder.decode_button.click()
    until(lambda: "own reconstruction" in names(viewer))
    np.testing.assert_array_equal(viewer.layers["own reconstruction"].data, back)
    assert told.text() == ""

    box.activated.emit(0)
    assert encoder.scale_box.isEnabled()
    viewer.layers.remove("own reconstruction")
    decoder.decode_button.click()  # nobody has them any more
    until(told.text)
    assert "choose their file" in told.text()
    decoder.weights_box.choose(str(other_weights))
    decoder.decode_button.click()
    until(lambda: "own reconstruction" in names(viewer))


def test_the_published_networks_follow_the_slider_and_come_back(
    viewer: Any, open_widget: Any, published_weights: Path, tmp_path: Path
) -> None:
    viewer.add_image(small_photo(), rgb=True, name="photo")
    encoder = open_widget("Encode")
    encoder.weights_box.choose(str(published_weights))
    box = encoder.slider.box
    steps = []
    for rate in (0.7, 99.0):
        box.setValue(rate)  # as far as the box goes
        until(lambda: whole(encoder) and encoder._shown.step not in steps)
        idle(encoder)
        steps.append(encoder._shown.step)
    small, large = (step.thumbnail for step in steps)
    assert small.model.startswith("small-paper") and small.scale == large.scale == 4
    assert small.nbytes < large.nbytes
    assert (small.tables > large.tables).any() and (small.tables >= large.tables).all()
    path = tmp_path / "published.ht.jpg"
    encoder.save(str(path))
    viewer.layers.clear()
    viewer.open(path, plugin="napari-hyperthumb")
    np.testing.assert_array_equal(viewer.layers["published reconstruction"].data, steps[1].image)

    viewer.layers.clear()
    viewer.add_image(small_photo(), rgb=True, name="photo")
    compare = open_widget("Compare")
    compare.rate_box.setValue(large.bpp)
    compare.compare_button.click()
    until(lambda: compare._comparison is not None)
    idle(compare)
    assert info(compare._comparison.thumbnail).model == "small-paper"


def test_weights_that_are_gone_are_told(
    viewer: Any, open_widget: Any, tmp_path: Path, told: _Told, fresh_preferences: dict[str, Any]
) -> None:
    fresh_preferences["weights"] = str(tmp_path / "gone.safetensors")
    viewer.add_image(small_photo(), rgb=True, name="photo")
    open_widget("Encode").encode_button.click()
    until(told.text)
    assert "gone.safetensors" in told.text()


@pytest.mark.parametrize(("dock", "work"), [("Decode", "decode.decoded"), ("Compare", "compare.compare_at")])
def test_a_layer_removed_while_a_worker_runs_leaves_nothing(
    viewer: Any,
    open_widget: Any,
    thumbnail_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    dock: str,
    work: str,
    told: _Told,
) -> None:
    started: list[float] = []

    def slow_work(*_: object, **options: Any) -> None:
        slow(options.get("report") or options["progress"], started)

    monkeypatch.setattr(f"napari_hyperthumb._widget.{work}", slow_work)
    viewer.open(thumbnail_file, plugin="napari")
    widget = open_widget(dock)
    idle(widget)
    (widget.decode_button if dock == "Decode" else widget.compare_button).click()
    until(lambda: started)
    viewer.layers.clear()
    until(lambda: not widget._runner.busy, 10)
    assert names(viewer) == []
    assert told.text() == ""
    assert "Open" in widget.status.line.text()


# ---- compare ---------------------------------------------------------------------------------


@pytest.fixture
def compared(viewer: Any, open_widget: Any) -> Any:
    viewer.add_image(small_photo(), rgb=True, name="photo")
    widget = open_widget("Compare")
    widget.rate_box.setValue(3)
    for name, box in widget.codec_boxes.items():
        box.setChecked(name in ("JPEG", "WebP"))
    widget.compare_button.click()
    until(lambda: widget._comparison is not None)
    until(lambda: widget._scores)
    return widget


def test_codecs_are_compared_at_equal_bytes(viewer: Any, compared: Any) -> None:
    assert names(viewer) == ["photo", "photo reconstruction", "photo JPEG", "photo WebP"]
    table = compared.table
    assert [table.item(row, 0).text() for row in range(3)][1:] == ["JPEG", "WebP"]
    for row in range(3):
        nbytes = int(table.item(row, 1).text().split(" ")[0].replace(",", ""))
        assert nbytes <= compared._comparison.rows[0].nbytes or "larger" in table.item(row, 1).text()
        assert float(table.item(row, 4).text()) > 5
    compared.compare_button.click()
    idle(compared)
    assert len(viewer.layers) == 4  # used again


def test_metrics_follow_the_view(viewer: Any, compared: Any) -> None:
    before = compared.table.item(0, 4).text()
    compared._comparison.plane.layer.corner_pixels = np.array([[0, 0], [15, 15]])
    compared._measure()
    until(lambda: compared.table.item(0, 4).text() != before)


def test_the_grid_shows_all_and_one_shows_one(viewer: Any, compared: Any) -> None:
    viewer.window.show()
    pause(0.5)
    viewer.reset_view()
    pause(0.2)
    zoom = viewer.scene.camera.zoom
    compared.mode_buttons.button(1).click()
    assert viewer.canvas.grid.enabled
    assert all(layer.visible and layer.name_overlay.visible for layer in viewer.layers)
    pause(0.2)
    assert viewer.scene.camera.zoom < zoom
    compared.mode_buttons.button(0).click()
    assert viewer.scene.camera.zoom == pytest.approx(zoom)
    assert not viewer.canvas.grid.enabled
    assert [layer.visible for layer in viewer.layers] == [True, False, False, False]


def test_the_grid_fills_the_canvas() -> None:
    from napari_hyperthumb._widget.compare import grid_shape

    assert grid_shape(5, (900, 640), (400, 600)) == (3, 2)
    assert grid_shape(5, (600, 1800), (400, 400)) == (1, 5)
    assert grid_shape(4, (600, 600), (100, 100)) == (2, 2)


def test_blinking_changes_between_the_two(viewer: Any, compared: Any) -> None:
    compared.b_box.setCurrentIndex(2)
    for visible in ("photo JPEG", "photo"):
        compared.blink_button.click()
        assert [layer.name for layer in viewer.layers if layer.visible] == [visible]
    for visible in ("photo JPEG", "photo"):
        QTest.keyClick(viewer.window._qt_viewer.canvas.native, Qt.Key.Key_K)
        assert [layer.name for layer in viewer.layers if layer.visible] == [visible]


class Mouse:
    """A mouse on the canvas, at columns of an image's data."""

    def __init__(self, viewer: Any) -> None:
        self.canvas = viewer.window._qt_viewer.canvas.native
        self.camera = viewer.scene.camera

    def send(self, kind: QEvent.Type, column: float, *, pressed: bool) -> None:
        x = (column - self.camera.center[-1]) * self.camera.zoom + self.canvas.width() / 2
        at = QPointF(x, self.canvas.height() / 2)
        assert 0 < x < self.canvas.width()
        moving = kind == QEvent.Type.MouseMove
        left, none = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton
        event = QMouseEvent(
            kind,
            at,
            self.canvas.mapToGlobal(at),
            none if moving else left,
            left if pressed else none,
            Qt.KeyboardModifier.NoModifier,
        )
        QApplication.sendEvent(self.canvas, event)
        pause(0.05)  # napari takes one move in 5 ms

    def drag(self, columns: list[float]) -> None:
        """Go to the first column, press, pass the others, let go."""
        self.send(QEvent.Type.MouseMove, columns[0], pressed=False)
        self.send(QEvent.Type.MouseButtonPress, columns[0], pressed=True)
        for column in columns[1:]:
            self.send(QEvent.Type.MouseMove, column, pressed=True)
        self.send(QEvent.Type.MouseButtonRelease, columns[-1], pressed=False)


def test_the_swipe_is_dragged_across_the_canvas(viewer: Any, compared: Any) -> None:
    compared.mode_buttons.button(2).click()
    swipe = compared._swipe
    assert swipe.active
    assert names(viewer)[-2:] == ["photo reconstruction, right side", "swipe line"]
    assert viewer.layers[-2].name_overlay.visible
    assert viewer.layers["photo"].name_overlay.visible
    viewer.window.show()  # else the canvas knows no size
    pause(0.5)
    viewer.reset_view()
    mouse, centre, start = Mouse(viewer), viewer.scene.camera.center, swipe.column
    mouse.drag([start, start + 10, start + 20])
    assert swipe.column == pytest.approx(start + 20, abs=1)
    assert viewer.scene.camera.center == centre  # the canvas stayed where it was
    right = viewer.layers["photo reconstruction, right side"]
    assert right.data.shape[1] == 96 - swipe.column
    assert right.data_to_world((0, 0))[1] == swipe.column
    assert compared.swipe_slider.value() == round(1000 * swipe.column / 96)
    mouse.drag([10, 20, 30])  # not near the line: this pans
    assert swipe.column == pytest.approx(start + 20, abs=1)
    assert viewer.scene.camera.center != centre
    compared.swipe_slider.setValue(0)
    assert swipe.column == 0
    compared.swipe_slider.setValue(1000)
    assert swipe.column == 95
    compared.b_box.setCurrentIndex(3)
    assert swipe.active
    compared.blink()
    assert not viewer.layers["photo WebP, right side"].visible
    compared.mode_buttons.button(0).click()
    assert not swipe.active
    assert len(viewer.layers) == 4
    assert swipe._drag not in viewer.mouse_drag_callbacks
    assert viewer.scene.camera.mouse_pan


def test_an_error_map_of_any_pair(viewer: Any, compared: Any) -> None:
    compared.a_box.setCurrentIndex(2)
    compared.b_box.setCurrentIndex(3)
    compared.signed_box.setChecked(True)
    compared.error_button.click()
    layer = viewer.layers["photo difference"]
    assert layer.visible
    expected = viewer.layers["photo WebP"].data.astype(float) - viewer.layers["photo JPEG"].data
    np.testing.assert_allclose(layer.data, expected.mean(2), atol=1e-4)


def test_the_view_is_exported(viewer: Any, compared: Any, tmp_path: Path, told: _Told) -> None:
    compared.export(str(tmp_path / "figure"))
    idle(compared)
    with Pillow.open(tmp_path / "figure.png") as image:
        assert image.width > 500
    compared.export(str(tmp_path / "missing" / "figure.png"))
    until(told.text)
    assert "can't be written" in told.text()


@pytest.mark.parametrize("mode", [1, 2])
def test_removing_the_source_ends_the_comparison(viewer: Any, compared: Any, mode: int) -> None:
    compared.mode_buttons.button(mode).click()
    viewer.layers.remove("photo")
    assert compared._comparison is None
    assert not compared._swipe.active
    assert not viewer.canvas.grid.enabled
    assert compared.mode == "One"
    assert not compared.look.isEnabled()


def test_closing_the_dock_leaves_the_viewer_as_it_was(viewer: Any, compared: Any) -> None:
    compared.mode_buttons.button(2).click()
    viewer.window.remove_dock_widget(compared)
    assert names(viewer) == ["photo", "photo reconstruction", "photo JPEG", "photo WebP"]
    assert not viewer.keymap
    viewer.add_image(small_photo(), rgb=True, name="another")
    assert compared.layer_box.count() == 1  # it doesn't follow any more


def test_the_thumbnail_of_encode_is_compared(viewer: Any, open_widget: Any) -> None:
    viewer.add_image(small_photo(), rgb=True, name="photo")
    coding = open_widget("Encode")
    coding.slider.box.setValue(0.5)
    until(lambda: whole(coding))
    widget = open_widget("Compare")
    assert not widget.same_box.isHidden()
    widget.same_box.setChecked(True)
    widget.codec_boxes["AVIF"].setChecked(False)
    widget.compare_button.click()
    until(lambda: widget._comparison is not None)
    assert widget._comparison.thumbnail == coding._shown.step.thumbnail.data


# ---- reader, writer, samples -----------------------------------------------------------------


def test_layers_are_saved_from_napari(viewer: Any, tmp_path: Path) -> None:
    layer = viewer.add_image(
        small_photo()[..., 0].astype(np.uint16) * 100, contrast_limits=(0, 20000), name="a"
    )
    path = tmp_path / "a.ht.jpg"
    assert layer.save(str(path)) == [str(path)]
    viewer.open(path, plugin="napari-hyperthumb")
    back = viewer.layers["a reconstruction"]
    assert back.dtype == np.uint16
    assert back.contrast_limits == [0, 20000]
    again = tmp_path / "again.ht.jpg"
    viewer.layers["a thumbnail"].save(str(again))
    assert again.read_bytes() == path.read_bytes()


def drop(viewer: Any, path: Path) -> None:
    """Drop a file onto the canvas."""
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path))])
    event = QDropEvent(
        QPointF(5, 5),
        Qt.DropAction.CopyAction,
        data,
        Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier,
    )
    viewer.window._qt_viewer.dropEvent(event)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What napari asks which reader to take for; the answer is the one chosen beforehand."""
    from napari._qt.dialogs.qt_reader_dialog import QtReaderDialog

    paths: list[str] = []

    def answer(dialog: Any) -> tuple[str, bool]:
        paths.append(dialog._current_file)
        return dialog._get_plugin_choice(), False

    monkeypatch.setattr(QtReaderDialog, "get_user_choices", answer)
    return paths


def test_a_dropped_thumbnail_opens_and_is_asked_about_unless_told_otherwise(
    viewer: Any, open_widget: Any, thumbnail_file: Path, asked: list[str]
) -> None:
    from napari.settings import get_settings

    readers = get_settings().plugins.extension2reader
    for told in (False, True):
        widget = open_widget("Decode")
        assert widget.ours_box.isChecked() is False
        widget.ours_box.setChecked(told)
        asked.clear()
        drop(viewer, thumbnail_file)
        assert asked == ([] if told else [str(thumbnail_file)])
        assert names(viewer) == ["photo thumbnail", "photo reconstruction"]
        viewer.layers.clear()
        viewer.window.remove_dock_widget(widget)
    widget = open_widget("Decode")
    assert widget.ours_box.isChecked()
    widget.ours_box.setChecked(False)
    assert get_settings().plugins.extension2reader == readers  # and nothing else was changed


def test_an_ordinary_jpeg_is_dropped_as_ever(
    viewer: Any, open_widget: Any, tmp_path: Path, asked: list[str]
) -> None:
    open_widget("Decode").ours_box.setChecked(True)
    path = tmp_path / "photo.jpg"
    Pillow.fromarray(small_photo()).save(path)
    drop(viewer, path)
    assert asked == []
    assert names(viewer) == ["photo"]
    assert viewer.layers[0].source.reader_plugin == "napari"


def test_napari_answers_while_a_large_file_is_read_and_saved(
    viewer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_napari, "LARGE", 64 * 96)
    layer = viewer.add_image(small_photo(), rgb=True, name="photo")
    seen: list[float] = []
    ticks = QTimer()
    ticks.timeout.connect(lambda: seen.append(0))
    ticks.start(0)
    path = str(tmp_path / "photo.ht.jpg")
    layer.save(path, plugin="napari-hyperthumb")
    assert seen
    seen.clear()
    viewer.open(path, plugin="napari-hyperthumb")
    assert seen
    assert len(viewer.layers) == 3


def test_a_file_without_metadata_opens_as_its_thumbnail(viewer: Any, tmp_path: Path) -> None:
    path = tmp_path / "plain.ht.jpg"
    Pillow.fromarray(small_photo()).save(path)
    with pytest.warns(HyperThumbWarning, match="Decode"):
        viewer.open(path, plugin="napari-hyperthumb")
    assert names(viewer) == ["plain thumbnail"]


@pytest.mark.parametrize("key", ["photograph", "histology", "moon"])
def test_sample_data_open(viewer: Any, key: str) -> None:
    (layer,) = viewer.open_sample("napari-hyperthumb", key)
    assert min(layer.data.shape[:2]) >= 400


def entries(menu: Any, path: str = "") -> Iterator[str]:
    """What can be clicked in a menu, with the way there."""
    for action in menu.actions():
        here = f"{path}/{action.text().replace('&', '')}"
        if action.menu() is None:
            yield here
        else:
            yield from entries(action.menu(), here)


def test_the_menus_have_entries(viewer: Any) -> None:
    found = {e for e in entries(viewer.window._qt_window.menuBar()) if "HyperThumb" in e}
    assert found == {
        "/File/Open Sample/HyperThumb/Photograph (coffee)",
        "/File/Open Sample/HyperThumb/Histology (tissue section)",
        "/File/Open Sample/HyperThumb/Lunar surface",
        "/File/IO Utilities/Decode (HyperThumb)",
        "/Layers/Transform/Encode (HyperThumb)",
        "/Layers/Transform/Encode stack (HyperThumb)",
        "/Layers/Measure/Compare (HyperThumb)",
        "/Plugins/HyperThumb/Encode (HyperThumb)",
        "/Plugins/HyperThumb/Encode stack (HyperThumb)",
        "/Plugins/HyperThumb/Decode (HyperThumb)",
        "/Plugins/HyperThumb/Compare (HyperThumb)",
    }


def test_the_bundled_weights_are_replaced_here() -> None:
    from napari_hyperthumb import session

    assert load_model(session.BUNDLED[2]).name == "tiny-x2"
