"""A trace of one forward pass: its operator calls and the sources of their arguments."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from smartfrz.distributed import unwrap
from smartfrz.graph.calls import Call, Product, Source
from smartfrz.graph.experts import shared_by_experts
from smartfrz.graph.forward_rules import without_rules
from smartfrz.sharding import reshard, resharded, unsharding

Inputs = Tensor | tuple[Any, ...] | Mapping[str, Any]


def trace(model: nn.Module, inputs: Inputs) -> list[Call]:
    """Runs one forward pass of ``model`` in eval mode, without gradients, and lists its calls.

    If the pass does not use all experts (`experts_of`), each product of an expert is shared equally
    by all of them, which is the cost in expectation.

    The model's ``training`` flags, its buffers and the random number generators keep their state,
    except for buffers that the model changes in eval mode. For a model sharded by ``fully_shard``
    this is a collective call, and the sources of arguments are the sharded parameters.

    Args:
        model: any module; DDP and ``torch.compile`` wrappers are unwrapped.
        inputs: inputs of the model: a tensor, a tuple of positional arguments or a mapping of
            keyword arguments.

    Returns:
        The calls in execution order.
    """
    model = unwrap(model)
    reshard(model)
    recorder = _Recorder([*model.parameters(), *model.buffers()])
    gpus = {param.device for param in model.parameters() if param.is_cuda}
    # In inference mode, the recorder would be given other operators, such as "linear".
    ordinary = torch.inference_mode(False)
    with (
        evaluating(model),
        without_rules(),
        ordinary,
        torch.no_grad(),
        torch.random.fork_rng(gpus),
        recorder,
        unsharding(model, recorder.paused, recorder.add_source),
    ):
        output = call(model, inputs)
    calls = [*recorder.calls, recorder.output_call(output)]
    return shared_by_experts(model, calls)


def call(model: nn.Module, inputs: Inputs) -> Any:
    """Calls a model with a tensor, a tuple of arguments or a mapping of keyword arguments."""
    if isinstance(inputs, Tensor):
        return model(inputs)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Context manager for eval mode without fused transformer layers.

    The 4-bit layers of bitsandbytes, on which the mode has no other effect, stay in theirs: on a
    CPU, a pass in eval mode repacks their weights, and no gradient passes through them any more.
    """
    modules = (module for module in model.modules() if not hasattr(module, "quant_state"))
    training = {module: module.training for module in modules}
    for module in training:
        module.training = False
    try:
        with without_fused_layers(), resharded(model):
            yield
    finally:
        for module, flag in training.items():
            module.training = flag


