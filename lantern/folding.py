"""A network made quicker: norms and pads joined to convolutions, values of a pixel side by side."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from lantern.scores import is_close

# Relative difference of what comes out, up to which two networks are the same.
SAME = 1e-4
# Twins of a network that are kept.
MOST_TWINS = 4


class Twins:
    """The quick twins of a network, one for each set of layers that stay as they are.

    `pixels` `[1,C,H,W]` are passed to find the norms that can be folded.
    """

    def __init__(self, network: nn.Module, pixels: Tensor) -> None:
        self._network, self._made = network, dict[frozenset[str], nn.Module]()
        norms = pairs(network, pixels)
        for self._norms, self._pads in ((norms, pads(network)), (norms, {})):
            if is_same(network, folded(network, self._norms, self._pads), pixels):
                return
        self._norms = {}

    def twin(self, layers: Collection[str]) -> nn.Module:
        """Return the twin in which `layers` can be looked at."""
        keep = frozenset((self._norms.keys() | self._pads.keys()) & set(layers))
        if keep not in self._made:
            while len(self._made) >= MOST_TWINS:
                self._made.pop(next(iter(self._made)))
            self._made[keep] = folded(self._network, self._norms, self._pads, keep)
        return self._made[keep]


def pairs(network: nn.Module, pixels: Tensor) -> dict[str, str]:
    """Return the convolutions whose output goes to a batch norm, and that norm, by name.

    They are found by what passes when the network sees `pixels` `[1,C,H,W]`: so nothing has to be
    known of it. Layers that run more than once are left out.
    """
    made: dict[int, tuple[str, Tensor]] = {}  # an id stays taken while its tensor lives
    found: dict[str, str] = {}
    runs: dict[str, int] = {}
    hooks = []

    def after(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            runs[name] = runs.get(name, 0) + 1
            made[id(output)] = (name, output)

        return hook

    def before(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            runs[name] = runs.get(name, 0) + 1
            if id(inputs[0]) in made:
                found[made[id(inputs[0])][0]] = name

        return hook

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after(name)))
        elif isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            hooks.append(module.register_forward_pre_hook(before(name)))
    try:
        with torch.inference_mode():
            network(pixels)
    finally:
        for hook in hooks:
            hook.remove()
    return {c: n for c, n in found.items() if runs[c] == runs[n] == 1}


def pads(network: nn.Module) -> dict[str, str]:
    """Return by name the modules that seem to pad for a convolution, and which.

    They are its children, and pad with zeros, alike on both sides; TensorFlow's "same" is written
    so. Whether they do what it seems is seen from what comes of joining them.
    """
    found: dict[str, str] = {}
    for conv, module in network.named_modules():
        if not isinstance(module, nn.Conv2d) or module.padding != (0, 0):
            continue
        children = [
            (name, pad) for name, pad in module.named_children() if isinstance(pad, nn.ZeroPad2d)
        ]
        if len(children) == 1 and module.padding_mode == "zeros":
            ((name, pad),) = children
            if pad.padding[::2] == pad.padding[1::2] and min(pad.padding) >= 0:
                found[f"{conv}.{name}"] = conv
    return found


@torch.inference_mode()
def joined(network: nn.Module, pixels: Tensor) -> nn.Module:
    """Return a copy whose convolutions pad by themselves, or the network where that moves a bit.

    `pixels` `[N,C,H,W]` are passed to see that it does not. Weights are shared with `network`.
    """
    found = pads(network)
    if not found:
        return network
    with torch.inference_mode(mode=False):
        copied = _copy(network)
    _join(copied, found)
    made = _made(copied, pixels)
    return copied if made is not None and torch.equal(made, network(pixels)) else network


@torch.inference_mode()
def headless(network: nn.Module, pixels: Tensor) -> tuple[nn.Module, nn.Linear | None]:
    """Return a copy that ends before its last layer, and that layer, where it is a linear one.

    `pixels` `[N,C,H,W]` are passed to see which layer makes what the network returns, and that the
    copy and the layer make the same. Where none does, it is the network itself.
    """
    with torch.inference_mode(mode=False):
        body = _copy(network)
    outputs: dict[str, list[Tensor]] = {}

    def hook_of(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda module, inputs, output: outputs.setdefault(name, []).append(output)

    # a kind of its own may do more
    linears = [(name, module) for name, module in body.named_modules() if type(module) is nn.Linear]
    hooks = [module.register_forward_hook(hook_of(name)) for name, module in linears]
    last = body(pixels)
    for hook in hooks:
        hook.remove()
    for name, head in linears:
        if len(made := outputs.get(name, [])) == 1 and made[0] is last:
            _leave_out(body, name)
            whole = _made(nn.Sequential(body, head), pixels)
            if whole is not None and torch.equal(whole, last):
                return body, head
            break  # it has a second name, or is asked for more than its output
    return network, None


@torch.inference_mode(mode=False)  # whoever asks for it first may later want gradients through it
def folded(
    network: nn.Module,
    norms: Mapping[str, str],
    padded: Mapping[str, str],
    keep: Collection[str] = (),
) -> nn.Module:
    """Return a copy whose batch norms and pads are part of their convolutions.

    Convolutions in `keep`, and their norms, and pads stay as they are. The others' outputs are
    those of their norms, or what they are given. Weights that are not changed are shared with
    `network`.
    """
    quick = _copy(network)
    modules = dict(quick.named_modules())
    for name, norm in norms.items():
        if name not in keep:
            _fold(modules[name], modules[norm])
            _leave_out(quick, norm)
    _join(quick, {pad: conv for pad, conv in padded.items() if pad not in keep})
    for module in quick.modules():
        if isinstance(module, nn.Conv2d):  # a copy: the other network keeps its own layout
            weight = module.weight.detach().to(memory_format=torch.channels_last, copy=True)
            module.weight = nn.Parameter(weight, requires_grad=False)
    return quick.eval()


@torch.inference_mode()
def is_same(network: nn.Module, quick: nn.Module, pixels: Tensor) -> bool:
    """Tell whether two networks make the same of `pixels` `[1,C,H,W]`, but for rounding."""
    wanted, made = network(pixels), _made(quick, pixels)
    return made is not None and made.shape == wanted.shape and is_close(made, wanted, SAME)


def _made(network: nn.Module, pixels: Tensor) -> Tensor | None:
    """Return what a network makes; None where a layer is given, or asked for, what does not fit."""
    try:
        made: Tensor = network(pixels)
    except (RuntimeError, AttributeError):
        return None
    return made


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps,
        norm.weight, norm.bias,
    )  # fmt: skip
    conv.weight = nn.Parameter(weight.detach(), requires_grad=False)
    conv.bias = nn.Parameter(bias.detach(), requires_grad=False)


def _join(network: nn.Module, padded: Mapping[str, str]) -> None:
    """Let convolutions pad by themselves, in place."""
    for name, of in padded.items():
        pad, conv = network.get_submodule(name), network.get_submodule(of)
        assert isinstance(pad, nn.ZeroPad2d)
        assert isinstance(conv, nn.Conv2d)
        conv.padding = (pad.padding[2], pad.padding[0])
        _leave_out(network, name)


def _leave_out(network: nn.Module, name: str) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, nn.Identity())


def _copy(network: nn.Module) -> nn.Module:
    """Copy the modules; the weights are the same."""
    shared = {id(t): t for t in (*network.parameters(), *network.buffers())}
    return copy.deepcopy(network, dict(shared))
