"""Weights that are the mean of several runs' which began with the same ones (module `training.average`).

    python scripts/average.py OUT.safetensors --config CONFIG.yaml WEIGHTS.safetensors ...

Name and model come from the configuration, the decoder's gain from the first weights.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from napari_hyperthumb.checkpoint import build, load_checkpoint, save_checkpoint
from napari_hyperthumb.errors import HyperThumbError, TrainingError
from napari_hyperthumb.model import HyperThumbModel
from napari_hyperthumb.training.average import average
from napari_hyperthumb.training.config import load_config
from napari_hyperthumb.training.grow import grow


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("weights", nargs="+", type=Path)
    parser.add_argument(
        "--config", type=Path, required=True, help="of the last run, as for `hyperthumb train`"
    )
    options = parser.parse_args(arguments)
    try:
        config = load_config(options.config)
        models = [load_checkpoint(path) for path in options.weights]
        nets = [model.net for model in models if isinstance(model.net, HyperThumbModel)]
        net = build(config.model)
        if len(nets) < len(models) or not isinstance(net, HyperThumbModel):
            raise TrainingError("weights of the published architecture aren't averaged")
        grow(net, average(nets))
        steps = [model.notes.get("steps") for model in models]
        save_checkpoint(options.out, net, name=config.name, notes={"steps": steps})
    except HyperThumbError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