@contextmanager
def without_fused_layers() -> Iterator[None]:
    """Context manager that disables the fast path of PyTorch's transformer layers.

    In eval mode, the fast path bypasses the layers' submodules.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _Recorder(TorchDispatchMode):
    """Records operator calls. Tensors are identified by storage: a view stands for its base."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._source: dict[int, Source] = {storage_of(tensor): tensor for tensor in known}
        # By id: the call that detached a tensor or its base, and the source that it had then.
        self._detached: dict[int, tuple[int, int]] = {}
        # Another tensor could reuse the id of a freed tensor or the key of a freed storage.
        self._alive: list[Tensor] = []
        self._is_paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._is_paused:
            return func(*args, **kwargs)
        sources = [self._sources_of(argument) for argument in args]
        sources += [self._sources_of(argument) for argument in kwargs.values()]
        out = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        inputs = tuple(source for argument in sources for source in argument)
        differentiable = inputs if _has_gradient(name, out) else ()
        if name in _REGION_POOLING:  # the regions, its second argument, receive none
            differentiable = sources[0]
        self.calls.append(Call(name, inputs, _products(name, args, sources, out), differentiable))
        self._note_outputs(func, out, args)
        return out

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Context manager in which operators are not recorded."""
        self._is_paused = True
        yield
        self._is_paused = False

    def add_source(self, tensor: Tensor, source: Tensor) -> None:
        """Lets a tensor stand for a parameter."""
        self._source[storage_of(tensor)] = source

    def output_call(self, output: Any) -> Call:
        """Returns the model's output as a call that takes the results of other calls."""
        sources = tuple(each for each in self._sources_of(output) if isinstance(each, int))
        return Call("output", sources, (), sources)

    def _sources_of(self, argument: Any) -> tuple[Source, ...]:
        tensors = [leaf for leaf in tree_leaves(argument) if isinstance(leaf, Tensor)]
        return tuple(self._source_of(tensor) for tensor in tensors)

    def _source_of(self, tensor: Tensor) -> Source:
        source = self._source.get(storage_of(tensor))
        if isinstance(source, int) and id(tensor) in self._detached:
            detached, source_then = self._detached[id(tensor)]
            # A tensor that was written to since may carry a gradient again.
            return detached if source == source_then else source
        return source

    def _note_outputs(self, func: Any, out: Any, args: Any) -> None:
        views = {storage_of(leaf) for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
        in_place = func._schema.is_mutable
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                key = storage_of(tensor)
                is_known = isinstance(self._source.get(key), Tensor)
                if key not in views or (in_place and not is_known):
                    self._source[key] = len(self.calls) - 1
                self._alive.append(tensor)
                self._note_detached(tensor, args)

    def _note_detached(self, tensor: Tensor, args: Any) -> None:
        """Notes whether the result of the last call is detached from its base."""
        key = storage_of(tensor)
        source = self._source.get(key)
        if self.calls[-1].name == "detach" and isinstance(source, int):
            self._detached[id(tensor)] = len(self.calls) - 1, source
            return
        for base in tree_leaves(args):
            if isinstance(base, Tensor) and id(base) in self._detached and storage_of(base) == key:
                self._detached[id(tensor)] = self._detached[id(base)]


def storage_of(tensor: Tensor) -> int:
    """Returns a number that identifies the tensor's storage."""
    return tensor.untyped_storage()._cdata


def memory_of(tensor: Tensor) -> Tensor:
    """Returns a flat view of a tensor's memory, from its first to its last element, no copy."""
    if not tensor.numel():
        return tensor.detach().reshape(0)
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.detach().as_strided((1 + sum((n - 1) * stride for n, stride in sizes),), (1,))


_REGION_POOLING = ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool")  # torchvision


def _has_gradient(name: str, out: Any) -> bool:
    tensors = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
    has_float = any(leaf.is_floating_point() or leaf.is_complex() for leaf in tensors)
    is_new = name.endswith("_like") or name.startswith("new_")  # of an argument's shape
    return has_float and not is_new and name not in ("detach", "embedding_renorm_")


_ATTENTION = "_scaled_dot_product"
_GROUPED = ("_grouped_mm", "grouped_mm_fallback")  # of PyTorch and of transformers
_RECURRENT = ("mkldnn_rnn_layer", "_cudnn_rnn")  # other backends use matrix products
_NORMS = ("batch_norm", "layer_norm", "group_norm", "rms_norm")


def _products(
    name: str, args: Any, sources: list[tuple[Source, ...]], out: Any
) -> tuple[Product, ...]:
    first = out[0] if isinstance(out, tuple | list) and out else out
    if name in ("convolution", "_convolution"):
        x, weight, transposed = args[0], args[1], args[6]
        macs = (x if transposed else first).numel() * weight.numel() // weight.shape[0]
        return (Product(_real(macs, x), (sources[0], sources[1])),)
    if name in ("mm", "bmm", "mv", "dot"):
        return (Product(_matmul_macs(args[0], args[1]), (sources[0], sources[1])),)
    if name in _GROUPED:  # each row of the first with one matrix of the second
        return (Product(first.numel() * args[0].shape[-1], (sources[0], sources[1])),)
    if name in ("addmm", "baddbmm", "addmv"):
        return (Product(_matmul_macs(args[1], args[2]), (sources[1], sources[2])),)
    if name.startswith(_ATTENTION):
        query, key, value = args[:3]
        scores = query.numel() * key.shape[-2]
        mixed = query.shape[:-1].numel() * value.shape[-2] * value.shape[-1]
        probabilities = sources[0] + sources[1]
        return (
            Product(scores, (sources[0], sources[1])),
            Product(mixed, (probabilities, sources[2])),
        )
    if name in _RECURRENT:
        matrices = [w for w in tree_leaves(args[1:3]) if isinstance(w, Tensor) and w.ndim == 2]
        macs = args[0].shape[:-1].numel() * sum(w.numel() for w in matrices)
        return (Product(macs, (sources[0], sources[1] + sources[2])),)
    if any(norm in name for norm in _NORMS):
        weights = tuple(s for each in sources[1:] for s in each if isinstance(s, nn.Parameter))
        return (Product(2 * first.numel(), (sources[0], weights), is_norm=True),)
    return ()


def _matmul_macs(a: Tensor, b: Tensor) -> int:
    return _real(a.numel() * (b.shape[-1] if b.ndim > 1 else 1), a)


def _real(macs: int, operand: Tensor) -> int:
    """Returns the multiply-accumulates in real numbers: four for one of complex numbers."""
    return 4 * macs if operand.is_complex() else macs
