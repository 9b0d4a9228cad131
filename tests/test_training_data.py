"""Folders of pictures to crops: the same ones every time, from the right files, at a bounded cost."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from samples import make_photo

from napari_hyperthumb.errors import TrainingError
from napari_hyperthumb.training.data import MIN_SIDE, Batch, CropSource

GRAY_WEIGHTS = np.array([0.299, 0.587, 0.114])


def save(path: Path, picture: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, picture, photometric="minisblack")
    else:
        Image.fromarray(picture).save(path)
    return path


def shades(folder: Path, values: range, side: int = 40) -> Path:
    """A folder of gray pictures, one of each value: crops tell which file they are from."""
    for value in values:
        save(folder / f"{value:03d}.png", np.full((side, side), value, np.uint8))
    return folder


def values_of(batch: Batch) -> list[int]:
    """The shades that the crops of a batch were cut from."""
    assert torch.equal(batch.rgb.amin((1, 2, 3)), batch.rgb.amax((1, 2, 3)))
    return [int(value) for value in batch.rgb[:, 0, 0, 0] + 128]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four colour pictures of different sizes, in folders."""
    folder = tmp_path_factory.mktemp("photos")
    for index, shape in enumerate([(64, 90), (80, 48), (70, 70), (40, 120)]):
        save(folder / "abcd"[index] / f"{index}.png", np.roll(make_photo(*shape), 11 * index, 2))
    return folder


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.rgb, b.rgb) and torch.equal(a.gray, b.gray)


# ---- which crops ------------------------------------------------------------------------------


def test_crops_depend_on_seed_step_and_rank_alone(photos):
    first, second = (CropSource([photos], patch=32, gray=0.3, seed=3) for _ in range(2))
    assert same(first.batch(7, 4, rank=1), second.batch(7, 4, rank=1))
    second.batch(1, 9)  # what was drawn before doesn't matter
    assert same(first.batch(8, 4), second.batch(8, 4))
    assert not same(first.batch(7, 4), first.batch(8, 4))
    assert not same(first.batch(7, 4, rank=0), first.batch(7, 4, rank=1))
    assert not same(first.batch(7, 4), CropSource([photos], patch=32, gray=0.3, seed=4).batch(7, 4))


def test_crops_are_parts_of_the_pictures_as_they_are_or_turned(tmp_path):
    picture = make_photo(50, 60)
    source = CropSource([save(tmp_path / "a.png", picture)], patch=32)
    found = set()
    turned = [np.rot90(flipped, n) for flipped in (picture, picture[:, ::-1]) for n in range(4)]
    windows = [np.lib.stride_tricks.sliding_window_view(t, (32, 32, 3))[:, :, 0] for t in turned]
    for crop in source.batch(0, 12).rgb:
        samples = (crop + 128).permute(1, 2, 0).numpy()
        hits = [bool((w == samples).all((2, 3, 4)).any()) for w in windows]
        assert any(hits)
        found.add(hits.index(True))
    assert len(found) >= 3


def test_crops_are_zero_centred_levels_of_the_wanted_size(photos):
    batch = CropSource([photos], patch=48).batch(0, 5)
    assert batch.rgb.shape == (5, 3, 48, 48)
    assert batch.rgb.dtype == torch.float32
    assert batch.rgb.min() >= -128
    assert batch.rgb.max() <= 127
    assert batch.gray.dtype == torch.bool
    assert batch.gray.shape == (5,)


def test_validation_is_the_same_every_time_and_of_held_out_files(tmp_path):
    source = CropSource([shades(tmp_path, range(100, 120))], patch=32, held_out=0.25)
    apart = {int(image[0, 0, 0]) for image in source.held_out}
    assert len(apart) == 5
    first, second = source.validation(12), source.validation(12)
    assert same(first, second)
    assert set(values_of(first)) == apart


def test_validation_is_of_training_files_when_none_is_held_out(photos):
    source = CropSource([photos], patch=32)
    assert source.held_out == []
    assert source.validation(5).rgb.shape == (5, 3, 32, 32)


def test_held_out_files_are_never_trained_on(tmp_path):
    source = CropSource([shades(tmp_path, range(100, 120))], patch=32, held_out=0.3, seed=1)
    apart = {int(image[0, 0, 0]) for image in source.held_out}
    seen = {value for step in range(40) for value in values_of(source.batch(step, 8))}
    assert len(apart) == 6
    assert seen == set(range(100, 120)) - apart


def test_held_out_files_are_never_trained_on_though_folders_overlap(tmp_path):
    shades(tmp_path, range(100, 110))
    shades(tmp_path / "inner", range(110, 120))
    (tmp_path / "link").symlink_to(tmp_path / "inner")
    folders = [tmp_path, tmp_path / "inner", tmp_path / "link"]
    source = CropSource(folders, patch=32, held_out=0.3)
    apart = {int(image[0, 0, 0]) for image in source.held_out}
    assert len(source.held_out) == len(apart)
    assert apart.isdisjoint(int(image[0, 0, 0]) for image in source.train)


