"""The plugin's logic without Qt: jobs, planes of layers, result layers, the encode controller."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")

from napari.components import ViewerModel
from napari_fixtures import Waiting, run_now, small_photo

from napari_hyperthumb import HyperThumbError, ImageError
from napari_hyperthumb._widget.comparison import ORIGINAL, compare_at, draw_figure
from napari_hyperthumb._widget.encode_controller import EncodeController, Result, Wanted
from napari_hyperthumb._widget.jobs import Runner
from napari_hyperthumb._widget.layers import KEY, show, show_error
from napari_hyperthumb._widget.sources import placement, plane_of, visible_region, with_axes
from napari_hyperthumb.texts import decibels, error_text, human_bytes, human_seconds

# ---- jobs ------------------------------------------------------------------------------------


def test_the_latest_request_wins() -> None:
    start, done = Waiting(), []
    runner = Runner(start)
    for number in range(4):
        runner.submit(lambda report, number=number: number, done.append, done.append)
    start.run()
    start.run()
    assert done == [0, 3]
    assert not start.jobs
    assert not runner.busy


def test_what_is_cancelled_is_dropped() -> None:
    start, done = Waiting(), []
    runner = Runner(start)
    runner.submit(lambda report: 1, done.append, done.append)
    runner.submit(lambda report: 2, done.append, done.append)
    runner.cancel()
    start.run()
    assert done == []
    assert not runner.busy
    runner.submit(lambda report: 3, done.append, done.append)
    start.run()
    assert done == [3]


def test_cancelling_ends_the_work_at_its_next_report() -> None:
    reached = []
    runner = Runner(run_now)

    def work(report: Any) -> None:
        report(0.1)
        runner.cancel()
        reached.append("cancelled")
        report(0.2)
        reached.append("never")

    runner.submit(work, reached.append, reached.append)
    assert reached == ["cancelled"]


def test_errors_are_handed_over_and_the_next_job_runs() -> None:
    start, done, failed = Waiting(), [], []
    runner = Runner(start)

    def work(report: Any) -> None:
        raise ImageError("no")

    runner.submit(work, done.append, failed.append)
    runner.submit(lambda report: "next", done.append, failed.append)
    start.run()
    start.run()
    assert isinstance(failed[0], ImageError)
    assert done == ["next"]


def test_a_closed_runner_takes_nothing() -> None:
    start, done = Waiting(), []
    runner = Runner(start)
    runner.submit(lambda report: 1, done.append, done.append)
    runner.close()
    runner.submit(lambda report: 2, done.append, done.append)
    start.run()
    assert done == []
    assert not start.jobs


def test_background_work_waits_for_the_runner_in_front() -> None:
    start = Waiting()
    front = Runner(start)
    back = Runner(
        lambda work, done, progress: threading.Thread(target=lambda: done(work(progress))).start(),
        behind=front,
    )
    finished = threading.Event()
    front.submit(lambda report: 1, lambda r: None, lambda e: None)
    back.submit(lambda report: report(0.5), lambda r: finished.set(), lambda e: None)
    assert not finished.wait(0.2)
    start.run()
    assert finished.wait(5)


def test_changes_of_being_busy_are_told() -> None:
    start, told = Waiting(), []
    runner = Runner(start, changed=told.append)
    runner.submit(lambda report: 1, lambda r: None, lambda e: None)
    runner.submit(lambda report: 2, lambda r: None, lambda e: None)
    start.run()
    start.run()
    assert told == [True, False]


# ---- planes ----------------------------------------------------------------------------------


def plane(viewer: ViewerModel, layer: Any, values: str = "contrast limits") -> Any:
    return plane_of(layer, viewer.dims.point, viewer.dims.displayed, values)


def test_colours_and_grays_are_planes() -> None:
    viewer = ViewerModel()
    rgb = viewer.add_image(small_photo(), rgb=True)
    gray = viewer.add_image(small_photo()[..., 0])
    assert plane(viewer, rgb).shape == (64, 96)
    assert plane(viewer, rgb).raw_bytes == 64 * 96 * 3
    assert plane(viewer, rgb).value_range is None
    assert plane(viewer, gray).index == ()


def test_a_stack_gives_the_plane_on_screen() -> None:
    viewer = ViewerModel()
    stack = np.arange(5 * 3 * 8 * 9, dtype=np.uint16).reshape(5, 3, 8, 9)
    layer = viewer.add_image(stack, scale=(2, 1, 0.5, 0.5), translate=(10, 0, 0, 0))
    viewer.dims.set_current_step((0, 1), (3, 2))
    found = plane(viewer, layer)
    assert found.index == (3, 2)
    np.testing.assert_array_equal(found.array(), stack[3, 2])
    viewer.dims.order = (2, 3, 0, 1)
    with pytest.raises(ImageError, match="last two axes"):
        plane(viewer, layer)


def test_a_volume_on_screen_is_refused() -> None:
    viewer = ViewerModel(ndisplay=3)
    layer = viewer.add_image(np.zeros((4, 8, 9), np.uint8))
    with pytest.raises(ImageError, match="2D"):
        plane(viewer, layer)


def test_a_layer_with_fewer_axes_than_the_viewer() -> None:
    viewer = ViewerModel()
    viewer.add_image(np.zeros((4, 8, 9), np.uint8))
    layer = viewer.add_image(small_photo()[..., 0])
    assert plane(viewer, layer).index == ()


def test_multiscale_and_lazy_layers_give_full_resolution() -> None:
    da = pytest.importorskip("dask.array")
    viewer = ViewerModel()
    image = small_photo()[..., 0]
    pyramid = viewer.add_image([image, image[::2, ::2]], multiscale=True)
    lazy = viewer.add_image(da.from_array(np.stack([image, image // 2]), chunks=(1, 32, 32)))
    np.testing.assert_array_equal(plane(viewer, pyramid).array(), image)
    viewer.dims.set_current_step(0, 1)
    np.testing.assert_array_equal(plane(viewer, lazy).array(), image // 2)


def test_the_value_range_is_that_of_the_contrast_limits() -> None:
    viewer = ViewerModel()
    layer = viewer.add_image(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64), contrast_limits=(100, 900))
    assert plane(viewer, layer).value_range == (100, 900)
    assert plane(viewer, layer, "data range").value_range is None
    colours = viewer.add_image(np.zeros((8, 8, 3), np.float32), rgb=True)
    assert plane(viewer, colours).value_range == (0, 1)
    wide = viewer.add_image(np.zeros((8, 8, 3), np.uint16), rgb=True)
    assert plane(viewer, wide).value_range == (0, 65535)


def test_alpha_is_noticed() -> None:
    viewer = ViewerModel()
    layer = viewer.add_image(np.zeros((8, 8, 4), np.uint8), rgb=True)
    assert plane(viewer, layer).has_alpha


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # napari's own
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")  # the same, with numpy 1
def test_an_empty_layer_is_refused() -> None:
    viewer = ViewerModel()
    layer = viewer.add_image(np.zeros((0, 8, 8), np.uint8), contrast_limits=(0, 255))
    with pytest.raises(ImageError, match="empty"):
        plane(viewer, layer)


def test_before_the_first_drawing_everything_is_visible() -> None:
    layer = ViewerModel().add_image(small_photo(), rgb=True)
    assert visible_region(layer, (64, 96)) == ((0, 64), (0, 96))
    layer.corner_pixels = np.array([[10, 20], [30, 50]])
    assert visible_region(layer, (64, 96)) == ((10, 31), (20, 51))


# ---- result layers ---------------------------------------------------------------------------


def corners(layer: Any, shape: tuple[int, int]) -> np.ndarray:
    """World coordinates of the outer corners of a plane of a layer."""
    zeros = (0.0,) * (layer.ndim - 2)
    edge = [(*zeros, r, c) for r in (-0.5, shape[0] - 0.5) for c in (-0.5, shape[1] - 0.5)]
    return np.array([layer.data_to_world(at) for at in edge])


@pytest.mark.parametrize("scale", [2, 4, 0.5])
def test_results_lie_exactly_over_a_scaled_rotated_sheared_source(scale: float) -> None:
    viewer = ViewerModel()
    source = viewer.add_image(
        np.zeros((3, 32, 48), np.uint8),
        scale=(2, 0.25, 0.5),
        translate=(5, -3, 7),
        rotate=(0, 0, 30),
        shear=(0, 0, 0.2),
        affine=np.diag([1, 2, 3, 1]),
        units=("um", "um", "um"),
    )
    small = np.zeros((round(32 / scale), round(48 / scale)), np.uint8)
    layer = show(viewer, source, "small", small, index=(2,), scale=scale)
    assert layer.units == source.units
    at_plane = np.array(source.data_to_world((2, 0, 0))) - source.data_to_world((0, 0, 0))
    np.testing.assert_allclose(corners(layer, small.shape), corners(source, (32, 48)) + at_plane, atol=1e-9)


def test_a_part_lies_where_it_was_cut_out() -> None:
    viewer = ViewerModel()
    source = viewer.add_image(small_photo(), rgb=True, scale=(0.5, 0.5))
    layer = show(viewer, source, "part", small_photo()[16:, 32:], rgb=True, offset=(16, 32))
    np.testing.assert_allclose(layer.data_to_world((0, 0)), source.data_to_world((16, 32)))


def test_layers_are_used_again() -> None:
    viewer = ViewerModel()
    source = viewer.add_image(small_photo(), rgb=True, name="a")
    first = show(viewer, source, "a result", small_photo(), rgb=True, metadata={"source": "a"})
    first.opacity = 0.3
    again = show(viewer, source, "a result", small_photo()[:32], rgb=True, offset=(32, 0))
    assert again is first
    assert again.opacity == 0.3
    assert len(viewer.layers) == 2
    assert again.data.shape == (32, 96, 3)


def test_results_come_above_their_source_in_order() -> None:
    viewer = ViewerModel()
    source = viewer.add_image(small_photo(), rgb=True, name="a")
    viewer.add_image(small_photo(), rgb=True, name="other")
    for name in ("a thumbnail", "a reconstruction"):
        show(viewer, source, name, small_photo(), rgb=True, metadata={"source": "a"})
    assert [x.name for x in viewer.layers] == ["a", "a thumbnail", "a reconstruction", "other"]


def test_the_error_layer_has_fixed_limits_and_a_colour_bar() -> None:
    viewer = ViewerModel()
    source = viewer.add_image(small_photo(), rgb=True)
    error = np.zeros((64, 96), np.float32)
    layer = show_error(viewer, source, "error", error, 255, signed=False)
    assert layer.contrast_limits == [0, 255 / 16]
    assert layer.colormap.name == "inferno"
    assert layer.colorbar.visible
    again = show_error(viewer, source, "error", error, 255, signed=True)
    assert again is layer
    assert layer.contrast_limits == [-255 / 16, 255 / 16]
    assert layer.colormap.name == "signed error"
    layer.contrast_limits = (-1, 1)
    show_error(viewer, source, "error", error, 255, signed=True)
    assert layer.contrast_limits == [-1, 1]  # the user's


def test_placement_needs_no_axes_for_a_flat_image() -> None:
    layer = ViewerModel().add_image(np.zeros((8, 8), np.uint8))
    np.testing.assert_allclose(placement(layer, (), 4, (0, 0))["translate"], (1.5, 1.5))
    assert with_axes(np.zeros((2, 3)), (1, 2)).shape == (1, 1, 2, 3)


# ---- the encode controller -------------------------------------------------------------------


class RecordingView:
    """A view that writes down what it is told."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.errors: list[Exception] = []
        self.ranges: list[tuple[float, float]] = []
        self.rivals: list[str] = []
        self.curves = 0

    def show_range(self, low: float, high: float) -> None:
        self.ranges.append((low, high))

    def show_curves(self, curves: Any, sampled: bool) -> None:
        self.curves += 1

    def show_rival(self, name: str, points: Any) -> None:
        self.rivals.append(name)

    def show_result(self, result: Result) -> None:
        self.results.append(result)

    def show_busy(self, text: str | None) -> None:
        pass

    def show_progress(self, fraction: float) -> None:
        pass

    def show_error(self, error: Exception) -> None:
        self.errors.append(error)


