"""The manifest and the plugin's start: what napari sees of us before anything is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("npe2")

from npe2 import PluginManifest

from napari_hyperthumb import HyperThumbError, ImageError, ThumbnailError, _napari

ROOT = Path(__file__).parents[1]
MANIFEST = ROOT / "napari_hyperthumb" / "napari.yaml"


def test_the_two_manifests_are_one() -> None:
    assert (ROOT / "napari.yaml").read_bytes() == MANIFEST.read_bytes()


def test_the_manifest_is_valid_and_its_commands_exist() -> None:
    manifest = PluginManifest.from_distribution("napari-hyperthumb")
    manifest.validate_imports()
    contributions = manifest.contributions
    assert {w.display_name for w in contributions.widgets or []} == {
        "Encode",
        "Decode",
        "Compare",
        "Encode stack",
    }
    assert len(contributions.sample_data or []) == 3
    patterns = [p for reader in contributions.readers or [] for p in reader.filename_patterns]
    assert patterns == ["*.ht.jpg", "*.ht.jxl", "*.ht.tif", "*.zarr"]
    assert [e for writer in contributions.writers or [] for e in writer.filename_extensions] == [
        ".ht.jpg",
        ".ht.tif",
    ]
    assert set(contributions.menus or {}) >= {"napari/layers/transform", "napari/file/io_utilities"}
    assert manifest.on_activate is None  # nothing is changed or loaded before the first use


def test_loading_the_plugin_and_opening_a_widget_imports_no_torch() -> None:
    code = (
        "import sys, npe2\n"
        "pm = npe2.PluginManager.instance()\n"
        "pm.discover()\n"
        "pm.activate('napari-hyperthumb')\n"
        "list(pm.iter_widgets()); list(pm.iter_compatible_readers(['x.ht.jpg']))\n"
        "import napari_hyperthumb._widget.encode, napari_hyperthumb._widget.decode\n"
        "import napari_hyperthumb._widget.compare\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_reader_takes_its_own_ending_only() -> None:
    assert _napari.get_reader("a.jpg") is None
    assert _napari.get_reader(["a.ht.jpg", "b.jpg"]) is None
    assert _napari.get_reader([]) is None
    assert _napari.get_reader("A.HT.JPG") is not None
    assert _napari.get_reader(["a.ht.jpg", "b.ht.jxl"]) is not None


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ThumbnailError, match="nowhere"):
        _napari.read("nowhere.ht.jpg")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.ht.jpg"
    path.write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ThumbnailError, match="broken"):
        _napari.read(str(path))


def test_stacks_are_not_written_as_one_plane(tmp_path: Path) -> None:
    data, attributes = np.zeros((3, 8, 8), np.uint8), {"contrast_limits": [0, 255]}
    with pytest.raises(ImageError, match="one plane"):
        _napari.write(str(tmp_path / "a.ht.jpg"), data, attributes)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("tiny_weights")
def test_colours_with_alpha_and_planes_with_an_axis_are_written(tmp_path: Path) -> None:
    rgba = np.full((16, 16, 4), 100, np.uint8)
    (path,) = _napari.write(str(tmp_path / "a"), rgba, {"rgb": True, "metadata": {}})
    assert path.endswith(".ht.jpg")
    plane = np.arange(256, dtype=np.float32).reshape(1, 16, 16)
    (path,) = _napari.write(str(tmp_path / "b.ht.jpg"), plane, {"contrast_limits": [0, 100]})
    _, (back, options, kind) = _napari.read(path)
    assert back.shape == (16, 16)
    assert back.dtype == np.float32
    assert options["contrast_limits"] == (0, 100)
    assert kind == "image"


def test_samples_are_described() -> None:
    for sample in (_napari.photograph, _napari.histology, _napari.moon):
        ((image, options, kind),) = sample()
        assert kind == "image"
        assert image.dtype == np.uint8
        assert options["rgb"] == (image.ndim == 3)


def test_errors_of_ours_are_value_errors() -> None:
    assert issubclass(HyperThumbError, ValueError)
