"""Freezable layers of a model, in the order in which its forward pass uses them."""

import operator
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor, nn

from smartfrz.distributed import unwrap
from smartfrz.graph import Inputs, last_owners, storage_of, trace, trace_with_guessed_inputs
from smartfrz.grouping import group, is_norm
from smartfrz.sharding import check_not_flattened, reshard


@dataclass(frozen=True, eq=False)
class Layer:
    """The unit of freezing: a weight module with the norms and bare parameters that follow it.

    Attributes:
        name: dotted name of the weight module in the model.
        modules: the weight module (with tied weights, all modules that share them), then its norms
            and the modules that follow it and have buffers but no parameters.
        params: all trainable parameters of the layer.
        is_head: whether this is an output head, which is never frozen.
        places: the module and the attribute in which each parameter was found, see `refreshed`.
    """

    name: str
    modules: tuple[nn.Module, ...]
    params: tuple[nn.Parameter, ...]
    is_head: bool = False
    places: tuple[tuple[nn.Module, str], ...] = ()

    def parameters(self) -> list[nn.Parameter]:
        """Returns the layer's trainable parameters."""
        return list(self.params)

    @property
    def norms(self) -> tuple[nn.Module, ...]:
        """The norms among the layer's modules."""
        return tuple(module for module in self.modules if is_norm(module))


def find_layers(model: nn.Module, example_inputs: Inputs | None = None) -> list[Layer]:
    """Finds the freezable layers of a model, in execution order.

    Parameters are visited in the order in which a forward pass first uses them. A weight module
    (`is_weight_module`: convolution, linear layer, embedding, attention, recurrent layer) starts a
    new layer. All other parameters join the preceding layer: norms, class tokens, position
    embeddings, layer scales. Parameters used before the first weight module join the first layer.
    Weight modules that share a parameter form one layer.

    Every layer with no other layer after it is a head: no other layer computes from its output, or
    only from a detached copy of it. Besides the last layer, these are the other outputs of a model
    with several tasks, auxiliary classifiers, the last layers of two towers, and the layers of a
    region proposal network. More layers can be marked with
    ``dataclasses.replace(layer, is_head=True)``.

    Experts that the traced forward pass did not use (modules in an ``nn.ModuleList`` or
    ``nn.ModuleDict`` with the same structure as others there, which it used) form layers like those
    of the experts that it used, directly behind them.

    Parameters that require no gradient, or that the traced forward pass in eval mode does not use
    (auxiliary heads in training mode; kernels outside PyTorch's dispatcher), belong to no layer. If
    they are trainable, they are never frozen, and a warning names them.

    Args:
        model: any model; DDP and ``torch.compile`` wrappers are unwrapped. If it is sharded by
            ``fully_shard``, all processes must call this function.
        example_inputs: inputs for the forward pass: a tensor, a tuple of positional arguments or a
            mapping of keyword arguments. By default they are guessed from the model's modules.

    Returns:
        The layers, at least one of them a head.

    Raises:
        ValueError: no example inputs were given and none could be guessed, no parameter is
            trainable, different parameters of several modules share memory, or the model is wrapped
            by FSDP1.
    """
    model = unwrap(model)
    check_not_flattened(model)
    reshard(model)
    _check_no_shared_memory(model)
    if example_inputs is None:
        calls = trace_with_guessed_inputs(model)
    else:
        calls = trace(model, example_inputs)
    groups = [each for each in group(model, calls) if each.trains]
    if not groups:
        raise ValueError(
            "The model has no layer to freeze: no weight that its forward pass uses is trainable. "
            "Set requires_grad=True on the weights to train."
        )
    _warn_of_parameters_in_no_layer(model, {param for each in groups for param in each.params})
    heads = last_owners(calls, {weight: each for each in groups for weight in each.weights})
    places = {
        param: (module, name)
        for module in model.modules()
        for name, param in module.named_parameters(recurse=False)
    }
    return [
        Layer(
            each.name,
            tuple(each.modules),
            each.trainable,
            is_head=each.alike in heads,
            places=tuple(places[param] for param in each.trainable),
        )
        for each in groups
    ]


