"""What the plugin remembers: napari's own preferences where they hold plugins' settings (0.9 and up)."""

from __future__ import annotations

from typing import Any

from ..files import THUMBNAIL_SUFFIX

PLUGIN = "napari-hyperthumb"
DEVICES = ("auto", "cpu", "cuda", "mps")
_fallback: dict[str, Any] = {"device": "auto", "save_bpp": 0.5}
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


def claim_extension() -> None:
    """Have napari open `*.ht.jpg` with this plugin without asking, unless the user has chosen already.

    Its own reader takes every JPEG, so it would ask each time. Other JPEGs aren't touched.
    """
    from napari.settings import get_settings

    plugins = get_settings().plugins
    pattern = f"*{THUMBNAIL_SUFFIX}"
    if pattern not in plugins.extension2reader:
        plugins.extension2reader = {**plugins.extension2reader, pattern: PLUGIN}


def get(name: str) -> Any:
    """A preference: "device" or "save_bpp"."""
    section = _section()
    return _fallback[name] if section is None else getattr(section, name)


def set_(name: str, value: Any) -> None:
    """Remember a preference."""
    section = _section()
    if section is None:
        _fallback[name] = value
    else:
        setattr(section, name, value)
