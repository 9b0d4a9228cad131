"""The public functions: targets, tiles, regions, models, lost metadata, and what is imported when."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from jpeg_bytes import without_metadata
from PIL import Image
from samples import make_photo
from skimage import data as pictures

import napari_hyperthumb
from napari_hyperthumb import codec, decode, encode, info, load_model, pipeline
from napari_hyperthumb.bitstream import read_jpeg
from napari_hyperthumb.checkpoint import Model
from napari_hyperthumb.device import pick_device
from napari_hyperthumb.errors import (
    DeviceError,
    HyperThumbError,
    HyperThumbWarning,
    ImageError,
    ModelError,
    NotAThumbnailError,
    RateError,
    ThumbnailError,
)
from napari_hyperthumb.metrics import psnr
from napari_hyperthumb.model import ModelConfig
from napari_hyperthumb.pipeline import PreparedImage, reconstruct
from napari_hyperthumb.pixels import Format, check_image
from napari_hyperthumb.targets import COARSEST

CPU = torch.device("cpu")


@pytest.fixture(params=[2, 4], ids=["x2", "x4"])
def model(request: pytest.FixtureRequest, models: dict[int, Model]) -> Model:
    return models[request.param]


@pytest.fixture
def data(photo: np.ndarray, models: dict[int, Model]) -> bytes:
    """A thumbnail file at scale 2."""
    return encode(photo, level=0.5, model=models[2]).data


@pytest.fixture
def as_bundled(monkeypatch: pytest.MonkeyPatch, model_paths: dict[int, Path]) -> None:
    """The tiny models in the place of those in the package."""
    names = {name: model_paths[scale] for scale, name in codec.BUNDLED.items()}
    default = model_paths[2].with_name("any")
    monkeypatch.setattr(codec, "bundled_path", lambda name: names.get(name, default))


def saved_again(data: bytes, size: tuple[int, int] | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        picture = image.resize(size) if size else image
        picture.save(buffer, "JPEG", subsampling=0, **options)
    return buffer.getvalue()


# ---- the wanted size or quality ---------------------------------------------------------------


@pytest.mark.parametrize("level", [-1, -0.3, 0.0, 1])
def test_level_is_the_one_that_was_asked_for(photo, model, level):
    thumbnail = encode(photo, level=level, model=model)
    assert thumbnail.level == level
    prepared = PreparedImage(*check_image(photo), model, CPU)
    assert thumbnail.data == prepared.code(level).data


def test_level_0_is_the_default(photo, model):
    assert encode(photo, model=model).data == encode(photo, level=0, model=model).data


def test_bytes_and_quality_rise_with_the_level(photo, model):
    thumbnails = [encode(photo, level=level, model=model) for level in (-1, -0.5, 0, 0.5, 1)]
    sizes = [thumbnail.nbytes for thumbnail in thumbnails]
    quality = [psnr(photo, decode(thumbnail.data, model=model)) for thumbnail in thumbnails]
    assert sizes == sorted(set(sizes))
    assert quality == sorted(quality)


@pytest.mark.parametrize("part", [0.0, 0.15, 0.4, 0.65, 0.85, 1.0])
def test_wanted_bytes_are_met_within_1_percent_and_never_exceeded(model, part):
    picture = make_photo(320, 440)
    least, most = (encode(picture, level=level, model=model).nbytes for level in (-1, 1))
    wanted = round(least * (most / least) ** part)
    thumbnail = encode(picture, nbytes=wanted, model=model)
    assert 0.99 * wanted <= thumbnail.nbytes <= wanted
    assert thumbnail.nbytes == len(thumbnail.data)


def test_wanted_bytes_cost_no_quality():
    # A photograph and the bundled weights: tiny ones gain nothing by moves.
    part = pictures.astronaut()[:192, 150:342]
    at_level = encode(part, level=-0.5, scale=4, device="cpu")
    at_bytes = encode(part, nbytes=at_level.nbytes, scale=4, device="cpu")
    assert psnr(part, decode(at_bytes.data)) > psnr(part, decode(at_level.data)) - 0.15


def test_bytes_below_those_of_the_lowest_level_need_coarser_tables(photo, model):
    lowest = encode(photo, level=-1, model=model)
    thumbnail = encode(photo, nbytes=int(lowest.nbytes * 0.9), model=model)
    assert thumbnail.nbytes <= lowest.nbytes * 0.9
    assert thumbnail.level < -1
    assert (thumbnail.tables >= lowest.tables).all() and thumbnail.tables.max() <= 255
    assert decode(thumbnail.data, model=model).shape == photo.shape


def test_more_bytes_than_the_highest_level_takes_give_the_highest_level(photo, model):
    highest = encode(photo, level=1, model=model).data
    for target in ({"nbytes": 10**6}, {"bpp": 100}, {"bpp": 1e308}):
        assert encode(photo, model=model, **target).data == highest


def test_bpp_counts_the_whole_file_over_hr_pixels(photo, model):
    most = encode(photo, level=0.8, model=model)
    assert most.bpp == 8 * most.nbytes / (96 * 130)
    thumbnail = encode(photo, bpp=most.bpp, model=model)
    assert thumbnail.nbytes == encode(photo, nbytes=most.nbytes, model=model).nbytes
    assert thumbnail.bpp <= most.bpp


def test_too_few_bytes_name_the_fewest_there_can_be(photo, model):
    with pytest.raises(RateError, match="300 bytes can't be reached") as error:
        encode(photo, nbytes=300, model=model)
    least = int(str(error.value).split()[-2])
    assert 0.97 * least <= encode(photo, nbytes=least, model=model).nbytes <= least


@pytest.mark.parametrize("kind", ["rgb", "uint16"])
@pytest.mark.parametrize("part", [0.2, 0.6, 0.9])
def test_wanted_psnr_is_reached_with_few_bytes(photo, model, kind, part):
    picture = photo if kind == "rgb" else photo[..., 0].astype(np.uint16) * 200
    peak = 255 if kind == "rgb" else float(picture.max() - picture.min())

    def quality(data: bytes) -> float:
        return psnr(picture, decode(data, model=model), peak)

    low, high = (quality(encode(picture, level=level, model=model).data) for level in (-1, 1))
    wanted = low + part * (high - low)
    thumbnail = encode(picture, psnr=wanted, model=model)
    assert wanted <= quality(thumbnail.data) <= wanted + 0.25 * (high - low) + 0.1


def test_psnr_below_that_of_the_lowest_level_gives_the_lowest_level(photo, model):
    assert encode(photo, psnr=5, model=model).data == encode(photo, level=-1, model=model).data


def test_psnr_out_of_reach_names_the_best_there_is(photo, model):
    with pytest.raises(RateError, match=r"90 dB can't be reached.*\d\d\.\d\d dB at most"):
        encode(photo, psnr=90, model=model)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bpp": 1, "level": 0}, "one of"),
        ({"bpp": 1, "nbytes": 1, "psnr": 1}, "not 3"),
        ({"level": 1.01}, "-1 to 1"),
        ({"level": float("nan")}, "finite"),
        ({"bpp": 0}, "more than 0"),
        ({"bpp": float("inf")}, "finite"),
        ({"nbytes": -5}, "more than 0"),
        ({"psnr": float("nan")}, "finite"),
        ({"scale": 3}, "scale"),
        ({"scale": "big"}, "scale"),
    ],
)
def test_impossible_targets_are_rate_errors(photo, wrong, message):
    with pytest.raises(RateError, match=message):
        encode(photo, **wrong)


def test_unknown_effort_is_an_error(photo, model):
    with pytest.raises(HyperThumbError, match="effort"):
        encode(photo, effort="heroic", model=model)


# ---- scale ------------------------------------------------------------------------------------


def test_auto_scale_takes_the_smaller_error(photo, as_bundled, models):
    for wanted in (870, 900, 1200):
        chosen = encode(photo, nbytes=wanted)
        alone = [encode(photo, nbytes=wanted, scale=scale) for scale in (2, 4)]
        quality = {t.scale: psnr(photo, decode(t.data)) for t in alone}
        assert chosen.scale == max(quality, key=quality.__getitem__)
        assert chosen.data in [t.data for t in alone]


def test_auto_scale_takes_the_one_that_can_reach_the_target(photo, as_bundled, models):
    smallest = [
        len(PreparedImage(*check_image(photo), models[scale], CPU).code(COARSEST).data) for scale in (2, 4)
    ]
    few = sum(smallest) // 2
    assert encode(photo, nbytes=few).scale == 4
    with pytest.raises(RateError, match="scale 2"):
        encode(photo, nbytes=few, scale=2)
    assert encode(photo, psnr=29).scale == 2
    with pytest.raises(RateError, match="scale 4"):
        encode(photo, psnr=29, scale=4)


def test_auto_scale_takes_fewer_bytes_at_a_psnr(photo, as_bundled):
    chosen = encode(photo, psnr=25)
    sizes = {scale: encode(photo, psnr=25, scale=scale).nbytes for scale in (2, 4)}
    assert chosen.scale == min(sizes, key=sizes.__getitem__)


def test_targets_that_no_scale_reaches_name_the_scale_that_comes_closest(photo, as_bundled):
    with pytest.raises(RateError, match="scale 4: the smallest file"):
        encode(photo, nbytes=100)
    with pytest.raises(RateError, match="scale 2: this image comes to"):
        encode(photo, psnr=90)


def test_level_alone_means_scale_2(photo, as_bundled):
    assert encode(photo, level=0.1).scale == 2


def test_bundled_weights_choose_a_scale_and_decode_without_being_named():
    picture = make_photo(128, 160)
    wanted = encode(picture, level=0.3, scale=2).bpp
    thumbnail = encode(picture, bpp=wanted)
    assert 0.97 * wanted < thumbnail.bpp <= wanted
    assert thumbnail.model.startswith(f"ht-x{thumbnail.scale}-")
    assert psnr(picture, decode(thumbnail.data)) > 24


# ---- one file, two ways to look at it ---------------------------------------------------------


@pytest.mark.parametrize("kind", ["rgb", "gray", "uint16", "float32"])
def test_shape_and_dtype_come_back(photo, model, kind):
    picture = {
        "rgb": photo,
        "gray": photo[..., 1],
        "uint16": photo.astype(np.uint16) * 257,
        "float32": photo[..., 0] / np.float32(255),
    }[kind]
    thumbnail = encode(picture, level=1, model=model)
    decoded = decode(thumbnail.data, model=model)
    assert decoded.dtype == picture.dtype
    assert decoded.shape == picture.shape == thumbnail.shape
    peak = float(picture.max()) - float(picture.min())
    assert psnr(picture, decoded, peak) > 22


def test_deep_images_are_decoded_between_8_bit_steps(photo, model):
    picture = photo[..., 0].astype(np.uint16) * 257
    decoded = decode(encode(picture, level=1, model=model).data, model=model)
    assert len(np.unique(decoded)) > 1000


@pytest.mark.parametrize("gray", [False, True])
def test_lr_is_the_thumbnail_that_viewers_show(photo, model, gray):
    picture = photo[..., 0] if gray else photo
    scale = model.scale
    thumbnail = encode(picture, level=1, model=model)
    size = (-(-130 // scale), -(-96 // scale))
    assert thumbnail.lr.shape == (*size[::-1], *picture.shape[2:])
    assert thumbnail.lr.dtype == np.uint8
    with Image.open(io.BytesIO(thumbnail.data)) as shown:
        assert np.array_equal(thumbnail.lr, np.asarray(shown))
    by_hand = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
    assert psnr(thumbnail.lr, by_hand) > 24


def test_thumbnail_says_what_it_is(photo, model):
    thumbnail = encode(photo, level=0.25, model=model)
    assert thumbnail.scale == model.scale
    assert thumbnail.model == f"{model.name}-{model.digest}"
    assert thumbnail.tables.shape == (2, 8, 8)
    assert np.array_equal(thumbnail.tables.reshape(2, 64), read_jpeg(thumbnail.data).tables)
    assert len(repr(thumbnail)) < 300


def test_info_says_what_the_file_is_without_a_model(photo, model, monkeypatch):
    monkeypatch.setattr(codec, "load_model", lambda *_: pytest.fail("info needs no model"))
    picture = photo.astype(np.int16) - 100
    prepared = PreparedImage(*check_image(picture), model, CPU)
    data = prepared.code(0.0).data
    found = info(data)
    assert (found.nbytes, found.scale, found.shape) == (len(data), model.scale, (96, 130))
    assert found.lr_size == (-(-96 // model.scale), -(-130 // model.scale))
    assert found.bpp == 8 * len(data) / (96 * 130)
    assert (found.model, found.digest) == (model.name, model.digest)
    assert found.format == Format("int16", (float(picture.min()), float(picture.max())), False)
    assert np.array_equal(found.tables.reshape(2, 64), prepared.tables(0.0))
    assert found.lost == ()


def test_thumbnails_and_infos_of_one_file_are_equal(photo, model):
    first, second = (encode(photo, model=model) for _ in range(2))
    assert first == second
    assert first != encode(photo, level=1, model=model)
    assert info(first.data) == info(second.data)


def test_save_writes_the_data(photo, model, tmp_path):
    thumbnail = encode(photo, model=model)
    for path in (tmp_path / "a.ht.jpg", str(tmp_path / "b.ht.jpg")):
        thumbnail.save(path)
        assert Path(path).read_bytes() == thumbnail.data


def test_file_is_decoded_from_wherever_it_is(data, models, tmp_path):
    path = tmp_path / "a.ht.jpg"
    path.write_bytes(data)
    expected = decode(data, model=models[2])
    with path.open("rb") as file:
        sources = [path, str(path), io.BytesIO(data), file]
        for source in sources:
            assert np.array_equal(decode(source, model=models[2]), expected)
    assert info(path).shape == (96, 130)


def test_text_files_are_refused(data):
    with pytest.raises(ThumbnailError, match="binary"):
        decode(io.StringIO("text"))


def test_same_image_gives_the_same_bytes_and_the_same_decoded_image(photo, model):
    first, second = (encode(photo.copy(), bpp=0.6, model=model).data for _ in range(2))
    assert first == second
    assert np.array_equal(decode(first, model=model), decode(second, model=model))


def test_encoding_doesnt_change_the_image(model):
    picture = make_photo(40, 50)
    before = picture.copy()
    encode(picture, nbytes=900, model=model)
    assert np.array_equal(picture, before)


def test_strided_and_read_only_images_are_coded_as_they_look(photo, model):
    view = photo[::-2, ::3]
    assert encode(view, model=model).data == encode(np.ascontiguousarray(view), model=model).data


def test_a_plain_file_holds_what_training_saw(model, monkeypatch):
    monkeypatch.setattr("napari_hyperthumb.pipeline.has_bfloat16", lambda device: False)
    picture = make_photo(64, 96).astype(np.float32)
    level = 0.4
    prepared = PreparedImage(*check_image(picture, value_range=(0, 255)), model, CPU)
    with torch.no_grad():
        rgb = torch.from_numpy(picture).permute(2, 0, 1)[None] - 128
        out = model.net(rgb, torch.tensor([level]))
    coding = prepared.code(level, rounds=0)
    assert np.array_equal(coding.tables, out.tables[0].numpy())
    assert (read_jpeg(coding.data).quantised != out.quantised[0]).float().mean() < 1e-3
    expected = (out.hr[0].permute(1, 2, 0).numpy() + 128).clip(0, 255)
    assert abs(decode(coding.data, model=model) - expected).mean() < 0.05


def test_images_are_padded_by_repeating_their_edge(model):
    block = model.net.config.block
    picture = make_photo(block + 5, 2 * block + 3)
    padded = np.pad(picture, ((0, block - 5), (0, block - 3), (0, 0)), mode="edge")
    ours, theirs = (PreparedImage(*check_image(p), model, CPU) for p in (picture, padded))
    assert np.array_equal(ours.tables(0.0), theirs.tables(0.0))
    assert np.array_equal(ours.lr_planes(0.0), theirs.lr_planes(0.0))


def test_one_prepared_image_serves_every_level(photo, model, monkeypatch):
    calls = []
    trunk = model.net.encoder.trunk
    monkeypatch.setattr(model.net.encoder, "trunk", lambda planes: calls.append(1) or trunk(planes))
    prepared = PreparedImage(*check_image(photo), model, CPU)
    files = [prepared.code(level).data for level in (-1.0, 0.0, 1.0)]
    assert len(calls) == 1
    assert len(set(files)) == 3
    monkeypatch.setattr("napari_hyperthumb.pipeline.CACHE_BYTES", 0)
    uncached = PreparedImage(*check_image(photo), model, CPU)
    assert [uncached.code(level).data for level in (-1.0, 0.0, 1.0)] == files


# ---- value ranges -----------------------------------------------------------------------------


def test_decoded_values_stay_within_the_range(photo, model):
    picture = photo[..., 0].astype(np.int16) - 300
    decoded = decode(encode(picture, level=-1, model=model).data, model=model)
    assert picture.min() <= decoded.min() and decoded.max() <= picture.max()


def test_value_range_clips_and_is_kept_in_the_file(photo, model):
    picture = photo[..., 0].astype(np.float32)
    thumbnail = encode(picture, value_range=(100, 150), level=1, model=model)
    assert info(thumbnail.data).format.range == (100, 150)
    decoded = decode(thumbnail.data, model=model)
    assert decoded.min() >= 100 and decoded.max() <= 150
    assert abs(decoded - picture.clip(100, 150)).mean() < 5


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_greatest_floats_are_coded(photo, models, dtype):
    greatest = np.finfo(dtype).max
    picture = np.where(photo[..., 0] > 128, greatest, -greatest)
    for target in ({"level": 1}, {"psnr": 10}):
        decoded = decode(encode(picture, model=models[2], **target).data, model=models[2])
        assert decoded.dtype == dtype and np.isfinite(decoded).all()
        assert ((decoded > 0) == (picture > 0)).mean() > 0.9


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_least_floats_are_coded(photo, models, dtype):
    least = np.finfo(dtype).tiny
    picture = np.where(photo[..., 0] > 128, least, 0).astype(dtype)
    for target in ({"level": 1}, {"psnr": 10}):
        decoded = decode(encode(picture, model=models[2], **target).data, model=models[2])
        assert decoded.dtype == dtype
        assert ((decoded > least / 2) == (picture > 0)).mean() > 0.9


def test_alpha_is_refused_or_dropped(photo, model):
    picture = np.dstack([photo, photo[..., 0]])
    with pytest.raises(ImageError, match="alpha"):
        encode(picture, model=model)
    dropped = encode(picture, alpha="drop", model=model)
    assert dropped.data == encode(photo, model=model).data
    assert dropped.shape == photo.shape


# ---- tiles and regions ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide() -> np.ndarray:
    """Far wider than a tile with its surroundings."""
    return make_photo(80, 500).astype(np.float32)


def difference_between_tilings(picture: np.ndarray, model: Model) -> tuple[float, float]:
    """Greatest differences of LR planes and of decoded values, one tile against tiles of 64."""
    whole, tiled = (PreparedImage(*check_image(picture), model, CPU, tile=t) for t in (4096, 64))
    lr = abs(whole.lr_planes(0.5) - tiled.lr_planes(0.5)).max()
    contents = read_jpeg(whole.code(0.5).data)
    decoded = [
        reconstruct(contents.quantised, contents.tables, picture.shape[:2], whole.format, model, CPU, tile=t)
        for t in (4096, 64)
    ]
    return float(lr), float(abs(decoded[0] - decoded[1]).max())


def test_tiled_equals_untiled(wide, model):
    lr, decoded = difference_between_tilings(wide, model)
    assert lr < 1e-3
    assert decoded < 1e-3


def test_tiled_equals_untiled_only_thanks_to_the_surroundings(wide, model, monkeypatch):
    """The test above can fail: without halos the tiles' edges are seen."""
    for halo in ("encoder_halo", "decoder_halo"):
        monkeypatch.setattr(ModelConfig, halo, 0)
    lr, decoded = difference_between_tilings(wide, model)
    assert lr > 0.1
    assert decoded > 0.1


