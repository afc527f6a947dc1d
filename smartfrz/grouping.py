"""Grouping of a model's modules and parameters into layers, and what starts a new one."""

from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor, nn
from torch.nn.utils import parametrize

from smartfrz.graph import Call, Experts, experts_of

_WEIGHT_MODULES = (
    nn.Linear,
    nn.Bilinear,
    nn.modules.conv._ConvNd,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.RNNBase,
    nn.RNNCellBase,
)

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


def is_norm(module: nn.Module) -> bool:
    """Whether ``module`` is a norm.

    True for PyTorch's norms, and for modules with parameters or buffers of their own that keep
    running statistics (as ``InPlaceABN`` does) or whose class name contains "norm", if they neither
    own a weight matrix nor contain a weight module. A parameter with only one dimension larger than
    1 is no matrix, except in PyTorch's weight modules, such as a linear layer with one output.
    """
    if isinstance(module, _NORMS):
        return True
    own = {
        *dict(module.named_parameters(recurse=False)),
        *dict(module.named_buffers(recurse=False)),
    }
    is_called_norm = "norm" in type(module).__name__.lower() and bool(own)
    if isinstance(module, _WEIGHT_MODULES) or not (is_called_norm or "running_mean" in own):
        return False
    inside = (each for each in module.modules() if each is not module)
    has_matrix = any(map(_is_matrix, module.parameters(recurse=False)))
    return not has_matrix and not any(map(is_weight_module, inside))


def is_weight_module(module: nn.Module) -> bool:
    """Whether ``module`` starts a new layer.

    True for a module other than a norm that owns a weight and has no child with parameters of its
    own but norms (parameters of ``torch.nn.utils.parametrizations`` count as the module's). A
    parameter of two or more dimensions is a weight, except in modules other than PyTorch's if it
    has three or more of them and only one is larger than 1: scales and shifts of channels, such as
    those of global response normalisation. Also true for ``nn.MultiheadAttention``, which forms one
    layer with its output projection, and for modules with adapters (`_is_adapted`), which form one
    layer with these: half of a low-rank update is no update.
    """
    if isinstance(module, nn.MultiheadAttention) or _is_adapted(module):
        return True
    own = set(module.parameters(recurse=False))
    if parametrize.is_parametrized(module):
        own.update(module.get_submodule("parametrizations").parameters())
    is_known = isinstance(module, _WEIGHT_MODULES)
    has_weight = any(
        param.ndim >= 2 and (is_known or param.ndim == 2 or _is_matrix(param)) for param in own
    )
    if not has_weight or is_norm(module):
        return False
    of_norms = {param for each in module.modules() if is_norm(each) for param in each.parameters()}
    return own | of_norms == set(module.parameters())


def _is_adapted(module: nn.Module) -> bool:
    """Whether a module is a layer with adapters, as PEFT makes them, and torchtune (LoRA)."""
    children = dict(module.named_children())
    return "base_layer" in children or any(name.startswith("lora_") for name in children)


def _is_matrix(param: Tensor) -> bool:
    return sum(size > 1 for size in param.shape) >= 2


class Group:
    """The modules and parameters of a layer, possibly none of them trainable.

    Attributes:
        alike: the layer of the same place in an expert that the forward pass used; usually itself.
    """

    def __init__(self, name: str, weight_modules: Iterable[nn.Module]) -> None:
        self.name = name
        self.modules: list[nn.Module] = []
        self.params: dict[nn.Parameter, None] = {}  # an ordered set
        self.alike = self
        for module in weight_modules:
            self.add(module)
        self.weights = list(self.params)

    @property
    def trainable(self) -> tuple[nn.Parameter, ...]:
        return tuple(param for param in self.params if param.requires_grad)

    @property
    def trains(self) -> bool:
        return bool(self.trainable)

    def add(self, module: nn.Module) -> None:
        # Spectral normalisation is a norm inside a weight module; it updates a buffer.
        self.modules += [module, *(m for m in module.modules() if is_norm(m) and m is not module)]
        self.params |= dict.fromkeys(module.parameters())

    def join(self, other: "Group") -> None:
        self.modules += other.modules
        self.params |= other.params


def group(model: nn.Module, calls: Sequence[Call]) -> list[Group]:
    """Groups the modules and parameters that a traced forward pass uses, and unused experts."""
    groups = _in_order(model, calls)
    for experts in experts_of(model, calls):
        groups = _with_unused(groups, experts, model)
    return groups


def _in_order(model: nn.Module, calls: Sequence[Call]) -> list[Group]:
    names = {module: name for name, module in model.named_modules()}
    owners = _owners(model)
    before_first = Group("", [])
    groups = [before_first]
    placed: set[nn.Module] = set()
    for tensor in _in_order_of_use(calls):
        for module in owners.get(tensor, []):
            if module in placed:
                continue
            if is_norm(module) or _has_only_buffers(module):
                groups[-1].add(module)
                placed.add(module)
            else:
                sharing = _sharing(module, owners)
                groups.append(Group(names[module], sharing))
                placed.update(sharing)
        if tensor not in owners and isinstance(tensor, nn.Parameter):
            groups[-1].params[tensor] = None
    layers = groups[1:]
    if layers:
        layers[0].join(before_first)
    return layers


def _owners(model: nn.Module) -> dict[Tensor, list[nn.Module]]:
    """Returns the modules that own each parameter or buffer, except bare ones.

    These are weight modules, norms, and modules with buffers but without parameters.
    """
    owners: dict[Tensor, list[nn.Module]] = {}
    inside: set[nn.Module] = set()
    for module in model.modules():
        is_owner = is_weight_module(module) or is_norm(module) or _has_only_buffers(module)
        if module not in inside and is_owner:
            inside.update(module.modules())
            for tensor in (*module.parameters(), *module.buffers()):
                owners.setdefault(tensor, []).append(module)
    return owners


def _has_only_buffers(module: nn.Module) -> bool:
    owns_buffer = next(module.buffers(recurse=False), None) is not None
    return owns_buffer and next(module.parameters(), None) is None


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


def _in_order_of_use(calls: Sequence[Call]) -> Iterator[Tensor]:
    used = [source for call in calls for source in call.inputs if isinstance(source, Tensor)]
    return iter(dict.fromkeys(used))


def _with_unused(groups: list[Group], experts: Experts, model: nn.Module) -> list[Group]:
    """Returns the layers with those of unused experts, modelled on a used expert.

    What the used expert has outside its own layers, such as a norm before its first weight, the
    others have in the same layer.
    """
    name = experts.used[0]
    used = model.get_submodule(name)
    modules = {module: inner for inner, module in used.named_modules()}
    params = {param: inner for inner, param in used.named_parameters()}
    added = []
    for unused in experts.unused:
        expert = model.get_submodule(unused)
        for layer in groups:
            part = Group(unused + layer.name.removeprefix(name), [])
            part.alike = layer
            part.modules = [expert.get_submodule(modules[m]) for m in layer.modules if m in modules]
            part.params = dict.fromkeys(
                expert.get_parameter(params[p]) for p in layer.params if p in params
            )
            if _is_inside(layer.name, name):
                added.append(part)
            else:
                layer.join(part)
    ends = (any(_is_inside(each.name, used) for used in experts.used) for each in groups)
    end = max((i + 1 for i, is_theirs in enumerate(ends) if is_theirs), default=0)
    return [*groups[:end], *added, *groups[end:]]


def _is_inside(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")
