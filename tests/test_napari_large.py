"""Stacks and pyramids in napari: lazy layers, one for each channel, and the stack widget."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

pytest.importorskip("napari")
pytest.importorskip("zarr")

from napari.components import ViewerModel
from napari.layers import Image
from napari_fixtures import needs_screen, until
from npe2 import PluginManager
from samples import make_photo

from napari_hyperthumb import (
    Channel,
    ImageError,
    Percentile,
    ThumbnailError,
    _napari_large,
    encode_stack,
    open_stack,
)
from napari_hyperthumb._napari_stack import VALUES, axes_of, wanted_of, write_stack
from napari_hyperthumb.codec import WEIGHTS
from napari_hyperthumb.pyramid import make_pyramid

PHOTO = make_photo(130, 150)
CELLS = np.stack([[PHOTO[:40, :56, c].astype(np.uint16) * (c + 2) + z for z in range(3)] for c in range(2)])
NAMED = (Channel("DAPI", (0, 0, 255)), Channel("GFP", (0, 255, 0)))


@pytest.fixture(autouse=True)
def findable(model_paths: dict[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEIGHTS, os.pathsep.join(map(str, model_paths.values())))


def test_readers_take_their_own_files_only(tmp_path: Path) -> None:
    assert _napari_large.get_stack_reader("a.tif") is None
    assert _napari_large.get_stack_reader(["a.ht.tif", "b.ht.tif"]) is None
    assert _napari_large.get_stack_reader("A.HT.TIF") is not None
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "zarr.json").write_text('{"attributes": {"ome": {}}}')
    assert _napari_large.get_pyramid_reader(str(tmp_path / "a.zarr")) is None
    (tmp_path / "a.zarr" / "zarr.json").write_text('{"attributes": {"hyperthumb": {}}}')
    with pytest.raises(ThumbnailError, match="isn't finished"):
        _napari_large.read_pyramid(str(tmp_path / "a.zarr"))
    (tmp_path / "a.zarr" / "zarr.json").write_text('{"attributes": {"hyperthumb": {}, "ome": {}}}')
    with pytest.raises(ThumbnailError, match="damaged"):
        _napari_large.read_pyramid(str(tmp_path / "a.zarr"))


def test_a_stack_opens_as_a_lazy_layer_for_each_channel(models, tmp_path, monkeypatch) -> None:
    stack = encode_stack(CELLS, "CZYX", channels=NAMED, model=models[2])
    stack.save(tmp_path / "cells.ht.tif")
    decoded = []
    real = type(stack).plane
    monkeypatch.setattr(type(stack), "plane", lambda self, index: decoded.append(index) or real(self, index))
    layers = _napari_large.read_stack(str(tmp_path / "cells.ht.tif"))
    assert [options["name"] for _, options, _ in layers] == ["DAPI", "GFP"]
    assert np.allclose(layers[0][1]["colormap"].colors[-1][:3], [0, 0, 1])
    assert [options["contrast_limits"] for _, options, _ in layers] == list(stack.ranges)
    data = layers[1][0]
    assert (data.shape, data.dtype) == ((3, 40, 56), np.uint16)
    for _ in range(2):  # the second time from the cache
        assert np.array_equal(np.asarray(data[2]), real(stack, (1, 2)))
    assert decoded == [(1, 2)]
    (layer, options, kind) = layers[1]
    assert kind == "image" and Image(layer, **options).data.shape == (3, 40, 56)


def test_the_cache_is_bounded() -> None:
    made = []

    def load(index: tuple[int, ...]) -> np.ndarray:
        made.append(index)
        return np.zeros((1, 2, 2), np.uint8)

    data = _napari_large.lazy(load, (1, 2, 2), (9, 2, 2), np.uint8, 4)
    for _ in range(2):
        data.compute(scheduler="synchronous")
    assert len(made) == 18  # nine planes don't fit into four places
    data[made[-1][0]].compute()
    assert len(made) == 18


def test_a_pyramid_decodes_only_what_is_looked_at(model_paths, tmp_path, monkeypatch) -> None:
    from napari_hyperthumb import zarr_codec

    tifffile.imwrite(tmp_path / "a.tif", PHOTO, photometric="rgb")
    make_pyramid(tmp_path / "a.tif", tmp_path / "a.zarr", chunk=64, model=str(model_paths[2]), measure=False)
    read, real = [], zarr_codec.read_chunk
    monkeypatch.setattr(
        zarr_codec, "read_chunk", lambda data, shape, view: read.append(view) or real(data, shape, view)
    )
    ((levels, options, _),) = _napari_large.read_pyramid(str(tmp_path / "a.zarr"))
    assert read == []
    assert options["rgb"] and options["multiscale"]
    assert [level.shape for level in levels] == [(130, 150, 3), (65, 75, 3), (33, 38, 3), (17, 19, 3)]
    part = levels[0][70:100, 70:100].compute()
    assert part.shape == (30, 30, 3) and read == ["image"]
    levels[0][64:128, 64:128].compute()
    assert read == ["image"]  # kept
    levels[1][:20, :20].compute()
    assert read == ["image", "thumbnail"]


def test_channels_of_a_pyramid_are_layers_with_their_place(model_paths, tmp_path) -> None:
    about = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25, "Channel": {"Name": ["a", "b"]}}
    planes = np.moveaxis(PHOTO[..., :2], -1, 0).astype(np.uint16)
    tifffile.imwrite(tmp_path / "c.ome.tif", planes, metadata=about, photometric="minisblack")
    make_pyramid(tmp_path / "c.ome.tif", tmp_path / "c.zarr", chunk=128, model=str(model_paths[2]))
    layers = _napari_large.read_pyramid(str(tmp_path / "c.zarr"))
    assert [options["name"] for _, options, _ in layers] == ["a", "b"]
    assert layers[0][1]["scale"] == [0.25, 0.5]
    assert layers[0][1]["contrast_limits"] == (float(planes[0].min()), float(planes[0].max()))
    made = Image(layers[0][0], **layers[0][1])
    assert made.multiscale and [str(unit) for unit in made.units] == ["micrometer", "micrometer"]


# ---- saving -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("tiny_weights")
def test_stack_layers_are_saved_from_naparis_menu(tmp_path: Path) -> None:
    PluginManager.instance().discover()  # as napari does when it starts
    viewer = ViewerModel()
    viewer.add_image(CELLS[0], name="one", contrast_limits=(0, 700), axis_labels=("t", "y", "x"))
    viewer.add_image(CELLS[1], name="two", contrast_limits=(5, 800), colormap="green")
    file = str(tmp_path / "cells.ht.tif")
    assert viewer.layers.save(file, plugin="napari-hyperthumb") == [file]
    stack = open_stack(file)
    assert (stack.layout.axes, stack.layout.shape) == ("CTYX", CELLS.shape)
    assert [channel.name for channel in stack.channels] == ["one", "two"]
    assert stack.ranges == ((0, 700), (5, 800))
    assert stack.info.scale == 2 and stack.dtype == np.uint16
    opened = ViewerModel().open(file, plugin="napari-hyperthumb")
    assert [layer.name for layer in opened] == ["one", "two"]
    assert [axes_of(layer) for layer in opened] == ["TYX", "TYX"]
    (again,) = opened[1].save(str(tmp_path / "b.ht.tif"), plugin="napari-hyperthumb")
    assert (open_stack(again).layout.axes, open_stack(again).ranges) == ("TYX", ((5, 800),))
    colours = Image(np.stack([PHOTO, PHOTO]), rgb=True)
    write_stack(str(tmp_path / "rgb"), [colours.as_layer_data_tuple()])
    assert open_stack(tmp_path / "rgb.ht.tif").layout.axes == "ZYXS"


def test_layers_that_are_no_stack_are_named(tmp_path: Path) -> None:
    deep = Image(np.zeros((1, 1, 1, 1, 8, 8), np.uint8), name="deep")
    alpha = Image(np.zeros((2, 8, 8, 4), np.uint8), rgb=True, name="alpha")
    for layer in (deep, alpha):
        with pytest.raises(ImageError, match=layer.name):
            write_stack(str(tmp_path / "a.ht.tif"), [layer.as_layer_data_tuple()])
    assert not list(tmp_path.iterdir())


# ---- the widget -------------------------------------------------------------------------------


def test_layers_become_one_stack() -> None:
    layers = [Image(CELLS[c], name=f"c{c}", contrast_limits=(0, 100 + c), colormap="green") for c in range(2)]
    wanted = wanted_of(layers, "ZYX", VALUES[0])
    assert (wanted.axes, wanted.array.shape) == ("CZYX", CELLS.shape)
    assert np.array_equal(wanted.array[1, 2], CELLS[1, 2])
    assert wanted.ranges == [(0, 100), (0, 101)]
    assert [channel.name for channel in wanted.channels] == ["c0", "c1"]
    assert wanted_of(layers, "ZYX", VALUES[2]).ranges == Percentile()
    one = wanted_of(layers[:1], "ZYX", VALUES[1])
    assert (one.axes, one.ranges) == ("ZYX", None) and one.array is layers[0].data
    assert wanted_of([Image(PHOTO, rgb=True)], "YX", VALUES[0]).axes == "YXS"
    for bad, axes in (([], "YX"), ([*layers, Image(CELLS[0, 0])], "ZYX"), (layers, "CYX"), (layers, "YX")):
        with pytest.raises(ImageError):
            wanted_of(bad, axes, VALUES[0])


@needs_screen
@pytest.mark.usefixtures("tiny_weights")
def test_a_stack_is_encoded_with_progress_and_opened(make_napari_viewer: Any, tmp_path: Path) -> None:
    viewer = make_napari_viewer()
    layers = [viewer.add_image(CELLS[c], name=f"c{c}", contrast_limits=(0, 700)) for c in range(2)]
    _, widget = viewer.window.add_plugin_dock_widget("napari-hyperthumb", "Encode stack")
    viewer.layers.selection = set(layers)
    assert [widget.axes_box.itemText(i) for i in range(widget.axes_box.count())] == ["ZYX", "TYX"]
    widget.rate_box.setValue(3)
    widget.encode(str(tmp_path / "both"))
    until(lambda: "6 planes" in widget.status.line.text())
    assert (tmp_path / "both.ht.tif").exists()
    assert [layer.name for layer in viewer.layers] == ["c0", "c1", "c0 [1]", "c1 [1]"]
    opened = viewer.layers[3]
    assert opened.data.shape == (3, 40, 56) and tuple(opened.contrast_limits) == (0.0, 700.0)
    assert np.allclose(opened.colormap.colors[-1], layers[1].colormap.colors[-1])
    viewer.layers.selection = set()
    assert not widget.save_button.isEnabled()
    widget.detach()