@pytest.mark.parametrize("seed", [0, 1])
def test_seed_chooses_the_held_out_files(tmp_path, seed):
    folder = shades(tmp_path, range(100, 120))
    first, second = (CropSource([folder], patch=32, held_out=0.5, seed=s) for s in (seed, seed))
    other = CropSource([folder], patch=32, held_out=0.5, seed=seed + 2)
    assert np.array_equal(first.held_out, second.held_out)
    assert not np.array_equal(first.held_out, other.held_out)


def test_shares_are_those_of_the_crops(tmp_path):
    folders = [shades(tmp_path / "a", range(5)), shades(tmp_path / "b", range(200, 202))]
    source = CropSource(folders, patch=32, shares=[1, 3])
    counts = Counter(value for step in range(100) for value in values_of(source.batch(step, 8)))
    first = sum(count for value, count in counts.items() if value < 100)
    assert first / 800 == pytest.approx(0.25, abs=0.05)
    assert set(counts) == {0, 1, 2, 3, 4, 200, 201}


def test_larger_pictures_give_more_crops_by_the_root_of_their_size(tmp_path):
    save(tmp_path / "small.png", np.full((40, 40), 10, np.uint8))
    save(tmp_path / "large.png", np.full((120, 120), 20, np.uint8))
    source = CropSource([tmp_path], patch=32)
    counts = Counter(value for step in range(100) for value in values_of(source.batch(step, 8)))
    assert counts[20] / 800 == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize("shares", [[1.0], [1, 2, 3], [1, 0], [1, -1]], ids=str)
def test_shares_must_fit_the_folders(tmp_path, shares):
    folders = [shades(tmp_path / "a", range(1)), shades(tmp_path / "b", range(1))]
    with pytest.raises(TrainingError, match="share"):
        CropSource(folders, patch=32, shares=shares)


# ---- colours and samples ----------------------------------------------------------------------


def test_gray_pictures_are_flagged_and_colour_ones_arent(tmp_path):
    colour = CropSource([save(tmp_path / "a.png", make_photo(64, 64))], patch=32).batch(0, 6)
    assert not colour.gray.any()
    gray = CropSource([save(tmp_path / "b.png", make_photo(64, 64)[:, :, 0])], patch=32).batch(0, 6)
    assert gray.gray.all()
    assert torch.equal(gray.rgb[:, 0], gray.rgb[:, 1])
    assert torch.equal(gray.rgb[:, 0], gray.rgb[:, 2])


def test_share_of_colour_crops_becomes_their_luma(photos):
    plain = CropSource([photos], patch=32, gray=0.0).batch(0, 16)
    always = CropSource([photos], patch=32, gray=1.0)
    assert always.batch(0, 16).gray.all()
    luma = np.einsum("nchw,c->nhw", plain.rgb[:1].numpy(), GRAY_WEIGHTS)
    assert np.allclose(always.batch(0, 16).rgb[:1].numpy(), luma[:, None], atol=1e-3)
    some = CropSource([photos], patch=32, gray=0.25)
    flags = torch.cat([some.batch(step, 8).gray for step in range(60)]).float()
    assert float(flags.mean()) == pytest.approx(0.25, abs=0.06)


def test_a_share_of_the_crops_are_larger_parts_reduced(tmp_path):
    stripes = np.zeros((70, 200, 3), np.uint8)
    stripes[:, ::2] = 255  # single columns: gone where they are reduced by nearly two
    folder = save(tmp_path / "a.png", stripes)
    whole, some = (CropSource([folder], patch=32, zoom=zoom) for zoom in (0.0, 0.5))

    def contrasts(source: CropSource) -> NDArray[np.float32]:
        return torch.cat([source.batch(step, 8).rgb.std((1, 2, 3)) for step in range(20)]).numpy()

    assert (contrasts(whole) > 120).all()
    reduced = contrasts(some) < 120
    assert reduced.mean() == pytest.approx(0.5, abs=0.12)
    assert contrasts(some).min() < 40
    assert some.batch(0, 8).rgb.shape == (8, 3, 32, 32)


def test_16_bit_pictures_are_mapped_by_their_own_range(tmp_path):
    picture = np.linspace(1000, 3000, 64 * 64).reshape(64, 64).astype(np.uint16)
    source = CropSource([save(tmp_path / "a.png", picture)], patch=32)
    (image,) = source.train
    assert image.dtype == np.uint8
    assert image.shape == (64, 64, 1)
    expected = np.rint((picture - 1000.0) * 255 / 2000)
    assert np.abs(image[:, :, 0] - expected).max() <= 1
    assert (image.min(), image.max()) == (0, 255)