def test_tiles_agree_on_tables_and_nearly_on_coefficients(wide, model):
    whole, tiled = (PreparedImage(*check_image(wide), model, CPU, tile=t) for t in (4096, 64))
    assert np.array_equal(whole.tables(0.0), tiled.tables(0.0))
    ours, theirs = (read_jpeg(p.code(0.0).data).quantised for p in (whole, tiled))
    assert (ours != theirs).float().mean() < 1e-3


@pytest.mark.parametrize(
    "region",
    [
        (slice(0, 1), slice(0, 1)),
        (slice(30, 50), slice(100, 333)),
        (slice(None), slice(490, None)),
        (slice(-7, None), slice(-9, -2)),
        (slice(63, 66), slice(255, 257)),
    ],
)
def test_region_equals_the_crop_of_the_whole(wide, model, region):
    data = encode(wide, level=0.5, model=model).data
    part, whole = decode(data, model=model, region=region), decode(data, model=model)
    assert part.shape == whole[region].shape
    assert abs(part - whole[region]).max() < 1e-3


@pytest.mark.parametrize("region", [None, (slice(3, 38), slice(1001, 4995))])
def test_parts_are_shown_as_they_come(models, region, monkeypatch):
    monkeypatch.setattr(pipeline, "DECODER_TILE", 256)
    photo = make_photo(40, 5001)
    data = encode(photo, level=0.0, model=models[2]).data
    seen, parts, done = np.zeros_like(photo if region is None else photo[region]), [], []

    def show(rows, columns, pixels):
        assert len(done) == len(parts)  # before the progress that counts it
        seen[rows, columns] = pixels
        parts.append((rows, columns))

    decoded = decode(data, model=models[2], region=region, show=show, progress=done.append)
    assert len(parts) > 1
    assert sum((r.stop - r.start) * (c.stop - c.start) for r, c in parts) == seen[..., 0].size  # none twice
    assert np.array_equal(seen, decoded)


