"""Coefficients, tables and metadata to JPEG bytes and back, and what other programs do to the file."""

from __future__ import annotations

import io
import subprocess
import sys
import types

import mozjpeg_lossless_optimization as mozjpeg
import numpy as np
import pytest
import torch
from jpeg_bytes import find, segments, with_size, without_metadata
from PIL import Image

from napari_hyperthumb import bitstream
from napari_hyperthumb.bitstream import MAX_SIDE, Metadata, read_frame, read_jpeg, write_jpeg
from napari_hyperthumb.errors import DependencyError, ImageError, ThumbnailError
from napari_hyperthumb.jpeg import dequantise, idct_8x8
from napari_hyperthumb.pixels import Format

SIZES = [(1, 1), (8, 8), (9, 17), (40, 56), (530, 9)]  # the last: more than one strip
META = Metadata(2, (80, 112), "tiny-x2", "0123456789abcdef", Format())


def random_tables(channels: int = 3) -> np.ndarray:
    """Steps of 9 and more: rounding samples to 8 bits can't move a coefficient to another one."""
    tables = np.random.default_rng(1).integers(9, 60, (2, 64))
    return tables if channels == 3 else tables[[0, 0]]


def random_coefficients(size: tuple[int, int], channels: int, tables: np.ndarray) -> torch.Tensor:
    """Sparse coefficients whose planes stay within 0 .. 255: (channels, 64, h, w)."""
    h, w = (-(-side // 8) for side in size)
    quantised = (torch.randn(channels, 64, h, w) * (torch.rand(channels, 64, h, w) < 0.1)).round()
    planes = idct_8x8(dequantise(quantised[None], torch.from_numpy(tables).float()[None]))[0]
    inside = (planes.abs() < 127).unfold(1, 8, 8).unfold(2, 8, 8).flatten(3).all(3)
    quantised *= inside[:, None]
    quantised[0, 0, 0, 0] = 3
    return quantised


def saved_again(data: bytes, **options: object) -> bytes:
    """The file opened and saved by Pillow, which keeps comments."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.fixture
def sample() -> tuple[torch.Tensor, np.ndarray, bytes]:
    """Coefficients, tables, and the file of them: 40x56 pixels in colour."""
    tables = random_tables()
    quantised = random_coefficients((40, 56), 3, tables)
    return quantised, tables, write_jpeg(quantised, tables, (40, 56), META)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_coefficients_tables_and_size_come_back_exactly(size, channels):
    tables = random_tables(channels)
    quantised = random_coefficients(size, channels, tables)
    contents = read_jpeg(write_jpeg(quantised, tables, size))
    assert torch.equal(contents.quantised.float(), quantised)
    assert np.array_equal(contents.tables, tables)
    assert contents.size == size
    assert contents.metadata is None
    assert contents.lost == ()


def test_nearly_all_coefficients_come_back_from_the_finest_useful_tables():
    tables = np.full((2, 64), 3, np.int64)
    quantised = random_coefficients((64, 64), 3, tables)
    contents = read_jpeg(write_jpeg(quantised, tables, (64, 64)))
    assert (contents.quantised != quantised).float().mean() < 0.002


def test_planes_beyond_8_bits_are_clipped_and_still_give_a_readable_file():
    tables = np.full((2, 64), 255, np.int64)
    quantised = torch.zeros(3, 64, 2, 2)
    quantised[:, :8] = 8
    contents = read_jpeg(write_jpeg(quantised, tables, (16, 16)))
    assert contents.quantised.isfinite().all()
    assert contents.quantised.abs().max() <= 8


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_pillow_shows_the_inverse_dct_at_the_right_size(size, channels):
    tables = random_tables(channels)
    quantised = random_coefficients(size, channels, tables)
    planes = idct_8x8(dequantise(quantised[None], torch.from_numpy(tables).float()[None]))[0] + 128
    with Image.open(io.BytesIO(write_jpeg(quantised, tables, size, META))) as image:
        assert image.mode == ("RGB" if channels == 3 else "L")
        assert image.size == size[::-1]
        if channels == 3:
            image.draft("YCbCr", image.size)
        shown = np.asarray(image).reshape(*size, channels).astype(float)
    expected = planes[:, : size[0], : size[1]].permute(1, 2, 0).numpy()
    assert abs(shown - expected).max() <= 1.01


def test_file_has_two_tables_and_no_chroma_subsampling(sample):
    _, tables, data = sample
    assert read_frame(data).sampling == ((1, 1),) * 3
    with Image.open(io.BytesIO(data)) as image:
        assert {key: list(value) for key, value in image.quantization.items()} == {
            0: tables[0].tolist(),
            1: tables[1].tolist(),
        }


@pytest.mark.parametrize(
    "fmt",
    [
        Format(),
        Format("uint8", (3.0, 200.0)),
        Format("uint16", (0.0, 65535.0)),
        Format("int32", (-(2.0**31), 2.0**31 - 1)),
        Format("float32", (-0.1, 1 / 3)),
        Format("float64", (-1.7e308, 5e-324)),
    ],
)
@pytest.mark.parametrize("gray", [False, True])
def test_metadata_comes_back_exactly(fmt, gray):
    channels = 1 if gray else 3
    tables = random_tables(channels)
    fmt = Format(fmt.dtype, fmt.range, gray)
    metadata = Metadata(4, (33, 65), "My.model_v-2", "fedcba9876543210", fmt)
    quantised = random_coefficients((9, 17), channels, tables)
    contents = read_jpeg(write_jpeg(quantised, tables, (9, 17), metadata))
    assert contents.metadata == metadata
    assert contents.lost == ()


def test_metadata_is_a_comment_that_pillow_shows(sample):
    _, tables, data = sample
    with Image.open(io.BytesIO(data)) as image:
        assert image.info["comment"].decode() == f"HyperThumb {META.to_text(tables)}"


def test_metadata_costs_less_than_70_bytes(sample):
    quantised, tables, data = sample
    assert len(data) - len(write_jpeg(quantised, tables, (40, 56))) < 70


def test_metadata_of_version_1_stood_in_an_xmp_packet(sample):
    _, tables, data = sample
    words = META.to_text(tables).replace("2", "1", 1).encode()
    packet = (
        b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        b'xmlns:ht="urn:hyperthumb:1" ht:Thumbnail="' + words + b'"/></rdf:RDF>'
    )
    body = b"http://ns.adobe.com/xap/1.0/\0" + packet
    segment = b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body
    start, stop = find(data, 0xFE)
    assert read_jpeg(data[:start] + segment + data[stop:]).metadata == META


def test_stripped_metadata_leaves_the_coefficients(sample):
    quantised, tables, data = sample
    contents = read_jpeg(without_metadata(data))
    assert contents.metadata is None
    assert torch.equal(contents.quantised.float(), quantised)
    assert np.array_equal(contents.tables, tables)
    assert contents.size == (40, 56)


def test_file_saved_again_with_other_tables_says_so(sample):
    contents = read_jpeg(saved_again(sample[2], quality=40, subsampling=0))
    assert contents.metadata == META
    (lost,) = contents.lost
    assert "saved again" in lost


def test_file_saved_again_with_the_same_tables_isnt_lost(sample):
    data = saved_again(sample[2], qtables=sample[1].tolist(), subsampling=0)
    assert read_jpeg(data).lost == ()


@pytest.mark.parametrize("subsampling", [1, 2])
def test_subsampled_colour_is_reported_and_still_read(subsampling, sample):
    quantised, tables, data = sample
    data = saved_again(data, qtables=tables.tolist(), subsampling=subsampling)
    contents = read_jpeg(data)
    (lost,) = contents.lost
    assert "subsampled" in lost
    assert contents.quantised.shape == quantised.shape
    # Through RGB and back: samples are rounded, but luma isn't thrown away.
    assert (contents.quantised[0] == quantised[0]).float().mean() > 0.95


def test_resized_file_says_from_what_to_what(sample):
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(sample[2])) as image:
        tables = sample[1].tolist()
        small = image.resize((28, 20))
        small.save(buffer, "JPEG", qtables=tables, subsampling=0)
    (lost,) = read_jpeg(buffer.getvalue()).lost
    assert "56x40" in lost and "28x20" in lost


def test_progressive_baseline_and_mozjpeg_files_hold_the_same_coefficients(monkeypatch):
    tables = random_tables()
    quantised = random_coefficients((64, 80), 3, tables)
    with monkeypatch.context() as patch:
        patch.setattr(bitstream, "_smaller", lambda data: data)
        baseline = write_jpeg(quantised, tables, (64, 80), META)
    progressive = mozjpeg.optimize(baseline, copy=mozjpeg.COPY_MARKERS.ALL)
    assert not read_frame(baseline).progressive
    assert read_frame(progressive).progressive
    for data in (baseline, progressive):
        contents = read_jpeg(data)
        assert torch.equal(contents.quantised.float(), quantised)
        assert np.array_equal(contents.tables, tables)
        assert contents.metadata == META


def test_smaller_of_baseline_and_progressive_is_written(monkeypatch):
    tables = random_tables()
    for size in ((8, 8), (160, 160)):
        quantised = random_coefficients(size, 3, tables)
        written = write_jpeg(quantised, tables, size)
        with monkeypatch.context() as patch:
            patch.setattr(bitstream, "_smaller", lambda data: data)
            baseline = write_jpeg(quantised, tables, size)
        assert len(written) == min(len(baseline), len(mozjpeg.optimize(baseline)))


def test_same_input_gives_the_same_bytes(sample):
    quantised, tables, data = sample
    assert write_jpeg(quantised.clone(), tables.copy(), (40, 56), META) == data


def test_writing_doesnt_change_its_input(sample):
    quantised, tables, _ = sample
    before = quantised.clone(), tables.copy()
    write_jpeg(quantised, tables, (40, 56))
    assert torch.equal(quantised, before[0])
    assert np.array_equal(tables, before[1])


@pytest.mark.parametrize("size", [(MAX_SIDE + 1, 8), (8, MAX_SIDE + 1)])
def test_sides_beyond_jpegs_limit_are_refused_with_the_numbers(size):
    with pytest.raises(ImageError, match=str(MAX_SIDE + 1)) as error:
        write_jpeg(torch.zeros(1, 64, 1, 1), random_tables(1), size)
    assert f"at most {MAX_SIDE}" in str(error.value)


@pytest.mark.parametrize("transposed", [False, True])
def test_the_longest_side_there_is_can_be_written_and_read(transposed):
    blocks = -(-MAX_SIDE // 8)
    quantised = torch.zeros(1, 64, 1, blocks)
    size = (1, MAX_SIDE)
    if transposed:
        quantised, size = quantised.transpose(2, 3), size[::-1]
    assert read_jpeg(write_jpeg(quantised, random_tables(1), size)).size == size


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b" 2 2 ", b" 3 2 ", "version 3"),
        (b" 2 2 ", b" 2 3 ", "damaged"),
        (b" 112x80 ", b" 0x80 ", "damaged"),
        (b" 112x80 ", b" 112x9999999 ", "damaged"),
        (b" 112x80 ", b" 112 80 ", "damaged"),
        (b"0123456789abcdef", b"0123456789abcdeg", "damaged"),
        (b"tiny-x2", b"tiny/x2", "damaged"),
    ],
)
def test_damaged_metadata_is_an_error_that_shows_it(sample, old, new, message):
    data = sample[2]
    start, stop = find(data, 0xFE)
    body = data[start + 4 : stop]
    assert body.count(old) == 1
    body = body.replace(old, new)
    data = data[: start + 2] + (len(body) + 2).to_bytes(2, "big") + body + data[stop:]
    with pytest.raises(ThumbnailError, match=message):
        read_jpeg(data)


@pytest.mark.parametrize(
    "tail", ["uint64 0.0 1.0", "float32 nan 1.0", "float32 0.0 1e999", "float32 2.0 1.0", "uint8 0.0"]
)
def test_made_up_formats_are_refused(sample, tail, monkeypatch):
    quantised, tables, _ = sample
    text = META.to_text(tables)
    monkeypatch.setattr(Metadata, "to_text", lambda self, tables: f"{text} {tail}")
    data = write_jpeg(quantised, tables, (40, 56), META)
    with pytest.raises(ThumbnailError, match="damaged"):
        read_jpeg(data)


def test_fill_bytes_between_segments_are_skipped(sample):
    data = sample[2]
    _, start, _ = list(segments(data))[1]
    assert torch.equal(read_jpeg(data[:start] + b"\xff\xff" + data[start:]).quantised.float(), sample[0])


def test_frame_of_the_thumbnail_size_is_what_other_programs_see(sample):
    data = sample[2]
    assert (read_frame(data).height, read_frame(data).width) == (40, 56)
    assert read_frame(with_size(data, 39, 51)).padded == (40, 56)


def test_missing_torchjpeg_names_the_extra(sample, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchjpeg", None)
    with pytest.raises(DependencyError, match=r"napari-hyperthumb\[reference\]"):
        read_jpeg(sample[2], backend="torchjpeg")


# ---- torchjpeg, where it is installed ---------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_torchjpeg_reads_what_pillow_wrote(channels):
    pytest.importorskip("torchjpeg.codec")
    tables = random_tables(channels)
    quantised = random_coefficients((40, 56), channels, tables)
    contents = read_jpeg(write_jpeg(quantised, tables, (40, 56), META), backend="torchjpeg")
    assert torch.equal(contents.quantised.float(), quantised)
    assert np.array_equal(contents.tables, tables)


@pytest.mark.parametrize("channels", [1, 3])
def test_pillow_reads_what_torchjpeg_wrote(channels):
    pytest.importorskip("torchjpeg.codec")
    tables = random_tables(channels)
    quantised = random_coefficients((40, 56), channels, tables)
    metadata = Metadata(2, (80, 112), "tiny-x2", "0123456789abcdef", Format(gray=channels == 1))
    contents = read_jpeg(write_jpeg(quantised, tables, (40, 56), metadata, backend="torchjpeg"))
    assert torch.equal(contents.quantised.float(), quantised)
    assert contents.metadata == metadata


def test_torchjpeg_without_metadata_writes_none():
    pytest.importorskip("torchjpeg.codec")
    tables = random_tables()
    data = write_jpeg(random_coefficients((8, 8), 3, tables), tables, (8, 8), backend="torchjpeg")
    assert 0xE1 not in [marker for marker, _, _ in segments(data)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (9, 17), (40, 56)])
def test_torchjpeg_and_pillow_give_the_same_coefficients_tables_and_sizes(channels, size):
    pytest.importorskip("torchjpeg.codec")
    tables = random_tables(channels)
    quantised = random_coefficients(size, channels, tables)
    found = []
    for writer in bitstream.BACKENDS:
        data = write_jpeg(quantised, tables, size, META, backend=writer)
        found += [read_jpeg(data, backend=reader) for reader in bitstream.BACKENDS]
    h, w = (-(-side // 8) for side in size)
    for contents in found:
        assert contents.size == size
        assert contents.quantised.shape == (channels, 64, h, w)
        assert torch.equal(contents.quantised.float(), quantised)
        assert np.array_equal(contents.tables, tables)


@pytest.fixture
def unreached(monkeypatch):
    """A torchjpeg that fails the test when a file gets as far as to it."""

    def read_coefficients(path):
        pytest.fail("a file reached torchjpeg unchecked")

    codec = types.SimpleNamespace(read_coefficients=read_coefficients)
    monkeypatch.setattr(bitstream, "_torchjpeg", lambda: codec)


def test_whole_files_do_reach_torchjpeg(sample, unreached):
    with pytest.raises(pytest.fail.Exception, match="reached torchjpeg"):
        read_jpeg(sample[2], backend="torchjpeg")


def test_crafted_files_never_reach_torchjpeg(sample, unreached):
    """It ends the process on them. Every cut of a good file, and every kind of damage to its headers."""
    data = sample[2]
    frame = read_frame(data)
    crafted = [data[:end] for end in range(0, len(data) - 2, 7)]
    crafted += [with_size(data, 65_500, 65_500), with_size(data, 0, 8), b"", b"\xff\xd8" * 40]
    for start in range(2, frame.offset + 40):
        crafted.append(data[:start] + bytes([data[start] ^ 0xFF]) + data[start + 1 :])
    refused = 0
    for bad in crafted:
        try:
            read_jpeg(bad, backend="torchjpeg")
        except ThumbnailError:
            refused += 1
        except pytest.fail.Exception:  # Pillow decodes it to the end: so does libjpeg there
            bitstream._read_planes(bad, read_frame(bad))
    assert refused > len(data) // 7


def test_torchjpeg_survives_what_pillow_decodes_from_damaged_files(sample, tmp_path):
    """In a process of its own, which must end well: flipped bits all through a good file."""
    pytest.importorskip("torchjpeg.codec")
    data = sample[2]
    (tmp_path / "good.jpg").write_bytes(data)
    program = (
        "import pathlib, sys, warnings\n"
        "from napari_hyperthumb.bitstream import read_jpeg\n"
        "from napari_hyperthumb.errors import HyperThumbError\n"
        "data = pathlib.Path(sys.argv[1]).read_bytes()\n"
        "done = refused = 0\n"
        "for at in range(2, len(data)):\n"
        "    bad = data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :]\n"
        "    try:\n"
        "        read_jpeg(bad, backend='torchjpeg')\n"
        "        done += 1\n"
        "    except HyperThumbError:\n"
        "        refused += 1\n"
        "print(done, refused)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "good.jpg")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, f"{ended.returncode}: {ended.stderr[-500:]}"
    done, refused = map(int, ended.stdout.split()[-2:])
    assert done > 0 and refused > 0
