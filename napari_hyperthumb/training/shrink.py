"""A smaller decoder that begins as the larger one without what matters least.

Between its blocks the decoder carries a stream of feature maps. It is projected onto fewer directions
(principal components, weighed by what listens to them), inside each block the channels that add least to
the stream are left out, and whole blocks are where they are missed least. Training brings back what it can.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..model import HyperThumbModel, ResidualBlock
from .data import Batch
from .grow import film_layers

LEVELS = (-0.7, 0.0, 0.7)
"""At which crops are coded to see what matters."""


class _Seen(NamedTuple):
    """What flows through a decoder."""

    stream: Tensor
    """Covariance (channels, channels) of the stream, its mean over all who listen to it."""
    hidden: list[Tensor]
    """Of each block the mean square of each channel inside it."""
    scale: Tensor
    """(channels,): of the FiLM behind the head, its mean over levels."""


@torch.no_grad()
def drop_blocks(old: HyperThumbModel, count: int, crops: Batch) -> HyperThumbModel:
    """The same networks with so many of the decoder's blocks: one after the other goes that changes least.

    The others keep their order. Every level counts alike, whatever its errors are. `old` is left as it is.
    """
    wanted, net = _decoded(old, crops), old
    while len(net.decoder.body) > count:
        candidates = [_without(net, at) for at in range(len(net.decoder.body))]
        changes = [(_decoded(new, crops) - wanted).square().flatten(1).mean(1) for new in candidates]
        net = candidates[torch.stack(changes).log().sum(1).argmin()]
    return net


def _without(old: HyperThumbModel, at: int) -> HyperThumbModel:
    """The same networks without one of the decoder's blocks."""
    blocks = len(old.decoder.body)
    new = HyperThumbModel(dataclasses.replace(old.config, decoder_blocks=blocks - 1))
    state = {key: value for key, value in old.state_dict().items() if not key.startswith("decoder.body.")}
    kept = [block for index, block in enumerate(old.decoder.body) if index != at]
    for index, block in enumerate(kept):
        state |= {f"decoder.body.{index}.{key}": value for key, value in block.state_dict().items()}
    film = old.decoder.film
    last = film.net[2]
    assert isinstance(last, nn.Linear)
    for name, parameter in last.named_parameters():
        layers = film_layers(parameter, film)
        del layers[1 + at]  # the first belongs to the head
        state[f"decoder.film.net.2.{name}"] = torch.cat([layer.flatten(0, 1) for layer in layers])
    new.load_state_dict(state)
    return new


def _decoded(net: HyperThumbModel, crops: Batch) -> Tensor:
    """RGB (levels, N, 3, H, W)."""
    levels = (torch.full((len(crops.rgb),), level) for level in LEVELS)
    return torch.stack([net(crops.rgb, level, crops.gray).hr for level in levels])


@torch.no_grad()
def shrink_decoder(old: HyperThumbModel, channels: int, inner: int, crops: Batch) -> HyperThumbModel:
    """The same networks with `decoder_channels` and `decoder_inner` no larger than before.

    The FiLM behind the head scales by its mean afterwards: projected channels have no scales of their own.
    """
    blocks = [block for block in old.decoder.body if isinstance(block, ResidualBlock)]
    seen = _watched(old, blocks, crops)
    kept = [
        (energy * block.b.weight.square().sum((0, 2, 3))).topk(inner).indices.sort().values
        for energy, block in zip(seen.hidden, blocks, strict=True)
    ]
    listeners = [block.a.weight[index] for block, index in zip(blocks, kept, strict=True)]
    down, up = _projection(seen.stream, [*listeners, old.decoder.out.weight], channels)
    config = dataclasses.replace(old.config, decoder_channels=channels, decoder_hidden=inner)
    new = HyperThumbModel(config)
    state, head = old.state_dict(), old.decoder.head
    assert head.bias is not None
    state["decoder.head.weight"] = _projected(down, head.weight * seen.scale[:, None, None, None])
    state["decoder.head.bias"] = down @ (head.bias * seen.scale)
    state["decoder.out.weight"] = _listening(old.decoder.out.weight, up)
    for at, (block, index) in enumerate(zip(blocks, kept, strict=True)):
        assert block.a.bias is not None and block.b.bias is not None
        state[f"decoder.body.{at}.a.weight"] = _listening(block.a.weight[index], up)
        state[f"decoder.body.{at}.a.bias"] = block.a.bias[index]
        state[f"decoder.body.{at}.b.weight"] = _projected(down, block.b.weight[:, index])
        state[f"decoder.body.{at}.b.bias"] = down @ block.b.bias
    film = old.decoder.film
    last = film.net[2]
    assert isinstance(last, nn.Linear)
    for name, parameter in last.named_parameters():
        first, *layers = film_layers(parameter, film)
        shift = torch.einsum("oi,i...->o...", down, first[1])
        parts = [torch.zeros_like(shift), shift]
        parts += [layer[:, index].flatten(0, 1) for layer, index in zip(layers, kept, strict=True)]
        state[f"decoder.film.net.2.{name}"] = torch.cat(parts)
    new.load_state_dict(state)
    return new


def _projected(down: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("oi,iczx->oczx", down, weight)


def _listening(weight: Tensor, up: Tensor) -> Tensor:
    return torch.einsum("oizx,in->onzx", weight, up)


def _watched(net: HyperThumbModel, blocks: list[ResidualBlock], crops: Batch) -> _Seen:
    listeners: list[nn.Module] = [*(block.a for block in blocks), net.decoder.out]
    width = net.config.decoder_channels
    stream = torch.zeros(width, width, dtype=torch.double)
    hidden = [torch.zeros(net.config.decoder_inner) for _ in blocks]
    scales = []

    def heard(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        maps = inputs[0].double().transpose(0, 1).flatten(1)
        stream.add_(maps @ maps.T / maps.square().sum() / len(listeners) / len(LEVELS))

    def inside(at: int, maps: Tensor) -> None:
        hidden[at] += maps.square().mean((0, 2, 3))

    hooks = [module.register_forward_pre_hook(heard) for module in listeners]
    hooks += [
        block.b.register_forward_pre_hook(lambda module, inputs, at=at: inside(at, inputs[0]))
        for at, block in enumerate(blocks)
    ]
    try:
        for level in LEVELS:
            out = net(crops.rgb, torch.full((len(crops.rgb),), level), crops.gray)
            scales.append(net.decoder.films(out.tables)[0][0].mean(0).flatten())
    finally:
        for hook in hooks:
            hook.remove()
    return _Seen(stream, hidden, torch.stack(scales).mean(0))


def _projection(stream: Tensor, listeners: list[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """Onto the directions that the listeners would miss most, (count, channels), and back."""
    weights = [weight.double().transpose(0, 1).flatten(1) for weight in listeners]
    values, vectors = torch.linalg.eigh(sum((w @ w.T for w in weights), torch.zeros_like(stream)))
    values = values.clamp_min(1e-9 * values[-1])
    root, back = (vectors @ torch.diag(values**power) @ vectors.T for power in (0.5, -0.5))
    most = torch.linalg.eigh(root @ stream @ root).eigenvectors[:, -count:]
    return (most.T @ root).float(), (back @ most).float()
