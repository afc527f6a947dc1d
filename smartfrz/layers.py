"""What can be frozen: a model's layers, in the order in which its forward pass uses them."""

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
        modules: the weight module first (with tied weights, all that share them), then its norms.
        params: every trainable parameter of the layer.
        is_head: whether this is the output head, which is never frozen.
    """

    name: str
    modules: tuple[nn.Module, ...]
    params: tuple[nn.Parameter, ...]
    is_head: bool = False

    def parameters(self) -> list[nn.Parameter]:
        """The layer's trainable parameters."""
        return list(self.params)

    @property
    def norms(self) -> tuple[nn.Module, ...]:
        """The norm modules grouped with the weight module."""
        return tuple(module for module in self.modules if is_norm(module))


def find_layers(model: nn.Module, example_inputs: Inputs | None = None) -> list[Layer]:
    """Finds what can be frozen in a model, in execution order.

    The parameters are walked in the order in which a forward pass first uses them. A weight module
    (`is_weight_module`: convolution, linear layer, embedding, attention, recurrent layer)
    opens a layer. All else joins the layer before it: norms, class tokens, position embeddings,
    layer scales. What comes before the first weight module joins the first layer. Weight modules
    that share a parameter are one layer. The one that the forward pass uses last is the head; of
    several heads the others have to be marked, with ``dataclasses.replace(layer, is_head=True)``.

    Parameters that need no gradient, or that the forward pass in eval mode is not seen to use
    (auxiliary heads; kernels outside PyTorch's dispatcher), are in no layer: what trains of them
    goes on training.

    Args:
        model: any model; a DDP or ``torch.compile`` wrapper is looked through.
        example_inputs: what to call the model with: a tensor, a tuple of arguments or a mapping of
            keyword arguments. By default they are guessed from the model's modules.

    Returns:
        The layers, one of them marked as the head: the last, unless its weights are tied to an
        earlier layer's.

    Raises:
        ValueError: no example inputs were given and none could be guessed, nothing trains, or
            modules hold different parameters in the same memory.
    """
    model = unwrap(model)
    _check_memory_of_its_own(model)
    if example_inputs is None:
        calls = trace_with_guessed_inputs(model)
    else:
        calls = trace(model, example_inputs)
    drafts = [draft for draft in _group(model, calls) if draft.trains]
    if not drafts:
        raise ValueError("The model has no layer to freeze: no weight that it uses is trainable.")
    head = _head(drafts, calls)
    return [draft.finished(is_head=draft is head) for draft in drafts]


def _check_memory_of_its_own(model: nn.Module) -> None:
    """Tensors are known by their memory; that of one module's parameters may be one (an LSTM's)."""
    owners: dict[int, tuple[nn.Parameter, str]] = {}
    for name, module in model.named_modules():
        for param in module.parameters(recurse=False):
            other, owner = owners.setdefault(storage_of(param), (param, name))
            if other is not param and owner != name:
                raise ValueError(
                    f"Parameters of {owner!r} and {name!r} share their memory without being the "
                    "same (vector_to_parameters does this, and flat buffers): give each its own, "
                    "param.data = param.data.clone()."
                )


def is_norm(module: nn.Module) -> bool:
    """Whether ``module`` normalises: PyTorch's norms, and others that say so in their name."""
    if isinstance(module, _NORMS):
        return True
    has_matrix = any(param.ndim >= 2 for param in module.parameters())
    return "norm" in type(module).__name__.lower() and not has_matrix


def is_weight_module(module: nn.Module) -> bool:
    """Whether ``module`` opens a layer.

    It owns a parameter of two or more dimensions and has no child with parameters of its own
    (those of ``torch.nn.utils.parametrizations`` count as the module's), or it is an
    ``nn.MultiheadAttention``, which is one layer with its output projection.
    """
    if isinstance(module, nn.MultiheadAttention):
        return True
    own = list(module.parameters(recurse=False))
    if parametrize.is_parametrized(module):
        own += module.get_submodule("parametrizations").parameters()
    is_leaf = len(own) == len(list(module.parameters()))
    return is_leaf and any(param.ndim >= 2 for param in own) and not is_norm(module)


class _Draft:
    """A layer in the making; it may turn out to hold nothing that trains."""

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
        # Norms inside a weight module: spectral normalisation, whose power iteration is a buffer.
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
    """The weight modules and norms that own each parameter or buffer; what is bare has none."""
    owners: dict[Tensor, list[nn.Module]] = {}
    inside: set[nn.Module] = set()
    for module in model.modules():
        if module not in inside and (is_weight_module(module) or is_norm(module)):
            inside.update(module.modules())
            for tensor in (*module.parameters(), *module.buffers()):
                owners.setdefault(tensor, []).append(module)
    return owners


def _sharing(module: nn.Module, owners: dict[Tensor, list[nn.Module]]) -> list[nn.Module]:
    """``module`` and the weight modules that share a parameter with it, directly or not."""
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