def wanted(image: np.ndarray, scale: int | None = None, **options: Any) -> Wanted:
    viewer = ViewerModel()
    layer = viewer.add_image(image, **options)
    found = plane(viewer, layer)
    return Wanted(found, ((0, 32), (0, 64)), scale, "cpu")


def controller(view: RecordingView, **starts: Any) -> EncodeController:
    return EncodeController(view, Runner(starts.get("start", run_now)), Runner(starts.get("back", run_now)))


@pytest.mark.usefixtures("tiny_weights")
def test_a_preview_codes_the_part_in_view_and_settling_the_whole() -> None:
    view = RecordingView()
    control = controller(view)
    what = wanted(small_photo(), rgb=True)
    control.preview(what, 1.0)
    assert not view.results[-1].step.whole
    assert view.results[-1].step.region == ((0, 32), (0, 64))
    control.settle(what, 1.0)
    assert view.results[-1].step.whole
    assert view.curves == 1  # measured once
    assert view.rivals[:1] == ["JPEG"]
    assert len(view.ranges) == 1
    point = control.point_at(None, 1.0)
    assert point is not None
    assert control.range_for(2) is not None


@pytest.mark.usefixtures("tiny_weights")
@pytest.mark.parametrize(("kind", "value"), [("bpp", 3.0), ("nbytes", 2000), ("psnr", 12)])
def test_targets_are_met(kind: str, value: float) -> None:
    view = RecordingView()
    controller(view).encode(wanted(small_photo(), rgb=True), kind, value)
    assert not view.errors
    step = view.results[-1].step
    assert {
        "bpp": step.thumbnail.bpp <= 3,
        "nbytes": step.thumbnail.nbytes <= 2000,
        "psnr": step.psnr >= 12,
    }[kind]


