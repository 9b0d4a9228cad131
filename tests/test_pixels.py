"""Which arrays can be coded, and how their values map to codec levels and back."""

from __future__ import annotations

import numpy as np
import pytest

from napari_hyperthumb.errors import ImageError
from napari_hyperthumb.pixels import (
    DTYPES,
    Format,
    check_image,
    eight_bit,
    from_levels,
    to_levels,
    unit_scale,
)


def full_range(dtype: np.dtype) -> np.ndarray:
    """(5, 7) values from the least to the greatest that the dtype has."""
    limits = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    halves = np.linspace(-1, 1, 35) if limits.min < 0 else np.linspace(0, 1, 35)
    values = halves * float(limits.max)
    values[0], values[-1] = float(limits.min), float(limits.max)
    if dtype.kind in "iu":
        values = [int(v) for v in np.rint(values)]
    return np.array(values).astype(dtype).reshape(5, 7)


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_full_range_of_every_dtype_maps_to_0_255_and_back(name):
    image = full_range(np.dtype(name))
    array, fmt = check_image(image)
    assert fmt == Format(name, (float(image.min()), float(image.max())), True)
    levels = to_levels(array, fmt)
    assert levels.dtype == np.float32
    assert levels.shape == (5, 7, 1)
    assert levels.min() == 0
    assert levels.max() == pytest.approx(255, rel=1e-6)
    back = from_levels(levels, fmt)
    assert back.dtype == image.dtype
    assert back.shape == image.shape
    step = 1e-5 * 255 * unit_scale(fmt)
    for ours, theirs in zip(back.flat, image.flat, strict=True):
        assert abs(float(ours) / 2 - float(theirs) / 2) <= step


def test_16_bit_values_survive_the_levels():
    image = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
    array, fmt = check_image(image)
    back = from_levels(to_levels(array, fmt), fmt)
    assert abs(back.astype(int) - image).max() <= 1


def test_uint8_is_passed_through_whatever_its_own_minimum_and_maximum():
    image = np.array([[7, 9], [11, 200]], np.uint8)
    array, fmt = check_image(image)
    assert fmt.range == (0.0, 255.0)
    assert np.array_equal(to_levels(array, fmt)[..., 0], image.astype(np.float32))


def test_values_outside_of_the_range_are_clipped():
    image = np.array([[-5.0, 0.0, 1.0, 99.0]], np.float32)
    array, fmt = check_image(image, value_range=(0, 1))
    assert fmt.range == (0.0, 1.0)
    assert to_levels(array, fmt).ravel().tolist() == [0, 0, 255, 255]
    wild = np.array([[[-50.0], [300.0]]], np.float32)
    assert from_levels(wild, fmt).tolist() == [[0, 1]]


def test_value_range_wider_than_the_dtype_never_leaves_it():
    _, fmt = check_image(np.zeros((1, 2), np.uint16), value_range=(-1e6, 1e6))
    wild = np.array([[[0.0], [255.0]]], np.float32)
    assert from_levels(wild, fmt).tolist() == [[0, 65535]]


def test_8_bit_range_of_its_own_is_kept():
    image = np.array([[50, 60], [70, 100]], np.uint8)
    array, fmt = check_image(image, value_range=(50, 100))
    levels = to_levels(array, fmt)
    assert levels.min() == 0 and levels.max() == 255
    assert np.array_equal(from_levels(levels, fmt), image)


@pytest.mark.parametrize("value", [-3, 0, 41_000])
@pytest.mark.parametrize("dtype", ["int32", "float64"])
def test_constant_images_come_back_as_they_were(dtype, value):
    image = np.full((3, 4), value, dtype)
    array, fmt = check_image(image)
    levels = to_levels(array, fmt)
    assert np.isfinite(levels).all()
    assert np.array_equal(from_levels(levels, fmt), image)
    noisy = levels + np.float32(3.0)
    assert np.array_equal(from_levels(noisy, fmt), image)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_smallest_float_steps_dont_overflow(dtype):
    least = np.finfo(dtype).smallest_subnormal
    image = np.array([[0, least], [least, 0]], dtype)
    array, fmt = check_image(image)
    back = from_levels(to_levels(array, fmt), fmt)
    assert back.dtype == dtype
    assert ((back >= 0) & (back <= least)).all()


