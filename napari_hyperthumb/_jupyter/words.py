"""The explorer's captions and numbers."""

from __future__ import annotations

import html
from dataclasses import dataclass

from .. import texts
from ..compare import own_name
from ..device import describe_device
from ..metrics import bpp
from ..texts import decibels, human_seconds
from .engine import ERROR, THUMBNAIL, Update


@dataclass(frozen=True)
class Cell:
    """One number with its name; `note` explains it on hovering."""

    name: str
    value: str
    note: str = ""


def error_text(error: Exception) -> str:
    """What to tell the user of an error."""
    return texts.error_text(error, no_memory="Not enough memory for this: choose a smaller crop")


def caption(update: Update) -> str:
    """What lies right of the swipe line."""
    step = update.step
    name = own_name(step.thumbnail.scale)
    if update.wanted.right == ERROR:
        return f"Absolute error of {name}"
    if update.wanted.right == THUMBNAIL:
        height, width = step.thumbnail.lr.shape[:2]
        return f"Thumbnail, {width}×{height}, at its true size"
    if update.rival is not None:
        more = ", its smallest file" if update.rival.exceeds else ""
        return f"{update.rival.name}, {decibels(update.rival.psnr)}, {update.rival.nbytes:,} bytes{more}"
    return f"{name}, {decibels(step.psnr)}"


def cells(update: Update) -> list[Cell]:
    """The numbers of an update, in the order to show them."""
    step, thumbnail = update.step, update.step.thumbnail
    height, width = thumbnail.shape[:2]
    lr = (-(-height // thumbnail.scale), -(-width // thumbnail.scale))
    found = [
        Cell("File", f"{thumbnail.nbytes:,} bytes", "The whole JPEG, its header and metadata included"),
        Cell("Rate", f"{thumbnail.bpp:.3f} bpp", "Bits of the whole file per pixel of the original"),
        Cell("PSNR", decibels(step.psnr), "Over all samples, against the value range"),
        Cell("SSIM", "…" if update.ssim is None else f"{update.ssim:.4f}", "Mean over channels"),
        Cell("Level", f"{thumbnail.level:+.2f} at scale {thumbnail.scale}", "What the networks are told"),
        Cell("Thumbnail", f"{lr[1]}×{lr[0]}", f"What any viewer shows of these {width}×{height} pixels"),
        Cell(
            "Time",
            f"{human_seconds(step.encode_s)} + {human_seconds(step.decode_s)}",
            "Encoding, with the image's features kept from the step before, and decoding",
        ),
        Cell("Device", describe_device(update.explored.session.device), "Where the networks run"),
    ]
    if update.rival is not None:
        rival = update.rival
        rate = bpp(rival.nbytes, thumbnail.shape)
        text = f"{decibels(rival.psnr)} at {rate:.3f} bpp"
        found.append(Cell(rival.name, text, "Its highest quality with no more bytes than ours"))
    return found


def numbers_html(update: Update) -> str:
    """The same as a grid for the page."""
    boxes = (
        f'<div class="ht-cell" title="{html.escape(cell.note)}"><span>{html.escape(cell.name)}</span>'
        f"<b>{html.escape(cell.value)}</b></div>"
        for cell in cells(update)
    )
    return f'<div class="ht-numbers">{"".join(boxes)}</div>'