@pytest.mark.parametrize(
    "region",
    [
        (slice(5, 5), slice(0, 9)),
        (slice(0, 9), slice(900, 950)),
        (slice(0, 9, 2), slice(0, 9)),
        (slice(0, 9),),
        (slice(0, 9), slice(0, 9), slice(0, 3)),
        (5, 6),
    ],
)
def test_regions_that_hold_nothing_are_refused(data, models, region):
    with pytest.raises(HyperThumbError, match="region"):
        decode(data, model=models[2], region=region)


def test_max_pixels_is_a_limit_that_can_be_raised(photo, model):
    data = encode(photo, model=model).data
    assert decode(data, model=model, max_pixels=96 * 130).shape == (96, 130, 3)
    with pytest.raises(ThumbnailError, match="pixels, more than 12479"):
        decode(data, model=model, max_pixels=96 * 130 - 1)


# ---- progress ---------------------------------------------------------------------------------


class Cancelled(Exception):
    pass


def cancel(fraction: float) -> None:
    raise Cancelled


@pytest.mark.parametrize("target", [{"level": 0.5}, {"nbytes": 900}, {"psnr": 20}])
def test_progress_of_encoding_rises_to_1(photo, as_bundled, target):
    seen: list[float] = []
    encode(photo, progress=seen.append, **target)
    assert seen == sorted(seen)
    assert 0 < seen[0] < seen[-1] == 1