def test_byte_order_doesnt_matter():
    native = np.array([[1, 500], [40_000, 3]], np.uint16)
    for order in "<>":
        array, fmt = check_image(native.astype(f"{order}u2"))
        assert fmt.dtype == "uint16"
        assert np.array_equal(from_levels(to_levels(array, fmt), fmt), native)


def test_non_contiguous_views_are_read_as_they_look():
    image = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)[::-1, ::2]
    array, fmt = check_image(image)
    assert np.array_equal(to_levels(array, fmt), image.astype(np.float32))


@pytest.mark.parametrize(("shape", "coded"), [((4, 5), (4, 5)), ((4, 5, 1), (4, 5)), ((4, 5, 3), (4, 5, 3))])
def test_accepted_shapes(shape, coded):
    array, fmt = check_image(np.zeros(shape, np.uint8))
    assert array.shape == coded
    assert fmt.gray == (len(coded) == 2)


@pytest.mark.parametrize("shape", [(), (5,), (4, 5, 6), (2, 4, 5, 3), (4, 5, 5), (0, 5), (5, 0, 3)])
def test_other_shapes_are_refused_with_the_shape_in_the_message(shape):
    with pytest.raises(ImageError, match="shape") as error:
        check_image(np.zeros(shape, np.uint8))
    assert str(shape).strip("()").rstrip(",") in str(error.value)


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_refused_unless_told_to_drop_it(channels):
    image = np.random.default_rng(0).integers(0, 256, (3, 4, channels), dtype=np.uint8)
    with pytest.raises(ImageError, match=r'alpha="drop"'):
        check_image(image)
    array, _ = check_image(image, alpha="drop")
    assert np.array_equal(array, image[..., :3] if channels == 4 else image[..., 0])


def test_dropped_alpha_doesnt_count_for_the_range():
    image = np.zeros((2, 2, 4), np.uint16)
    image[..., 3] = 65_535
    image[0, 0, 0] = 10
    _, fmt = check_image(image, alpha="drop")
    assert fmt.range == (0.0, 10.0)


def test_unknown_alpha_choice_is_an_error():
    with pytest.raises(ImageError, match="keep"):
        check_image(np.zeros((2, 2), np.uint8), alpha="keep")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_nan_and_infinite_values_are_counted_in_the_message(dtype, bad):
    image = np.ones((4, 5), dtype)
    image[0, :3] = bad
    with pytest.raises(ImageError, match=r"\b3 NaN or infinite"):
        check_image(image)


def test_boolean_images_are_refused_because_masks_must_not_be_lossy():
    with pytest.raises(ImageError, match="boolean"):
        check_image(np.zeros((4, 4), bool))


@pytest.mark.parametrize("dtype", ["complex64", "int64", "uint64", "datetime64[s]", "U3", "O", "V4"])
def test_other_dtypes_are_refused_by_name(dtype):
    with pytest.raises(ImageError, match="can't be coded") as error:
        check_image(np.zeros((4, 4), dtype))
    assert str(np.dtype(dtype)) in str(error.value)


@pytest.mark.parametrize("thing", [None, "picture.png", [[1, 2], [3]], {"a": 1}, object()])
def test_things_that_arent_arrays_are_refused(thing):
    with pytest.raises(ImageError):
        check_image(thing)


def test_nested_lists_of_floats_are_arrays():
    array, fmt = check_image([[0.0, 1.0], [2.0, 4.0]])
    assert array.shape == (2, 2)
    assert fmt == Format("float64", (0.0, 4.0), True)


@pytest.mark.parametrize(
    "value_range", [(1, 0), (np.nan, 1), (0, np.inf), (-np.inf, np.inf), (1,), "ab", (None, 1)]
)
def test_impossible_value_ranges_are_refused(value_range):
    with pytest.raises(ImageError, match="value_range"):
        check_image(np.zeros((2, 2), np.float32), value_range=value_range)


def test_checking_an_image_doesnt_copy_it():
    image = np.zeros((4, 4, 3), np.float32)
    array, _ = check_image(image)
    assert np.shares_memory(array, image)


def test_eight_bit_maps_the_range_of_any_dtype():
    gray = np.array([[0, 10, 20]], np.uint16)
    assert eight_bit(gray).tolist() == [[0, 128, 255]]
    colour = np.array([[[0, 10, 20, 99]]], np.uint8)
    assert eight_bit(colour).tolist() == [[[0, 10, 20]]]
    assert eight_bit(colour).dtype == np.uint8
