"""The explorer: controls and views put together, and the traffic between them and the engine."""

from __future__ import annotations

import html
import math
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from IPython.display import display

from ..files import read_image, write_atomically, write_image
from ..plots import OURS, RIVALS
from ..session import Region, Step, as_eight_bit, choose
from .engine import EFFORTS, ERROR, THUMBNAIL, Engine, Update, Wanted
from .latest import Latest
from .pictures import ERROR_SPAN, bmp, overview, png, right_pixels, static_sheet
from .views import CropView, CurvesView, SwipeView, TablesView
from .words import caption, error_text, numbers_html

PAUSE = 1.0
"""Seconds without a new request after which the picture that a saved notebook keeps is drawn."""
MAGMA = ("#000004", "#3b0f70", "#8c2981", "#de4968", "#fe9f6d", "#fcfdbf")
Save = Callable[[Update], str]
"""Writes something and says what."""


class Explorer:
    """One image at any rate: a panel to drag in, made by `explore`.

    Every control is also an attribute: ``explorer.bpp = 0.2; explorer.wait(); explorer.step.psnr``.
    """

    def __init__(self, engine: Engine, *, bpp: float = 0.3, scale: int | None = None) -> None:
        self._engine = engine
        self._worker: Latest[Wanted, Update] = Latest(self._work, self._show, self._failed)
        self._saver: Latest[Save, str] = Latest(self._save, self._note, self._failed)
        self._update: Update | None = None
        self._static: Any = None
        self._drawing = threading.Lock()
        self._quiet = False
        first = engine.first(bpp=bpp, scale=scale)
        self._region: Region = first.region
        self._controls(first)
        self.panel = self._layout()
        # The first picture belongs to the cell: what fails here is its error, not a line in the panel.
        for update in engine.run(first):
            self._show(update)
            if update.settled:
                break
        engine.check, engine.rest = self._worker.check, self._worker.pause
        self._submit()

    # ---- what a program may ask ---------------------------------------------------------------

    @property
    def bpp(self) -> float:
        """Bits per pixel that are wanted; assign to go there."""
        return float(self.slider.value)

    @bpp.setter
    def bpp(self, value: float) -> None:
        self.slider.value = min(max(value, 10**self.slider.min), 10**self.slider.max)

    @property
    def scale(self) -> int | None:
        """2, 4, or None for the better one at the rate."""
        value: int | None = self.scale_buttons.value or None
        return value

    @scale.setter
    def scale(self, value: int | None) -> None:
        self.scale_buttons.value = value or 0

    @property
    def effort(self) -> str:
        """ "fast" or "best"."""
        return str(self.effort_buttons.value)

    @effort.setter
    def effort(self, value: str) -> None:
        self.effort_buttons.value = value

    @property
    def right(self) -> str:
        """What lies right of the line: "reconstruction", "error map", "thumbnail", or a codec's name."""
        return str(self.right_box.value)

    @right.setter
    def right(self, value: str) -> None:
        self.right_box.value = value

    @property
    def region(self) -> Region:
        """The part that is explored, ((top, bottom), (left, right))."""
        return self._region

    def go(self, row: float, column: float) -> None:
        """Explore the part with its centre about there."""
        self._region = self._engine.region_at(row, column)
        self._submit()

    @property
    def update(self) -> Update:
        """Everything about what is on screen."""
        assert self._update is not None
        return self._update

    @property
    def step(self) -> Step:
        """The coding on screen: its thumbnail, what that decodes to, PSNR."""
        return self.update.step

    def wait(self, seconds: float | None = None) -> bool:
        """Until everything asked for is on screen; whether that came in time."""
        return self._worker.wait(seconds)

    def save(self, what: str = "thumbnail") -> None:
        """Write "thumbnail", "reconstruction" or "sheet" as the buttons do, and wait until it is done."""
        self._saver.submit(self._saves[what])
        self._saver.wait()

    # ---- controls ----------------------------------------------------------------------------

    def _controls(self, first: Wanted) -> None:
        layout = widgets.Layout
        low, high = self._engine.now.range(first.scale)
        self.slider = widgets.FloatLogSlider(
            value=first.bpp, base=10, min=math.log10(low), max=math.log10(high), step=0.005,
            description="Bits per pixel", readout_format=".3f", continuous_update=True,
            style={"description_width": "initial"}, layout=layout(flex="1 1 300px", min_width="260px"),
        )  # fmt: skip
        scales = [("auto", 0), *((f"×{scale}", scale) for scale in self._engine.scales)]
        self.scale_buttons = self._buttons(scales, first.scale or 0)
        self.scale_buttons.tooltips = [
            "The better scale at the rate",
            *(f"Thumbnail {s} times smaller per side" for s in self._engine.scales),
        ]
        self.effort_buttons = self._buttons([(e, e) for e in EFFORTS], first.effort)
        self.effort_buttons.tooltips = ["One pass", "Coefficients refined through the decoder: takes seconds"]
        self.right_box = widgets.Dropdown(
            options=[(name[:1].upper() + name[1:], name) for name in self._engine.rights],
            value=first.right, description="Right side", style={"description_width": "initial"},
            layout=layout(width="215px"),
        )  # fmt: skip
        for control in (self.slider, self.scale_buttons, self.effort_buttons, self.right_box):
            control.observe(self._changed, "value")
        self.swipe = SwipeView(layout=layout(width="100%"))
        self.curves, self.tables = CurvesView(), TablesView()
        self.curves.on_msg(self._asked)
        self.numbers, self.note = widgets.HTML(), widgets.HTML()
        self.crop: CropView | None = None
        if not self._engine.whole:
            small = png(overview(self._engine.array, self._engine.format))
            self.crop = CropView(overview=small, shape=list(self._engine.shape))
            self.crop.on_msg(self._asked)
        self.name_box = widgets.Text("explored", description="Save as", layout=layout(width="230px"))
        self.name_box.style.description_width = "initial"
        self._saves: dict[str, Save] = {
            "thumbnail": self._save_thumbnail,
            "reconstruction": self._save_reconstruction,
            "sheet": self._save_sheet,
        }
        self.save_buttons = {
            name: widgets.Button(description=name.capitalize(), icon="download", layout=layout(width="160px"))
            for name in self._saves
        }
        for name, button in self.save_buttons.items():
            button.on_click(lambda _, name=name: self._saver.submit(self._saves[name]))
        self.save_buttons["thumbnail"].tooltip = "The whole image as a thumbnail file, at the level on screen"
        self.save_buttons["reconstruction"].tooltip = "What that file decodes to"
        self.save_buttons["sheet"].tooltip = "Both pictures, curve, tables and numbers in one picture"

    @staticmethod
    def _buttons(options: list[tuple[str, Any]], value: Any) -> Any:
        made = widgets.ToggleButtons(options=options, value=value, layout=widgets.Layout(width="max-content"))
        made.style.button_width = "54px"
        return made

    def _layout(self) -> Any:
        layout, box = widgets.Layout, widgets.HBox
        wrap = layout(flex_flow="row wrap", align_items="center", grid_gap="4px 14px", overflow="visible")
        # Named by a label of its own: theirs stands above them in JupyterLab.
        named = [
            box([widgets.Label(name), buttons], layout=layout(align_items="center", grid_gap="6px"))
            for name, buttons in (("Scale", self.scale_buttons), ("Effort", self.effort_buttons))
        ]
        top = box([self.slider, *named, self.right_box], layout=wrap)
        side = [self.curves, self.tables, *([self.crop] if self.crop else [])]
        columns = box(
            [
                widgets.VBox([self.swipe, self.numbers], layout=layout(flex="1 1 420px", min_width="0")),
                widgets.VBox(side, layout=layout(flex="0 1 370px", min_width="270px")),
            ],
            layout=layout(grid_gap="14px", margin="6px 0", overflow="visible"),
        )
        columns.add_class("ht-columns")
        saves = box([self.name_box, *self.save_buttons.values()], layout=wrap)
        panel = widgets.VBox([top, columns, saves, self.note], layout=layout(overflow="visible"))
        panel.add_class("ht-explorer")
        return panel

    # ---- from the page ------------------------------------------------------------------------

    def _changed(self, change: dict[str, Any]) -> None:
        if self._quiet:
            return
        if change["owner"] is self.scale_buttons:
            self._reach()
        self._submit()

    def _asked(self, _: object, content: dict[str, Any], buffers: object) -> None:
        """A click on the curve, or the frame of the crop let go."""
        try:
            if "crop" in content:
                self.go(float(content["crop"]["row"]), float(content["crop"]["column"]))
            elif "go" in content:
                self._go_on_curve(float(content["go"]["bpp"]), int(content["go"]["scale"]))
        except Exception as error:  # in the page: an exception here would end up in a log nobody sees
            self._failed(error)

    def _go_on_curve(self, bpp: float, scale: int) -> None:
        self._quiet = True
        try:
            if self.scale != scale and choose(self._engine.now.at(self.scale), bpp)[0] != scale:
                self.scale = scale
                self._reach()
            self.bpp = bpp
        finally:
            self._quiet = False
        self._submit()

    def _reach(self) -> None:
        """Let the slider cover what the scale reaches on the part at hand."""
        low, high = (math.log10(end) for end in self._engine.now.range(self.scale))
        quiet, self._quiet = self._quiet, True
        try:
            # The ends must never cross on the way.
            self.slider.min = min(low, self.slider.min)
            self.slider.max = max(high, self.slider.max)
            self.slider.min, self.slider.max = low, high
        finally:
            self._quiet = quiet

    def _submit(self) -> None:
        self._worker.submit(Wanted(self.bpp, self.scale, self.effort, self.right, self._region))

    # ---- to the page --------------------------------------------------------------------------

    def _work(self, wanted: Wanted) -> Iterator[Update]:
        if wanted.region != self._engine.now.region:
            self._say("Measuring the curves of this part")
        last: Update | None = None
        for last in self._engine.run(wanted):
            yield last
        self._worker.pause(PAUSE)
        if last is not None:
            self._keep(last)

    def _show(self, update: Update) -> None:
        """Bring the page up to date; only what has changed travels."""
        before, self._update = self._update, update
        explored, step = update.explored, update.step
        moved = before is None or before.explored.region != explored.region
        if moved or before is None or before.explored.rivals != explored.rivals:
            if moved:
                self._reach()
            self.curves.curves = _curve_lines(update)
        if moved:
            self.swipe.left = png(as_eight_bit(step.original, step.format))
            if self.crop is not None:
                self.crop.region = [list(span) for span in explored.region]
        # Numbers before the picture: whoever sees a new picture must not read the numbers of the old one.
        self.numbers.value = numbers_html(update)
        same = before is not None and before.step is step and before.right is update.right
        if not same or (before is not None and before.wanted.right != update.wanted.right):
            self._show_right(update)  # the picture first: what is waited for
        finite = math.isfinite(step.psnr)
        self.curves.point = [step.thumbnail.bpp, step.psnr] if finite else []
        gray = step.format.gray
        self.tables.tables = step.thumbnail.tables.tolist()[: 1 if gray else 2]
        self._say(update.busy)

    def _show_right(self, update: Update) -> None:
        right = update.wanted.right
        span = f"{update.step.peak * ERROR_SPAN:.3g}"
        with self.swipe.hold_sync():
            self.swipe.true_size = right == THUMBNAIL
            self.swipe.right_label = caption(update)
            self.swipe.legend = {"colours": MAGMA, "low": "0", "high": span} if right == ERROR else {}
            self.swipe.right = bmp(right_pixels(update))
            self.swipe.frame += 1

    def _say(self, text: str, kind: str = "") -> None:
        self.note.value = f'<div class="ht-note {kind}" role="status">{html.escape(text)}</div>'

    def _note(self, text: str) -> None:
        self._say(text)

    def _failed(self, error: Exception) -> None:
        self._say(error_text(error), "error")

    # ---- saving ------------------------------------------------------------------------------

    def _save(self, save: Save) -> Iterator[str]:
        yield "Saving …"
        yield save(self.update)

    def _path(self, suffix: str) -> Path:
        name = self.name_box.value.strip() or "explored"
        return Path(f"{name}{suffix}").expanduser()

    def _save_thumbnail(self, update: Update) -> str:
        path, thumbnail = self._path(".ht.jpg"), self._engine.encode_whole(update)
        write_atomically(path, thumbnail.data)
        return f"{path.resolve()}: {thumbnail.nbytes:,} bytes, {thumbnail.bpp:.3f} bpp, the whole image"

    def _save_reconstruction(self, update: Update) -> str:
        from ..codec import decode

        model = self._engine.now.session.model(update.step.thumbnail.scale)
        image = decode(self._engine.encode_whole(update).data, model=model)
        path = self._path(".png" if image.dtype.name in ("uint8", "uint16") else ".tif")
        write_image(path, image)
        return f"{path.resolve()}: the whole image as its thumbnail gives it back"

    def _save_sheet(self, update: Update) -> str:
        path = self._path(".sheet.jpg")
        write_atomically(path, static_sheet(update))
        return f"{path.resolve()}: what is on screen as one picture"

    # ---- the notebook ------------------------------------------------------------------------

    def _keep(self, update: Update) -> None:
        """Draw the picture that stays in a saved notebook, where this explorer was displayed."""
        if self._static is not None:
            with self._drawing:
                self._static.update({"image/jpeg": static_sheet(update)}, raw=True)

    def _ipython_display_(self) -> None:
        display(self.panel)
        if self._static is None:
            with self._drawing:
                sheet = {"image/jpeg": static_sheet(self.update)}
                self._static = display(sheet, raw=True, display_id=True)


