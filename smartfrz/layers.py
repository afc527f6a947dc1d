"""Freezable layers of a model, in the order in which its forward pass uses them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils import parametrize

from smartfrz.distributed import unwrap
from smartfrz.graph import Call, Inputs, storage_of, trace, trace_with_guessed_inputs

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


@dataclass(frozen=True, eq=False)
class Layer:
    """The unit of freezing: a weight module with the norms and bare parameters that follow it.

    Attributes:
        name: dotted name of the weight module in the model.
        modules: the weight module (with tied weights, all modules that share them), then its norms.
        params: all trainable parameters of the layer.
        is_head: whether this is the output head, which is never frozen.
    """

    name: str
    modules: tuple[nn.Module, ...]
    params: tuple[nn.Parameter, ...]
    is_head: bool = False

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
    Weight modules that share a parameter form one layer. The layer that the forward pass uses last
    is the head. If the model has several heads, mark the others with
    ``dataclasses.replace(layer, is_head=True)``.

    Parameters that require no gradient, or that the traced forward pass in eval mode does not use
    (auxiliary heads; kernels outside PyTorch's dispatcher), belong to no layer. If they are
    trainable, they are never frozen.

    Args:
        model: any model; DDP and ``torch.compile`` wrappers are unwrapped.
        example_inputs: inputs for the forward pass: a tensor, a tuple of positional arguments or a
            mapping of keyword arguments. By default they are guessed from the model's modules.

    Returns:
        The layers. The last one is marked as the head, unless the head's weights are tied to an
        earlier layer, which is then marked instead.

    Raises:
        ValueError: no example inputs were given and none could be guessed, no parameter is
            trainable, or different parameters of several modules share memory.
    """
    model = unwrap(model)
    _check_no_shared_memory(model)
    if example_inputs is None:
        calls = trace_with_guessed_inputs(model)
    else:
        calls = trace(model, example_inputs)
    drafts = [draft for draft in _group(model, calls) if draft.trains]
    if not drafts:
        raise ValueError(
            "The model has no layer to freeze: no weight that its forward pass uses is trainable. "
            "Set requires_grad=True on the weights to train."
        )
    head = _head(drafts, calls)
    return [draft.finished(is_head=draft is head) for draft in drafts]


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


def is_norm(module: nn.Module) -> bool:
    """Whether ``module`` is a norm.

    True for PyTorch's norms, and for modules without a weight matrix whose class name contains
    "norm".
    """
    if isinstance(module, _NORMS):
        return True
    has_matrix = any(param.ndim >= 2 for param in module.parameters())
    return "norm" in type(module).__name__.lower() and not has_matrix


def is_weight_module(module: nn.Module) -> bool:
    """Whether ``module`` starts a new layer.

    True for a module other than a norm that owns a parameter of two or more dimensions and has no
    child with parameters of its own (those of ``torch.nn.utils.parametrizations`` count as the
    module's). Also true for ``nn.MultiheadAttention``, which forms one layer with its output
    projection.
    """
    if isinstance(module, nn.MultiheadAttention):
        return True
    own = list(module.parameters(recurse=False))
    if parametrize.is_parametrized(module):
        own += module.get_submodule("parametrizations").parameters()
    is_leaf = len(own) == len(list(module.parameters()))
    return is_leaf and any(param.ndim >= 2 for param in own) and not is_norm(module)


class _Draft:
    """A layer under construction, possibly without trainable parameters."""

    def __init__(self, name: str, weight_modules: Iterable[nn.Module]) -> None:
        self.name = name
        self.modules: list[nn.Module] = []
        self.params: dict[nn.Parameter, None] = {}  # an ordered set
        for module in weight_modules:
            self.add(module)
        self.weights = list(self.params)

    @property
    def trains(self) -> bool:
        return any(param.requires_grad for param in self.params)

    def add(self, module: nn.Module) -> None:
        # Spectral normalisation is a norm inside a weight module; it updates a buffer.
        self.modules += [module, *(m for m in module.modules() if is_norm(m) and m is not module)]
        self.params |= dict.fromkeys(module.parameters())

    def join(self, other: "_Draft") -> None:
        self.modules += other.modules
        self.params |= other.params

    def finished(self, is_head: bool) -> Layer:
        trainable = tuple(param for param in self.params if param.requires_grad)
        return Layer(self.name, tuple(self.modules), trainable, is_head)


def _group(model: nn.Module, calls: list[Call]) -> list[_Draft]:
    names = {module: name for name, module in model.named_modules()}
    owners = _owners(model)
    before_first = _Draft("", [])
    drafts = [before_first]
    placed: set[nn.Module] = set()
    for tensor in _in_order_of_use(calls):
        for module in owners.get(tensor, []):
            if module in placed:
                continue
            if is_norm(module):
                drafts[-1].add(module)
                placed.add(module)
            else:
                sharing = _sharing(module, owners)
                drafts.append(_Draft(names[module], sharing))
                placed.update(sharing)
        if tensor not in owners and isinstance(tensor, nn.Parameter):
            drafts[-1].params[tensor] = None
    layers = drafts[1:]
    if layers:
        layers[0].join(before_first)
    return layers


def _owners(model: nn.Module) -> dict[Tensor, list[nn.Module]]:
    """Returns the weight modules and norms that own each parameter or buffer, except bare ones."""
    owners: dict[Tensor, list[nn.Module]] = {}
    inside: set[nn.Module] = set()
    for module in model.modules():
        if module not in inside and (is_weight_module(module) or is_norm(module)):
            inside.update(module.modules())
            for tensor in (*module.parameters(), *module.buffers()):
                owners.setdefault(tensor, []).append(module)
    return owners


def _sharing(module: nn.Module, owners: dict[Tensor, list[nn.Module]]) -> list[nn.Module]:
    """Returns ``module`` and all weight modules linked to it by a chain of shared parameters."""
    sharing = {module: None}  # an ordered set
    pending = [module]
    while pending:
        for param in pending.pop().parameters():
            new = [owner for owner in owners[param] if owner not in sharing and not is_norm(owner)]
            sharing |= dict.fromkeys(new)
            pending += new
    return list(sharing)


def _in_order_of_use(calls: list[Call]) -> Iterator[Tensor]:
    used = [source for call in calls for source in call.inputs if isinstance(source, Tensor)]
    return iter(dict.fromkeys(used))


def _head(drafts: list[_Draft], calls: list[Call]) -> _Draft:
    home: dict[Tensor, _Draft] = {weight: draft for draft in drafts for weight in draft.weights}
    uses = [source for call in calls for source in call.inputs if isinstance(source, Tensor)]
    return next(home[source] for source in reversed(uses) if source in home)
