"""Initial weights of recurrent layers: what keeps a state over many time steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gradcheckup.treatments.editing.anatomy import WeightLayer
from gradcheckup.treatments.editing.surgery import reference
from gradcheckup.treatments.weights.initialization import is_narrow, orthogonal
from gradcheckup.treatments.weights.memory import scale_inputs


def is_recurrent(model: nn.Module, layer: WeightLayer) -> bool:
    """Whether a layer is one of torch's recurrent layers or cells."""
    return isinstance(model.get_submodule(layer.name), (nn.RNNBase, nn.RNNCellBase))


def trained(model: nn.Module, layer: WeightLayer) -> bool:
    """Whether any of a layer's own parameters is not frozen."""
    parameters = model.get_submodule(layer.name).parameters(recurse=False)
    return any(each.requires_grad for each in parameters)


def initialize(module: nn.Module, layer: WeightLayer, run: Callable[[], Any]) -> dict[str, float]:
    """Orthogonal recurrent weights, Xavier input weights, and gates that keep what they hold.

    The identity for a ReLU recurrence (Le, Jaitly & Hinton 2015). Forget gates of an LSTM and
    update gates of a GRU are opened for spans of up to the length of the sequence, b = log(T - 1)
    (Jozefowicz et al. 2015; Tallec & Ollivier 2018). A tanh recurrence has no gates: its inputs are
    scaled so that they do not saturate it over that length (`memory`).

    Args:
        module: A `nn.RNN`, `nn.LSTM`, `nn.GRU` or one of their cells; changed in place, but for
            what is frozen.
        layer: What is known of it.
        run: Runs the model on a batch.

    Returns:
        By what Xavier input weights were multiplied, by their name in the module.
    """
    with torch.no_grad():
        own = [each for each in module.named_parameters(recurse=False) if each[1].requires_grad]
        for name, parameter in own:
            if name.startswith("weight_hh"):
                for gate in torch.split(parameter, _hidden(module)):
                    _recurrent(gate, relu=is_relu(module))
            elif name.startswith("weight_ih"):
                for gate in torch.split(parameter, _hidden(module)):
                    nn.init.xavier_normal_(gate)
            elif name.startswith("bias"):
                parameter.zero_()
        keep = math.log(max(steps(module, layer) - 1, 2))
        for name, parameter in own:
            if name.startswith("bias_ih") and gates(module):
                size = _hidden(module)
                parameter[size : 2 * size] = keep
    if not isinstance(module, (nn.RNN, nn.RNNCell)) or is_relu(module):
        return {}
    return scale_inputs(module, steps(module, layer), run)


def gates(module: nn.Module) -> bool:
    """Whether the second gate says how much of a state is kept: LSTM's forget, GRU's update."""
    return isinstance(module, (nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell))


def steps(module: nn.Module, layer: WeightLayer) -> int:
    """Length of the sequence it ran through."""
    if isinstance(module, nn.RNNCellBase) or len(layer.given) < 2:
        return layer.calls
    unbatched = len(layer.given) == 2
    return layer.given[0 if unbatched or not getattr(module, "batch_first", False) else 1]


def code(model: nn.Module, layer: WeightLayer, factors: Mapping[str, float]) -> str:
    """The same for the user's own code.

    Args:
        model: The treated model.
        layer: Of it.
        factors: As returned by `initialize`.
    """
    name, module = reference(model, layer.name), model.get_submodule(layer.name)
    size = f"{name}.hidden_size"
    start = "nn.init.eye_" if is_relu(module) else "nn.init.orthogonal_"
    narrow = is_narrow(module.parameters())
    filled = f"gate.copy_({start}(gate.float()))" if narrow else f"{start}(gate)"
    frozen = not all(each.requires_grad for each in module.parameters(recurse=False))
    lines = [
        f"for name, values in {name}.named_parameters():",
        *(("    if not values.requires_grad:", "        continue") if frozen else ()),
        '    if name.startswith("weight_hh"):',
        f"        for gate in values.data.split({size}):",
        f"            {filled}",
        '    elif name.startswith("weight_ih"):',
        f"        for gate in values.data.split({size}):",
        "            nn.init.xavier_normal_(gate)",
        '    elif name.startswith("bias"):',
        "        nn.init.zeros_(values)",
    ]
    if gates(module):
        keep = math.log(max(steps(module, layer) - 1, 2))
        lines += [
            '        if name.startswith("bias_ih"):  # open the gate that keeps the state',
            f"            values.data[{size} : 2 * {size}] = {keep:.3g}",
        ]
    if factors:
        lines.append("# inputs would saturate tanh over the sequence")
    lines += [f"{name}.{weight}.data *= {factor:.3g}" for weight, factor in factors.items()]
    return "\n".join(lines)


def _recurrent(gate: Tensor, *, relu: bool) -> None:
    if relu:
        nn.init.eye_(gate)
    else:
        orthogonal(gate)


def is_relu(module: nn.Module) -> bool:
    """Whether its recurrence is one of ReLUs; torch's own are of tanh otherwise."""
    return getattr(module, "nonlinearity", None) == "relu"


def _hidden(module: nn.Module) -> int:
    size: int = module.hidden_size  # type: ignore[assignment]
    return size
