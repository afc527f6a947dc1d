"""No forward pass through the frozen front either, where the same inputs come back."""

import warnings
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter, tree_map

from smartfrz.distributed import is_compiled, unwrap
from smartfrz.dropout import first_random, switch_off_dropout
from smartfrz.feature_store import FeatureStore
from smartfrz.freezer import Freezer
from smartfrz.layers import Layer
from smartfrz.module_calls import ModuleCall, ModuleCalls
from smartfrz.prefix import Prefix, longest_prefix
from smartfrz.tracing import evaluating


class FeatureCache:
    """Calls a model; what its frozen front says of a sample is computed once and then remembered.

    Call it in place of the model, with the samples' numbers in front::

        cached = FeatureCache(freezer)
        for keys, inputs, labels in loader:
            loss = criterion(cached(keys, inputs), labels)

    After each freeze, the next forward pass finds the last place at which the network can be cut
    (:func:`smartfrz.prefix.longest_prefix`), and features are gathered anew from there. What comes
    out equals the model's own output up to the rounding of batches of another size. In eval mode
    the model is simply called.

    It is for inputs that repeat unchanged: padded to one length, not augmented. Modules that are
    skipped are not called, their forward hooks are, with arbitrary numbers. Several processes each
    remember the samples that come by them.

    Args:
        freezer: its model is called; what it has frozen in front is skipped.
        budget_bytes: how much is remembered at most; the features of further samples are computed.
        folder: where on disk features are kept, memory-mapped; by default they are in memory.
        dropout: ``"keep"``, as stock training does: then none may be live in front of the head, for
            with it the features of a sample are never the same. ``"eval"`` switches it off in what
            has been frozen in front, as AutoFreeze does; those modules stay in eval mode.

    Raises:
        ValueError: the model is compiled.

    Attributes:
        cut: name of the module whose output is remembered; empty while nothing is.
    """

    def __init__(
        self,
        freezer: Freezer,
        budget_bytes: int = 2**30,
        folder: Path | None = None,
        dropout: str = "keep",
    ) -> None:
        if dropout not in ("keep", "eval"):
            raise ValueError(f"dropout is 'keep' or 'eval', not {dropout!r}.")
        if is_compiled(freezer.model):
            raise ValueError(
                "A feature cache calls parts of the model, and torch.compile has made one of them: "
                "use either the one or the other."
            )
        self.freezer = freezer
        self.cut = ""
        self._budget_bytes, self._folder = budget_bytes, folder
        self._keeps_dropout = dropout == "keep"
        self._fingerprints: dict[int, int] = {}
        self._front: list[Layer] | None = None
        self._prefix: Prefix | None = None
        self._store: FeatureStore | None = None

    def __call__(self, keys: Tensor | Sequence[int], *args: Any, **kwargs: Any) -> Any:
        """The model's output for a batch.

        Args:
            keys: (B,) the number of each sample, the same whenever it comes.
            *args: what the model is called with.
            **kwargs: likewise. All tensors with B rows are taken to hold a row per sample.

        Raises:
            ValueError: a sample came with other inputs than before, or random numbers are drawn in
                front of the head.
        """
        if not self.freezer.model.training:
            return self.freezer.model(*args, **kwargs)
        samples = keys.tolist() if isinstance(keys, Tensor) else list(keys)
        self._check_inputs_repeat(samples, (args, kwargs))
        front = self._frozen_in_front()
        if front != self._front:
            self._front = front
            return self._cut_anew(args, kwargs)
        if self._prefix is None:
            return self.freezer.model(*args, **kwargs)
        with self._prefix.replaced(self._features(samples, args, kwargs)):
            return self.freezer.model(*args, **kwargs)

    def _features(self, samples: list[int], args: Any, kwargs: Any) -> Tensor:
        assert self._prefix is not None
        known = [False] * len(samples) if self._store is None else self._store.has(samples)
        missing = [i for i, is_known in enumerate(known) if not is_known]
        if not missing:
            assert self._store is not None
            return self._store.get(samples)
        rows = torch.tensor(missing)
        some_args, some_kwargs = tree_map(
            lambda leaf: leaf[rows] if _has_rows(leaf, len(samples)) else leaf, (args, kwargs)
        )
        model = unwrap(self.freezer.model)
        computed = self._prefix.features(lambda: model(*some_args, **some_kwargs))
        if self._store is None:
            self._store = FeatureStore(computed[0], self._budget_bytes, self._folder)
        features = computed.new_empty(len(samples), *computed.shape[1:])
        features[rows] = computed
        if len(missing) < len(samples):
            kept = [i for i, is_known in enumerate(known) if is_known]
            features[torch.tensor(kept)] = self._store.get([samples[i] for i in kept])
        self._store.put([samples[i] for i in missing], computed)
        return features

    def _cut_anew(self, args: Any, kwargs: Any) -> Any:
        assert self._front is not None
        model = unwrap(self.freezer.model)
        self._store, self._prefix, self.cut = None, None, ""
        if not self._keeps_dropout:
            with ModuleCalls(model) as recorded, evaluating(model), torch.no_grad():
                model(*args, **kwargs)
            switch_off_dropout(recorded.calls, self._front)
        with ModuleCalls(model) as recorded:
            output = self.freezer.model(*args, **kwargs)
        if self._keeps_dropout:
            self._check_nothing_is_random(recorded.calls)
        if self._front:
            self._prefix = longest_prefix(model, recorded.calls, lambda: model(*args, **kwargs))
            self._say_where()
        return output

    def _say_where(self) -> None:
        if self._prefix is not None:
            self.cut = self._name(self._prefix.cut.module)
            return
        warnings.warn(
            "Layers are frozen in front, but there is no module after which the forward pass can "
            "be cut: it is not skipped.",
            stacklevel=4,
        )

    def _name(self, module: nn.Module) -> str:
        return {each: name for name, each in unwrap(self.freezer.model).named_modules()}[module]

    def _frozen_in_front(self) -> list[Layer]:
        frozen = self.freezer.frozen
        return list(takewhile(lambda layer: layer.name in frozen, self.freezer.layers))

    def _check_inputs_repeat(self, samples: list[int], inputs: Any) -> None:
        fingerprints = _fingerprints(inputs, len(samples))
        for sample, fingerprint in zip(samples, fingerprints, strict=True):
            if self._fingerprints.setdefault(sample, fingerprint) != fingerprint:
                raise ValueError(
                    f"Sample {sample} came with other inputs than before. Features can be "
                    "remembered only of inputs that repeat unchanged: without augmentation, and "
                    "padded to one length."
                )

    def _check_nothing_is_random(self, calls: Sequence[ModuleCall]) -> None:
        module = first_random(calls, [each for each in self.freezer.layers if not each.is_head])
        if module is not None:
            raise ValueError(
                f"{self._name(module)} draws random numbers, as dropout does, so that no forward "
                "pass is like the one before: set its probability to 0, or say dropout='eval'."
            )


def _has_rows(leaf: Any, count: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == count


def _fingerprints(inputs: Any, count: int) -> list[int]:
    """A number for each sample that depends on every bit of its rows, and on no other sample."""
    total = torch.zeros(count, dtype=torch.int64)
    for leaf in tree_iter(inputs):
        if _has_rows(leaf, count):
            rows = leaf.detach().reshape(count, -1).contiguous()
            size = rows.shape[1] * rows.element_size()
            bits = rows.view(torch.int32 if size % 4 == 0 else torch.uint8)
            generator = torch.Generator().manual_seed(0)
            factors = torch.randint(-(2**62), 2**62, bits.shape[1:], generator=generator)
            total = 31 * total + (bits * factors.to(bits.device)).sum(1).cpu()
    return total.tolist()
