"""Larger networks that begin as what smaller ones have learned (Chen et al., Net2Net, arXiv 1511.05641)."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..model import PASSES, FiLM, HyperThumbModel, ResidualBlock


def _put(new: nn.Module, old: nn.Module) -> None:
    """The old weights of a convolution or a linear layer in a larger one.

    What is added listens to everything, but the old outputs don't listen to it yet.
    """
    for name, wide in new.named_parameters(recurse=False):
        narrow = old.get_parameter(name)
        wide[: len(narrow)] = 0
        wide[tuple(slice(side) for side in narrow.shape)] = narrow


def _put_film(new: FiLM, old: FiLM, *, added_first: bool) -> None:
    """Layers that were added, in front of the old ones or behind them, do nothing yet."""
    _put(new.net[0], old.net[0])
    wide, narrow = new.net[2], old.net[2]
    assert isinstance(wide, nn.Linear) and isinstance(narrow, nn.Linear)
    for name, to in wide.named_parameters():
        to.zero_()
        sources = film_layers(narrow.get_parameter(name), old)
        targets = film_layers(to, new)[-len(sources) if added_first else 0 :]
        for target, source in zip(targets, sources, strict=False):
            target[:, : source.shape[1]] = source


def film_layers(parameter: Tensor, film: FiLM) -> list[Tensor]:
    """Of its last linear layer what belongs to each layer: (scale and shift, channels), and hidden units
    behind the weights. Views."""
    parts = torch.split(parameter, [2 * count for count in film.channels])
    return [part.view(2, -1, *part.shape[1:]) for part in parts]


def _silence(block: ResidualBlock) -> None:
    """The identity."""
    for parameter in block.b.parameters():
        parameter.zero_()


def _put_blocks(new: nn.ModuleList, old: nn.ModuleList, ends: int) -> None:
    """Blocks of a trunk; of the last `ends` each keeps its distance to the end, and the rest to the start."""
    for index, block in enumerate(new):
        assert isinstance(block, ResidualBlock)
        behind = len(new) - index
        at = len(old) - behind if behind <= ends else index
        if behind > ends and at >= len(old) - ends:
            _silence(block)
        else:
            source = old[at]
            assert isinstance(source, ResidualBlock)
            _put(block.a, source.a)
            _put(block.b, source.b)


TRUNKS = ("encoder_channels", "encoder_blocks", "encoder_level_blocks", "decoder_channels", "decoder_blocks")
SIZES = (*TRUNKS, "decoder_hidden")
"""What may grow."""
OBJECTIVE = ("rate_weight", "rate_slope", "thumbnail_weight", "thumbnail_fall", *PASSES)
"""What may change besides: the weights don't depend on it."""


@torch.no_grad()
def grow(new: HyperThumbModel, old: HyperThumbModel) -> None:
    """Put the weights of a smaller model into a larger one, which then computes the same.

    Raises ModelError where something is smaller than it was, or differs in more than `SIZES`.
    """
    measured = (*TRUNKS, "decoder_inner")  # decoder_hidden may be 0, which stands for another number
    shrunk = [name for name in measured if getattr(new.config, name) < getattr(old.config, name)]
    if shrunk:
        raise ModelError(f"{', '.join(shrunk)} can't be smaller than before")
    may = {name: getattr(new.config, name) for name in (*SIZES, *OBJECTIVE)}
    if dataclasses.replace(old.config, **may) != new.config:
        raise ModelError(f"only {', '.join(SIZES)} may differ")
    for network, first in ((new.encoder, old.encoder), (new.decoder, old.decoder)):
        _put(network.head, first.head)
        _put(network.out, first.out)
    _put_film(new.encoder.film, old.encoder.film, added_first=True)
    _put_blocks(new.encoder.body, old.encoder.body, old.config.encoder_level_blocks)
    _put_film(new.decoder.film, old.decoder.film, added_first=False)
    _put_blocks(new.decoder.body, old.decoder.body, 0)
    new.decoder.frequency.load_state_dict(old.decoder.frequency.state_dict())
    new.predictor.load_state_dict(old.predictor.state_dict())
    new.gain.copy_(old.gain)
