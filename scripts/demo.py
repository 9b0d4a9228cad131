"""`make demo`: a bundled photograph into a thumbnail and back, compared with JPEG, WebP and AVIF.

Everything goes through the `hyperthumb` command, as a user would call it. With a screen and napari
installed, the result opens in napari.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from skimage import data, io

FOLDER = Path("demo")


def hyperthumb(*arguments: str) -> None:
    print("$ hyperthumb", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "napari_hyperthumb.cli", *arguments], check=True)
    print()


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    photo = FOLDER / "photo.png"
    io.imsave(photo, data.coffee(), check_contrast=False)  # CC0, part of scikit-image
    thumbnail, back = str(FOLDER / "photo.ht.jpg"), str(FOLDER / "photo.decoded.png")
    hyperthumb("encode", str(photo), "--bpp", "0.3", "-o", thumbnail, "--force")
    hyperthumb("info", thumbnail)
    hyperthumb("decode", thumbnail, "-o", back, "--force")
    hyperthumb("compare", str(photo), "--bpp", "0.3", "-o", str(FOLDER / "compare.png"), "--force")
    print(f"Open {thumbnail} in any viewer, and {FOLDER / 'compare.png'} to judge by eye.")
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or sys.platform == "darwin":
        show(photo, Path(thumbnail), Path(back))


def show(photo: Path, thumbnail: Path, back: Path) -> None:
    try:
        import napari
    except ImportError:
        print("To look at it in napari: pip install 'napari-hyperthumb[all]'")
        return
    viewer = napari.Viewer()
    original, small = io.imread(photo), io.imread(thumbnail)
    scale = round(original.shape[0] / small.shape[0])
    viewer.add_image(original, name="photo", rgb=True)
    place = {"scale": (scale, scale), "translate": ((scale - 1) / 2,) * 2}
    viewer.add_image(small, name="photo thumbnail", rgb=True, visible=False, **place)
    viewer.add_image(io.imread(back), name="photo reconstruction", rgb=True)
    napari.run()


if __name__ == "__main__":
    main()