@pytest.mark.usefixtures("tiny_weights")
def test_the_best_effort_is_handed_on() -> None:
    view = RecordingView()
    what = wanted(small_photo()[:32, :32], 2, rgb=True)
    controller(view).encode(Wanted(what.plane, what.region, 2, "cpu", "best"), "nbytes", 1500)
    assert not view.errors
    assert view.results[-1].step.thumbnail.nbytes <= 1500


@pytest.mark.usefixtures("tiny_weights")
def test_a_picture_that_cannot_be_coded_is_reported_once_while_the_slider_moves() -> None:
    view = RecordingView()
    control = controller(view)
    what = wanted(np.full((16, 16), np.nan, np.float32), contrast_limits=(0, 1))
    for _ in range(5):
        control.preview(what, 0.5)
    assert len(view.errors) == 1
    assert "NaN" in str(view.errors[0])
    control.encode(what, "bpp", 0.5)
    assert len(view.errors) == 2


@pytest.mark.usefixtures("tiny_weights")
def test_an_unreachable_target_says_what_can_be_reached() -> None:
    view = RecordingView()
    controller(view).encode(wanted(small_photo(), rgb=True), "nbytes", 20)
    assert "smallest file" in str(view.errors[0])


@pytest.mark.usefixtures("tiny_weights")
def test_a_preview_interrupts_a_whole_encoding() -> None:
    view, start = RecordingView(), Waiting()
    control = controller(view, start=start)
    what = wanted(small_photo(), rgb=True)
    control.settle(what, 1.0)
    control.preview(what, 1.1)
    start.run()
    assert view.results == []
    start.run()
    assert len(view.results) == 1
    assert not view.results[0].step.whole