@pytest.mark.parametrize("shape", [(40, 50, 5), (5, 40, 50), (40, 50, 2), (2, 40, 50)])
def test_channels_of_other_numbers_are_pictures_each_by_its_own_range(tmp_path, shape):
    planes = [np.linspace(k, 10 * k + 1, 2000, dtype=np.float32).reshape(40, 50) for k in range(min(shape))]
    picture = np.stack(planes, 0 if shape[0] < 40 else 2)
    source = CropSource([save(tmp_path / "a.tif", picture)], patch=32)
    assert len(source.train) == min(shape)
    for image in source.train:
        assert image.shape == (40, 50, 1)
        assert (image.min(), image.max()) == (0, 255)
    assert source.batch(0, 3).gray.all()


def test_alpha_is_dropped(tmp_path):
    picture = np.dstack([make_photo(40, 40), np.zeros((40, 40), np.uint8)])
    (image,) = CropSource([save(tmp_path / "a.png", picture)], patch=32).train
    assert np.array_equal(image, picture[:, :, :3])


# ---- files that can't be used -----------------------------------------------------------------


def test_unusable_files_are_skipped_and_named(tmp_path):
    save(tmp_path / "good.png", make_photo(40, 40))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("not a picture, not tried")
    save(tmp_path / "tiny.png", make_photo(MIN_SIDE - 1, 100))
    save(tmp_path / "spectral.tif", np.zeros((40, 40, 20), np.uint8))
    save(tmp_path / "mask.tif", np.zeros((40, 40), bool))
    lines: list[str] = []
    source = CropSource([tmp_path], patch=32, skipped=lines.append)
    assert len(source.train) == 1
    names = ["broken.png", "empty.jpg", "mask.tif", "spectral.tif", "tiny.png"]
    assert sorted(Path(line.removeprefix("skipped: ").split(": ")[0]).name for line in lines) == names
    assert all(line.startswith("skipped: ") for line in lines)


@pytest.mark.parametrize("kind", ["empty", "text", "small", "missing"])
def test_folder_with_nothing_usable_is_an_error_that_names_it(tmp_path, kind):
    folder = tmp_path / "nothing here"
    if kind != "missing":
        folder.mkdir()
    if kind == "text":
        (folder / "a.png").write_text("hello")
    if kind == "small":
        save(folder / "a.png", make_photo(8, 8))
    with pytest.raises(TrainingError, match=r"nothing here.*no usable picture"):
        CropSource([folder], patch=32)


def test_one_folder_of_several_may_hold_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    folders = [shades(tmp_path / "a", range(3)), tmp_path / "empty"]
    assert len(CropSource(folders, patch=32, shares=[1, 1]).train) == 3


# ---- sizes ------------------------------------------------------------------------------------


def test_small_pictures_are_padded_by_mirroring(tmp_path):
    picture = make_photo(34, 50)
    source = CropSource([save(tmp_path / "a.png", picture)], patch=64)
    padded = np.pad(picture, [(0, 30), (0, 14), (0, 0)], mode="symmetric")
    turned = [np.rot90(flipped, n) for flipped in (padded, padded[:, ::-1]) for n in range(4)]
    for crop in source.batch(0, 8).rgb:
        samples = (crop + 128).permute(1, 2, 0).numpy()
        assert any(np.array_equal(samples, one) for one in turned)


@pytest.mark.parametrize("memory_bytes", [0, 30_000, 50_000])
def test_pixels_beyond_the_memory_bound_lie_in_a_file_and_give_the_same_crops(photos, memory_bytes):
    kept = CropSource([photos], patch=32, gray=0.2, held_out=0.25)
    bound = CropSource([photos], patch=32, gray=0.2, held_out=0.25, memory_bytes=memory_bytes)
    images = [*bound.train, *bound.held_out]
    in_memory = sum(image.nbytes for image in images if not isinstance(image, np.memmap))
    assert any(isinstance(image, np.memmap) for image in images)
    assert in_memory <= memory_bytes
    assert not any(isinstance(image, np.memmap) for image in [*kept.train, *kept.held_out])
    for step in range(10):
        assert same(kept.batch(step, 4), bound.batch(step, 4))
    assert same(kept.validation(6), bound.validation(6))


def test_memory_bound_holds_over_all_folders(photos):
    folders = sorted(photos.iterdir())
    sizes = [64 * 90 * 3, 80 * 48 * 3, 70 * 70 * 3, 40 * 120 * 3]
    source = CropSource(folders, patch=32, memory_bytes=sizes[0] + sizes[1])
    assert [isinstance(image, np.memmap) for image in source.train] == [False, False, True, True]


def test_spilled_pictures_take_no_file_descriptor_each(tmp_path):
    resource = pytest.importorskip("resource", reason="needs POSIX limits")
    shades(tmp_path, range(60), side=MIN_SIDE)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/dev/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, hard))
    try:
        source = CropSource([tmp_path], patch=32, memory_bytes=0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert sorted(int(image[0, 0, 0]) for image in source.train) == list(range(60))


def test_temporary_file_is_gone_from_its_folder(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an unclosed file would be one
        source = CropSource([photos], patch=32, memory_bytes=0)
    assert source.batch(0, 2).rgb.shape == (2, 3, 32, 32)
    assert list(tmp_path.iterdir()) == []
