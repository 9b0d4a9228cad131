"""docs/guide.md: what it tells people to run, runs, in its order, on the picture it names."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from documents import Block, blocks
from published import weights

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "guide.md"


def run(block: Block, folder: Path) -> str:
    """Run one block in a folder; what it printed. Python runs in this process: torch is loaded already."""
    if block.language == "python":
        printed = io.StringIO()
        before = Path.cwd()
        os.chdir(folder)
        try:
            with contextlib.redirect_stdout(printed):
                exec(compile(block.text, f"guide.md, line {block.line}", "exec"), {"__name__": "__main__"})
        finally:
            os.chdir(before)
        return printed.getvalue()
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    # The command as it is in this environment, whether the package is installed there or not.
    shim = f'hyperthumb() {{ "{sys.executable}" -m napari_hyperthumb.cli "$@"; }}\n'
    command = ["bash", "-euo", "pipefail", "-c", shim + block.text]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"guide.md, line {block.line}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_command_on_the_page_is_in_a_block_that_runs():
    outside = re.sub(r"^```.*?^```$", "", GUIDE.read_text(encoding="utf-8"), flags=re.M | re.S)
    assert not re.findall(r"^(?: {4}|\t)\S.*", outside, re.M)  # indented: code that isn't fenced
    assert not re.findall(r"^ *(?:\$ )?(?:hyperthumb|python|pip) .*", outside, re.M)


def test_a_block_that_fails_is_seen(tmp_path):
    for block in (Block(1, "python", "assert False"), Block(2, "sh", "false\ntrue")):
        with pytest.raises(AssertionError):
            run(block, tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="its commands are for a POSIX shell")
def test_everything_in_the_guide_runs(tmp_path):
    found = blocks(GUIDE.read_text(encoding="utf-8"))
    assert {block.language for block in found} == {"python", "sh", "text"}
    runnable = [block for block in found if block.language != "text"]
    assert len(runnable) >= 12
    released = tmp_path / "HyperThumbnail_4x_net_g_latest.pth"
    torch.save({"params": weights()}, released)  # the one thing that its readers bring
    printed = "".join(run(block, tmp_path) for block in runnable)
    made = {path.name for path in tmp_path.iterdir()}
    pictures = {"photo.png", "photo.ht.jpg", "small.ht.jpg", "back.png", "psnr.ht.jpg", "level.ht.jpg"}
    pictures |= {"published.ht.jpg", "published.png"}
    assert made == pictures | {"info.json", "paper-x4.safetensors", released.name}
    assert (tmp_path / "small.ht.jpg").stat().st_size <= 5000
    (result,) = json.loads((tmp_path / "info.json").read_text())["results"]
    assert (result["width"], result["height"]) == (600, 400)
    for text in ("FF DB", "give the scale", "saved again by another program", "of the coefficients"):
        assert text in printed, text


def test_the_comment_it_shows_is_one_that_is_read():
    from napari_hyperthumb import bitstream

    (shown,) = (block.text for block in blocks(GUIDE.read_text(encoding="utf-8")) if block.language == "text")
    prefix = bitstream._COMMENT.decode()
    assert shown.startswith(prefix)
    metadata, check = bitstream._parse_metadata(shown.strip().removeprefix(prefix).encode(), gray=False)
    assert (metadata.scale, metadata.shape, metadata.model) == (2, (400, 600), "ht-x2")
    assert check == "2b3a"