@pytest.mark.usefixtures("tiny_weights")
def test_nothing_comes_of_a_forgotten_picture() -> None:
    view, start = RecordingView(), Waiting()
    control = controller(view, start=start)
    control.preview(wanted(small_photo(), rgb=True), 1.0)
    control.forget()
    start.run()
    assert view.results == []
    assert control.range_for(None) is None


# ---- comparing -------------------------------------------------------------------------------


@pytest.mark.usefixtures("tiny_weights")
def test_a_comparison_scores_parts_and_is_drawn(tmp_path: Any) -> None:
    what = wanted(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64), contrast_limits=(0, 4095))
    found = compare_at(
        what.plane, data=None, bpp=2.0, names=["JPEG", "WebP"], device="cpu", report=lambda fraction: None
    )
    assert next(iter(found.images)) == ORIGINAL
    assert len(found.rows) == 3
    assert all(image.dtype == np.uint16 for image in found.images.values())
    region = ((0, 32), (16, 64))
    scores = found.score(region, lambda fraction: None)
    assert set(scores) == set(found.images) - {ORIGINAL}
    assert all(score.ssim is not None for score in scores.values())
    name = found.rows[0].name
    assert found.difference(ORIGINAL, name, signed=False).shape == (64, 64)
    colours = np.ones((256, 4))
    for path in (tmp_path / "a.png", tmp_path / "a.svg"):
        draw_figure(found, region, list(found.images), scores, str(path), (0, 4095), colours)
        assert path.stat().st_size > 1000


# ---- words -----------------------------------------------------------------------------------


def test_numbers_are_written_for_people() -> None:
    assert human_bytes(999) == "999 bytes"
    assert human_bytes(12_340) == "12.3 kB"
    assert human_bytes(123_400) == "123 kB"
    assert human_bytes(12_340_000) == "12.3 MB"
    assert human_seconds(0.1234) == "123 ms"
    assert human_seconds(12.34) == "12.3 s"
    assert decibels(30.123) == "30.12 dB"
    assert decibels(float("inf")) == "exact"


def test_errors_say_what_to_do() -> None:
    assert error_text(HyperThumbError("choose a layer")) == "Choose a layer"
    assert "crop it" in error_text(MemoryError())
    assert error_text(KeyError("x")) == "KeyError: 'x'"


def test_metadata_key_is_one() -> None:
    from napari_hyperthumb import _napari

    assert _napari.KEY == KEY