def refreshed(layer: Layer) -> Layer:
    """Returns a layer with the parameters that its modules contain now.

    ``fully_shard`` and ``load_state_dict(assign=True)`` replace the parameters of modules.
    """
    if len(layer.places) != len(layer.params):
        return layer  # not from `find_layers`
    found = [getattr(module, name, None) for module, name in layer.places]
    params = tuple(
        new if isinstance(new, nn.Parameter) else old
        for new, old in zip(found, layer.params, strict=True)
    )
    are_same = all(map(operator.is_, params, layer.params))
    return layer if are_same else replace(layer, params=params)


def check_layers_in(model: nn.Module, layers: Iterable[Layer]) -> None:
    """Raises if the layers are not, or no longer, those of the model.

    Raises:
        ValueError: the model does not contain modules or parameters of the layers.
    """
    modules, params = set(model.modules()), set(model.parameters())
    missing = [
        layer.name
        for layer in layers
        if not (modules.issuperset(layer.modules) and params.issuperset(layer.params))
    ]
    if missing:
        raise ValueError(
            f"The model does not contain the modules or parameters of the layers {missing}, as "
            "after fully_shard, convert_sync_batchnorm or load_state_dict(assign=True). Find the "
            "layers again, and make the freezer after such changes to the model."
        )


def check_something_trains(model: nn.Module, layers: Iterable[Layer]) -> None:
    """Raises if no parameter would train with all layers but the heads frozen.

    Raises:
        ValueError: none of the layers is a head, and no other parameter trains.
    """
    freezable = {param for layer in layers if not layer.is_head for param in layer.params}
    if not any(p.requires_grad and p not in freezable for p in model.parameters()):
        raise ValueError(
            "Every trainable parameter is in a layer that can be frozen, because none of the "
            "layers is the head. Mark one layer with is_head=True."
        )


def _check_no_shared_memory(model: nn.Module) -> None:
    """Raises if parameters of different modules share memory.

    The trace identifies tensors by their storage. Parameters of the same module may share one, as
    those of an LSTM do.
    """
    owners: dict[int, tuple[nn.Parameter, str]] = {}
    for name, module in model.named_modules():
        for param in module.parameters(recurse=False):
            other, owner = owners.setdefault(storage_of(param), (param, name))
            if other is not param and owner != name:
                raise ValueError(
                    f"Parameters of {owner!r} and {name!r} share their memory but are different "
                    "parameters (as after vector_to_parameters or with flat buffers). Give each "
                    "its own memory: param.data = param.data.clone()."
                )


def _warn_of_parameters_in_no_layer(model: nn.Module, placed: set[nn.Parameter]) -> None:
    trainable = [param for param in model.parameters() if param.requires_grad]
    left = {param for param in trainable if param not in placed}
    if left:
        share = sum(map(Tensor.numel, left)) / sum(map(Tensor.numel, trainable))
        names = list(_names_of(model, "", left))
        shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if names[10:] else "")
        warnings.warn(
            f"{100 * share:.1f}% of the trainable parameters belong to no layer, because the "
            f"forward pass in eval mode does not use them: {shown}. They keep training, and their "
            "cost is not counted. If they are used in training, pass example_inputs with which "
            "the forward pass uses them in eval mode, too, or accept that they never freeze. If "
            "they are not, set their requires_grad to False.",
            stacklevel=3,
        )


def _names_of(module: nn.Module, name: str, params: set[nn.Parameter]) -> Iterator[str]:
    """Yields the names of the outermost modules of which all trainable parameters are given."""
    trainable = {param for param in module.parameters() if param.requires_grad}
    if name and trainable and trainable <= params:
        yield name
        return
    for child_name, param in module.named_parameters(name, recurse=False):
        if param in params:
            yield child_name
    for child_name, child in module.named_children():
        yield from _names_of(child, f"{name}.{child_name}".lstrip("."), params)