def _curve_lines(update: Update) -> list[dict[str, Any]]:
    """As `CurvesView` takes them."""
    explored = update.explored
    lines = [
        {"name": f"HyperThumb ×{scale}", "colour": OURS[scale], "scale": scale, "points": [
            [p.bpp, p.psnr] for p in curve.points if math.isfinite(p.psnr)]}
        for scale, curve in explored.curves.items()
    ]  # fmt: skip
    for name, points in explored.rivals.items():
        colour = RIVALS.get(name, "#6b6f76")
        lines.append(
            {"name": name, "colour": colour, "scale": 0, "points": [[p.bpp, p.psnr] for p in points]}
        )
    return lines


def explore(
    image: object,
    *,
    bpp: float = 0.3,
    scale: int | str = "auto",
    crop: int = 512,
    **options: Any,
) -> Explorer:
    """Explore an image's rate-distortion trade-off in a notebook.

    image: an array as `encode` takes it, or the path of a picture. bpp, scale: where to begin. crop:
    pixels a side of the part of a larger image that is explored. options: `device`, `models`,
    `value_range`, `alpha`, as `session.Session` takes them.

    Measuring the curves takes a few seconds on a CPU. Raises ImageError, ModelError, DeviceError or
    RateError, as `encode` does.
    """
    if isinstance(image, (str, os.PathLike)):
        image = read_image(Path(image))
    engine = Engine(image, crop=crop, **options)
    if scale != "auto":
        engine.now.session.model(scale)  # type: ignore[arg-type]  # raises RateError for one there isn't
    return Explorer(engine, bpp=bpp, scale=None if scale == "auto" else scale)  # type: ignore[arg-type]
