"""The notebook explorer without a browser: engine, latest-wins, panel."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import make_photo

import napari_hyperthumb
from napari_hyperthumb import ImageError, RateError, decode, encode, info, load_model
from napari_hyperthumb.checkpoint import Model

pytest.importorskip("anywidget", reason="the explorer needs the extra [notebook]")

from napari_hyperthumb._jupyter.engine import ERROR, THUMBNAIL, Engine, Update
from napari_hyperthumb._jupyter.latest import Latest, SupersededError
from napari_hyperthumb._jupyter.panel import Explorer, explore
from napari_hyperthumb._jupyter.pictures import bmp, error_map, overview, png, right_pixels, static_sheet
from napari_hyperthumb._jupyter.words import caption, cells, error_text

SECONDS = 60


@pytest.fixture(scope="module")
def engine(photo: np.ndarray, models: dict[int, Model]) -> Engine:
    return Engine(photo, device="cpu", models=models)


@pytest.fixture
def explorer(photo: np.ndarray, models: dict[int, Model]) -> Iterator[Explorer]:
    made = explore(photo, device="cpu", models=models)
    yield made
    assert made.wait(SECONDS)


def last(updates: Iterator[Update]) -> Update:
    *_, update = updates
    return update


# ---- the engine ------------------------------------------------------------------------------


def test_the_picture_comes_first_and_the_curves_last(engine: Engine) -> None:
    wanted = engine.first(bpp=0.5, scale=2)
    updates = list(engine.run(wanted))
    assert updates[0].ssim is None
    assert not updates[0].settled
    settled = next(update for update in updates if update.settled)
    assert settled.ssim is not None
    assert set(updates[-1].explored.rivals) == {codec.name for codec in engine.now.session.codecs()}
    assert len(list(engine.run(wanted))) == 3  # a look, the file, SSIM; curves are kept


def test_a_step_is_the_file_that_encode_makes_of_the_part(models: dict[int, Model]) -> None:
    image = make_photo(160, 224)
    engine = Engine(image, crop=64, device="cpu", models=models)
    assert not engine.whole
    assert engine.now.session.shape == (64, 64)
    (top, bottom), (left, right) = engine.now.region
    look, *later = engine.run(engine.first(bpp=1.0, scale=4))
    assert not look.step.whole, "a quick look, without moves"
    step = later[0].step
    part = image[top:bottom, left:right]
    again = encode(part, level=step.thumbnail.level, model=models[4], device="cpu")
    assert step.thumbnail.data == again.data


def test_parts_are_whole_blocks_inside_of_the_image(models: dict[int, Model]) -> None:
    engine = Engine(make_photo(160, 224), crop=64, device="cpu", models=models)
    assert engine.region_at(0, 0) == ((0, 64), (0, 64))
    for row, column in ((80, 112), (999, -5), (31, 33)):
        for (start, stop), side in zip(engine.region_at(row, column), engine.shape, strict=True):
            assert start % 32 == 0
            assert stop - start == 64
            assert 0 <= start < stop <= side


def test_an_image_hardly_larger_than_a_crop_is_taken_whole(models: dict[int, Model]) -> None:
    engine = Engine(make_photo(70, 76), crop=64, device="cpu", models=models)
    assert engine.whole
    assert engine.region_at(0, 70) == ((0, 70), (0, 76))


def test_a_part_keeps_the_value_range_of_the_image(models: dict[int, Model]) -> None:
    image = np.linspace(0, 60_000, 160 * 160).reshape(160, 160).astype(np.uint16)
    engine = Engine(image, crop=64, device="cpu", models=models)
    assert engine.now.session.format.range == (0.0, 60_000.0)
    step = next(engine.run(engine.first(bpp=1.0))).step
    assert step.image.dtype == np.uint16
    assert step.peak == 60_000


def test_the_rate_to_begin_with_is_within_reach(engine: Engine) -> None:
    low, high = engine.now.range(None)
    assert engine.first(bpp=1e-6).bpp == low
    assert engine.first(bpp=1e6).bpp == high


def test_a_codec_on_the_right_has_no_more_bytes(engine: Engine) -> None:
    from dataclasses import replace

    wanted = replace(engine.first(bpp=9.0, scale=2), right="JPEG")
    update = last(engine.run(wanted))
    assert update.rival is not None
    assert update.right is not None
    assert update.rival.nbytes <= update.step.thumbnail.nbytes or update.rival.exceeds
    assert "JPEG" in caption(update)
    assert any(cell.name == "JPEG" for cell in cells(update))
    np.testing.assert_array_equal(right_pixels(update), update.rival.image)


def test_best_effort_has_no_more_bytes_and_no_larger_error(engine: Engine) -> None:
    from dataclasses import replace

    wanted = replace(engine.first(bpp=0.8, scale=4), effort="best")
    updates = list(engine.run(wanted))
    fast, best = updates[1].step, updates[-1].step
    assert best.thumbnail.nbytes <= fast.thumbnail.nbytes
    assert best.psnr >= fast.psnr - 0.01
    assert updates[0].busy


def test_the_whole_image_is_coded_at_the_level_on_screen(models: dict[int, Model]) -> None:
    image = make_photo(160, 224)
    engine = Engine(image, crop=64, device="cpu", models=models)
    update = next(engine.run(engine.first(bpp=0.7, scale=2)))
    thumbnail = engine.encode_whole(update)
    assert info(thumbnail.data).shape == (160, 224)
    assert thumbnail.level == pytest.approx(update.step.thumbnail.level)


def test_crops_smaller_than_a_block_are_refused(photo: np.ndarray) -> None:
    with pytest.raises(RateError, match="crop"):
        Engine(photo, crop=8)


# ---- the latest request wins -----------------------------------------------------------------


def test_only_the_newest_request_is_worked_on() -> None:
    begun, shown, go = [], [], threading.Event()

    def work(request: int) -> Iterator[int]:
        begun.append(request)
        go.wait(SECONDS)
        yield request
        yield -request

    latest: Latest[int, int] = Latest(work, shown.append, lambda error: None)
    latest.submit(1)
    while not begun:
        time.sleep(0.001)
    for request in range(2, 50):
        latest.submit(request)
    go.set()
    assert latest.wait(SECONDS)
    assert begun == [1, 49]
    assert shown == [1, 49, -49]  # the first is left after what it had finished


def test_long_work_is_left_from_within() -> None:
    shown: list[str] = []
    inside = threading.Event()

    def work(request: str) -> Iterator[str]:
        while request == "endless":
            inside.set()
            latest.check()
            time.sleep(0.001)
        yield request

    latest: Latest[str, str] = Latest(work, shown.append, lambda error: None)
    latest.submit("endless")
    inside.wait(SECONDS)
    latest.submit("short")
    assert latest.wait(SECONDS)
    assert shown == ["short"]


def test_a_pause_ends_when_something_newer_comes() -> None:
    latest: Latest[int, int] = Latest(lambda request: iter(()), lambda update: None, lambda error: None)
    latest.pause(0.01)
    latest._waiting = [1]
    with pytest.raises(SupersededError):
        latest.pause(SECONDS)


def test_what_goes_wrong_is_handed_over_and_work_goes_on() -> None:
    shown, failures = [], []

    def work(request: int) -> Iterator[float]:
        yield 1 / request

    latest: Latest[int, float] = Latest(work, shown.append, failures.append)
    latest.submit(0)
    assert latest.wait(SECONDS)
    latest.submit(2)
    assert latest.wait(SECONDS)
    assert [type(error) for error in failures] == [ZeroDivisionError]
    assert shown == [0.5]
    assert not [t for t in threading.enumerate() if t.name == "hyperthumb explorer"]


# ---- pictures --------------------------------------------------------------------------------


def test_pictures_travel_without_loss(photo: np.ndarray) -> None:
    for pixels in (photo, photo[:, :, 0]):
        for file in (png(pixels), bmp(pixels)):
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(file))), pixels)


def test_error_maps_are_black_where_nothing_is_wrong(engine: Engine, photo: np.ndarray) -> None:
    wrong = photo.copy()
    wrong[:8, :8] = 255 - wrong[:8, :8]
    colours = error_map(wrong, photo, engine.format)
    assert colours.shape == photo.shape
    assert colours[20:].max() <= 4
    assert colours[:8, :8].mean() > 60


@pytest.mark.parametrize("shape", [(2000, 30), (700, 900, 3)])
def test_overviews_are_small(shape: tuple[int, ...], engine: Engine) -> None:
    from dataclasses import replace

    fmt = replace(engine.format, gray=len(shape) == 2)
    small = overview(np.zeros(shape, np.uint8), fmt)
    assert max(small.shape[:2]) <= 240
    assert small.ndim == len(shape)


def test_the_static_sheet_is_a_small_jpeg(engine: Engine) -> None:
    sheet = static_sheet(last(engine.run(engine.first(bpp=0.5))))
    with Image.open(io.BytesIO(sheet)) as opened:
        assert opened.format == "JPEG"
    assert len(sheet) < 250_000


def test_errors_are_told_in_words() -> None:
    assert error_text(RateError("too small")) == "Too small"
    assert error_text(KeyError("x")) == "KeyError: 'x'"
    assert "smaller crop" in error_text(MemoryError())


# ---- the panel -------------------------------------------------------------------------------


def test_the_first_picture_is_there_at_once(explorer: Explorer, photo: np.ndarray) -> None:
    assert explorer.swipe.frame >= 1
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(explorer.swipe.left))), photo)
    assert [line["scale"] for line in explorer.curves.curves][:2] == [2, 4]
    assert explorer.curves.point == [explorer.step.thumbnail.bpp, explorer.step.psnr]
    assert np.shape(explorer.tables.tables) == (2, 8, 8)
    assert f"{explorer.step.thumbnail.nbytes:,} bytes" in explorer.numbers.value
    assert explorer.crop is None


def test_moving_the_slider_changes_picture_point_and_numbers(explorer: Explorer) -> None:
    explorer.bpp = 10**explorer.slider.max
    explorer.bpp = 10**explorer.slider.min
    assert explorer.wait(SECONDS)
    picture, point, numbers = explorer.swipe.right, explorer.curves.point, explorer.numbers.value
    explorer.bpp = 10**explorer.slider.max
    assert explorer.wait(SECONDS)
    assert explorer.swipe.right != picture
    assert explorer.curves.point[0] > point[0]
    assert explorer.numbers.value != numbers


def test_fifty_quick_steps_end_on_the_last_value_within_a_second(explorer: Explorer) -> None:
    low, high = 10**explorer.slider.min, 10**explorer.slider.max
    assert explorer.wait(SECONDS)
    for value in np.geomspace(low, high, 50):
        explorer.bpp = value
        time.sleep(0.002)
    end = time.monotonic() + 1
    while explorer.update.wanted.bpp != explorer.bpp:
        assert time.monotonic() < end
        time.sleep(0.001)
    assert explorer.bpp == pytest.approx(high, rel=0.02)


def test_every_right_side_is_drawn(explorer: Explorer) -> None:
    seen = set()
    for right in explorer._engine.rights:
        explorer.right = right
        assert explorer.wait(SECONDS)
        assert explorer.update.wanted.right == right
        seen.add((explorer.swipe.right, explorer.swipe.right_label))
        assert bool(explorer.swipe.legend) == (right == ERROR)
        assert explorer.swipe.true_size == (right == THUMBNAIL)
    assert len(seen) == len(explorer._engine.rights)


def test_a_click_on_a_curve_goes_there(explorer: Explorer) -> None:
    curve = explorer._engine.now.curves[4]
    bpp = curve.bpp_at(0.5)
    explorer._asked(None, {"go": {"bpp": bpp, "scale": 4}}, [])
    assert explorer.wait(SECONDS)
    assert explorer.step.thumbnail.scale == 4
    assert explorer.step.thumbnail.bpp == pytest.approx(bpp, rel=0.15)
    assert explorer.curves.point[0] == explorer.step.thumbnail.bpp


def test_the_slider_covers_what_the_scale_reaches(explorer: Explorer) -> None:
    for scale in (4, 2, None, 4):
        explorer.scale = scale
        low, high = explorer._engine.now.range(scale)
        assert 10**explorer.slider.min == pytest.approx(low)
        assert 10**explorer.slider.max == pytest.approx(high)
        assert explorer.wait(SECONDS)
        assert scale in (None, explorer.step.thumbnail.scale)


def test_errors_are_shown_and_the_panel_stays_alive(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert explorer.wait(SECONDS)
    with monkeypatch.context() as patch:

        def fail(*_: object, **__: object) -> None:
            raise RateError("the disk is <full>")

        patch.setattr(explorer._engine.now.session, "step", fail)
        explorer.bpp = 10**explorer.slider.max
        assert explorer.wait(SECONDS)
        assert "The disk is &lt;full&gt;" in explorer.note.value
        assert "error" in explorer.note.value
    explorer.bpp = 10**explorer.slider.min
    assert explorer.wait(SECONDS)
    assert "error" not in explorer.note.value


@pytest.mark.parametrize("message", [{"go": {"bpp": "x"}}, {"crop": {}}, {"go": {"bpp": 1, "scale": 3}}, {}])
def test_odd_messages_do_no_harm(explorer: Explorer, message: dict[str, object]) -> None:
    explorer._asked(None, message, [])
    assert ("error" in explorer.note.value) == bool(message)


def test_parts_of_a_large_image_are_explored(models: dict[int, Model]) -> None:
    explorer = explore(make_photo(160, 224), crop=64, device="cpu", models=models)
    assert explorer.crop is not None
    assert explorer.crop.shape == [160, 224]
    explorer._asked(None, {"crop": {"row": 0, "column": 0}}, [])
    assert explorer.wait(SECONDS)
    assert explorer.step.original.shape == (64, 64, 3)
    assert explorer.crop.region == [[0, 64], [0, 64]]
    assert explorer.update.explored.region == ((0, 64), (0, 64))


def test_files_are_saved(explorer: Explorer, tmp_path: Path, photo: np.ndarray) -> None:
    explorer.name_box.value = str(tmp_path / "mine")
    for what in ("thumbnail", "reconstruction", "sheet"):
        explorer.wait(SECONDS)
        explorer.save(what)
        assert str(tmp_path) in explorer.note.value
    assert (tmp_path / "mine.ht.jpg").read_bytes() == explorer.step.thumbnail.data
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mine.png")), explorer.step.image)
    assert (tmp_path / "mine.sheet.jpg").stat().st_size > 10_000


def test_a_file_that_cant_be_written_is_an_error_in_the_panel(explorer: Explorer, tmp_path: Path) -> None:
    explorer.wait(SECONDS)
    explorer.name_box.value = str(tmp_path / "missing" / "mine")
    explorer.save("thumbnail")
    assert "error" in explorer.note.value


def test_pictures_are_opened_by_path(tmp_path: Path, photo: np.ndarray, models: dict[int, Model]) -> None:
    Image.fromarray(photo[:64, :64]).save(tmp_path / "photo.png")
    explorer = explore(tmp_path / "photo.png", device="cpu", models=models, scale=4)
    assert explorer.scale == 4
    np.testing.assert_array_equal(explorer.step.original, photo[:64, :64])
    assert decode(explorer.step.thumbnail.data, model=models[4]).shape == (64, 64, 3)
    assert explorer.wait(SECONDS)


def test_gray_images_have_one_table(models: dict[int, Model]) -> None:
    explorer = explore(make_photo(64, 64)[:, :, 0], device="cpu", models=models)
    assert np.shape(explorer.tables.tables) == (1, 8, 8)
    assert explorer.wait(SECONDS)


def test_published_networks_are_explored(published_weights: Path) -> None:
    model = load_model(published_weights)
    explorer = explore(make_photo(64, 96), device="cpu", models={4: model}, bpp=0.0)
    steps = [explorer.step]
    explorer._asked(None, {"go": {"bpp": 99.0, "scale": 4}}, [])
    assert explorer.wait(SECONDS)
    steps.append(explorer.step)
    small, large = (step.thumbnail for step in steps)
    assert (small.scale, small.level, large.level) == (4, -1.0, 1.0)
    assert small.nbytes < large.nbytes and (small.tables > large.tables).any()
    assert decode(large.data, model=model).shape == (64, 96, 3)


def test_what_cant_be_explored_is_refused(photo: np.ndarray, models: dict[int, Model]) -> None:
    with pytest.raises(ImageError):
        explore(np.zeros((4, 5, 6, 7), np.uint8))
    with pytest.raises(RateError, match="scale"):
        explore(photo, device="cpu", models=models, scale=3)


def test_the_explorer_is_a_public_name() -> None:
    assert napari_hyperthumb.explore is explore


def test_a_missing_library_is_named_with_its_extra() -> None:
    code = (
        "import sys; sys.modules['anywidget'] = None; import napari_hyperthumb\n"
        "try: napari_hyperthumb.explore\n"
        "except napari_hyperthumb.DependencyError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'napari-hyperthumb[notebook]'" in done.stdout
