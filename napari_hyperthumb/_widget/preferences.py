"""What the plugin remembers: napari's own preferences where they hold plugins' settings (0.9 and up)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..files import THUMBNAIL_SUFFIX

if TYPE_CHECKING:
    from ..checkpoint import Model

PLUGIN = "napari-hyperthumb"
PATTERN = f"*{THUMBNAIL_SUFFIX}"
DEVICES = ("auto", "cpu", "cuda", "mps")
_fallback: dict[str, Any] = {"device": "auto", "save_bpp": 0.5, "weights": ""}
"""For this session only, where napari keeps no plugins' settings."""


def _section() -> Any:
    try:
        from napari.settings import get_plugin_settings
    except ImportError:
        return None
    try:
        return get_plugin_settings(PLUGIN).codec
    except (KeyError, AttributeError):  # the manifest isn't registered
        return None


def opens_thumbnails() -> bool:
    """Whether napari opens `*.ht.jpg` with this plugin without asking."""
    from napari.settings import get_settings

    return bool(get_settings().plugins.extension2reader.get(PATTERN) == PLUGIN)


def set_opens_thumbnails(ours: bool) -> None:
    """Have napari open `*.ht.jpg` with this plugin, or ask again; other JPEGs aren't touched.

    napari's own reader takes every JPEG too, so without this it asks each time. It is one of the user's
    settings (Preferences, Plugins), so it is for the user to say.
    """
    from napari.settings import get_settings

    plugins = get_settings().plugins
    others = {pattern: name for pattern, name in plugins.extension2reader.items() if pattern != PATTERN}
    plugins.extension2reader = {**others, PATTERN: PLUGIN} if ours else others


def get(name: str) -> Any:
    """A preference: "device", "save_bpp" or "weights"."""
    section = _section()
    return _fallback[name] if section is None else getattr(section, name)


def set_(name: str, value: Any) -> None:
    """Remember a preference."""
    section = _section()
    if section is None:
        _fallback[name] = value
    else:
        setattr(section, name, value)


def models(weights: str) -> dict[int, Model] | None:
    """Scale to the weights in a file, as `Session` takes them; None, the bundled ones, for an empty name.

    Raises ModelError.
    """
    if not weights:
        return None
    from ..codec import load_model

    model = load_model(weights)
    return {model.scale: model}