def test_progress_of_decoding_rises_to_1(wide, model, monkeypatch):
    data = encode(wide, model=model).data
    seen: list[float] = []
    decode(data, model=model, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1


def test_exception_in_progress_ends_the_work(photo, data, models):
    with pytest.raises(Cancelled):
        encode(photo, model=models[2], progress=cancel)
    with pytest.raises(Cancelled):
        decode(data, model=models[2], progress=cancel)
    assert encode(photo, level=0.5, model=models[2]).data == data


# ---- models and devices -----------------------------------------------------------------------


def test_wrong_weights_are_refused_naming_both(data, models, other_model):
    with pytest.raises(ModelError) as error:
        decode(data, model=other_model)
    for word in (models[2].name, models[2].digest, other_model.name, other_model.digest, "any_model"):
        assert word in str(error.value)


def test_any_model_decodes_with_a_warning_that_points_at_the_caller(data, photo, other_model):
    with pytest.warns(HyperThumbWarning, match="loss of quality") as caught:
        decoded = decode(data, model=other_model, any_model=True)
    assert decoded.shape == photo.shape
    assert [w.filename for w in caught] == [__file__]


def test_weights_of_the_other_scale_are_refused(photo, data, models):
    with pytest.raises(ModelError, match="for scale 4, not 2"):
        decode(data, model=models[4], any_model=True)
    with pytest.raises(ModelError, match="for scale 4, not 2") as error:
        encode(photo, scale=2, model=models[4])
    assert len(str(error.value)) < 200


def test_unknown_weights_of_a_file_are_refused_by_default(data):
    with pytest.raises(ModelError, match="tiny-x2"):
        decode(data)


def test_file_finds_its_weights_among_the_bundled_ones(data, photo, as_bundled, models):
    assert np.array_equal(decode(data), decode(data, model=models[2]))


def test_models_are_given_by_file_or_object(photo, model_paths, models):
    expected = encode(photo, model=models[2]).data
    for model in (model_paths[2], str(model_paths[2]), load_model(model_paths[2])):
        assert encode(photo, model=model).data == expected
        assert decode(expected, model=model).shape == photo.shape


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", "", "cpu:x"])
def test_missing_devices_are_device_errors(photo, model, name):
    with pytest.raises(DeviceError, match="device"):
        encode(photo, device=name, model=model)


def test_cpu_is_always_there():
    assert pick_device("cpu") == CPU
    assert pick_device("auto").type in ("cpu", "cuda", "mps")


# ---- what other programs do to the file -------------------------------------------------------


def test_stripped_metadata_is_told_apart_and_decodes_with_a_given_scale(data, photo, models):
    stripped = without_metadata(data)
    for function in (info, lambda source: decode(source, model=models[2])):
        with pytest.raises(NotAThumbnailError, match="scale=2"):
            function(stripped)
    with pytest.warns(HyperThumbWarning, match="metadata is missing") as caught:
        decoded = decode(stripped, scale=2, model=models[2])
    assert [w.filename for w in caught] == [__file__]
    assert np.array_equal(decoded, decode(data, model=models[2]))


def test_stripped_odd_sizes_come_back_rounded_up(models):
    stripped = without_metadata(encode(make_photo(31, 41), model=models[4]).data)
    with pytest.warns(HyperThumbWarning):
        assert decode(stripped, scale=4, model=models[4]).shape == (32, 44, 3)


@pytest.mark.parametrize("scale", [3, 0, "2"])
def test_stripped_file_needs_a_scale_there_is(data, models, scale):
    with pytest.raises(RateError, match="scale must be 2 or 4"):
        decode(without_metadata(data), scale=scale, model=models[2])


def test_given_scale_must_be_that_of_the_file(data, models):
    assert decode(data, scale=2, model=models[2]).shape == (96, 130, 3)
    with pytest.raises(RateError, match="coded at scale 2, not 4"):
        decode(data, scale=4, model=models[4])


@pytest.mark.filterwarnings("ignore::napari_hyperthumb.errors.HyperThumbWarning")
@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("gray", [False, True])
def test_little_is_lost_by_saving_again_with_finer_steps(scale, gray):
    photo = make_photo(96, 128)
    photo = photo[..., 0] if gray else photo
    thumbnail = encode(photo, level=-0.5, scale=scale)
    again = decode(saved_again(thumbnail.data, quality=97))
    assert psnr(photo, again) > psnr(photo, decode(thumbnail.data)) - 1.5


@pytest.mark.filterwarnings("ignore::napari_hyperthumb.errors.HyperThumbWarning")
def test_little_is_lost_with_the_metadata():
    thumbnail = encode(make_photo(96, 128), level=0.9, scale=2)
    stripped = decode(without_metadata(thumbnail.data), scale=2)
    assert psnr(decode(thumbnail.data), stripped) > 42


def test_file_saved_again_decodes_with_a_warning(data, photo, models):
    again = saved_again(data, quality=90)
    with pytest.warns(HyperThumbWarning, match="saved again"):
        decoded = decode(again, model=models[2])
    assert psnr(photo, decoded) > 22
    assert "saved again" in info(again).lost[0]


def test_resized_file_decodes_at_its_own_size_with_a_warning(data, models):
    tables = read_jpeg(data).tables.tolist()
    small = saved_again(data, size=(40, 30), qtables=tables)
    with pytest.warns(HyperThumbWarning, match="65x48 to 40x30"):
        assert decode(small, model=models[2]).shape == (60, 80, 3)
    assert info(small).shape == (60, 80)


def test_untouched_file_decodes_without_any_warning(data, models, recwarn):
    decode(data, model=models[2])
    assert not recwarn.list


# ---- the package ------------------------------------------------------------------------------


def test_public_names_are_these():
    assert napari_hyperthumb.__all__ == [
        "Channel",
        "Cost",
        "DependencyError",
        "DeviceError",
        "HyperThumbError",
        "HyperThumbWarning",
        "ImageError",
        "Info",
        "ModelError",
        "NotAThumbnailError",
        "Percentile",
        "RateError",
        "Stack",
        "Thumbnail",
        "ThumbnailError",
        "TrainingError",
        "decode",
        "encode",
        "encode_stack",
        "explore",
        "info",
        "load_model",
        "open_stack",
    ]
    assert dir(napari_hyperthumb) == napari_hyperthumb.__all__
    for name in napari_hyperthumb.__all__:
        assert getattr(napari_hyperthumb, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'compress'"):
        _ = napari_hyperthumb.compress


def test_every_error_is_a_hyperthumb_error_and_a_value_error():
    for name in napari_hyperthumb.__all__:
        if name.endswith("Error"):
            assert issubclass(getattr(napari_hyperthumb, name), HyperThumbError)
    assert issubclass(HyperThumbError, ValueError)
    assert issubclass(NotAThumbnailError, ThumbnailError)


def loaded_by(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after running code."""
    script = f"import sys; {code}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


DESKTOP = {"napari", "qtpy", "PyQt5", "PyQt6", "PySide6", "ipywidgets", "anywidget", "matplotlib", "magicgui"}


def test_import_loads_neither_torch_nor_numpy_nor_a_user_interface():
    assert not loaded_by("import napari_hyperthumb") & ({"torch", "numpy", "PIL"} | DESKTOP)


def test_codec_loads_no_user_interface_and_no_optional_package():
    loaded = loaded_by("from napari_hyperthumb import encode, decode")
    assert "torch" in loaded
    assert not loaded & (DESKTOP | {"torchjpeg", "compressai", "skimage", "dask", "zarr", "typer", "yaml"})
