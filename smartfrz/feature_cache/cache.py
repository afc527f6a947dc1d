"""No forward pass through the frozen front either, where the same inputs come back."""

import warnings
from collections.abc import Sequence
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter, tree_map

from smartfrz.distributed import is_compiled, unwrap
from smartfrz.feature_cache.dropout import first_random, switch_off_dropout
from smartfrz.feature_cache.prefix import Prefix, longest_prefix
from smartfrz.feature_cache.store import FeatureStore
from smartfrz.freezer import Freezer
from smartfrz.graph import ModuleCall, ModuleCalls, evaluating, without_fused_layers
from smartfrz.layers import Layer


class FeatureCache:
    """Calls a model; what its frozen front says of a sample is computed once and then remembered.

    Call it in place of the model, with the samples' numbers in front:

        cached = FeatureCache(freezer)
        for keys, inputs, labels in loader:
            loss = criterion(cached(keys, inputs), labels)

    Once layers are frozen in front, the next forward pass finds the last place at which the network
    can be cut (`longest_prefix`), and features are gathered from there. When
    more layers are frozen it is cut anew, but not before all samples seen are remembered where it
    is cut now: their new features are then computed from those, and the old ones are forgotten.
    What comes out equals the model's own output up to the rounding of batches of another size. In
    eval mode the model is simply called.

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
        self._stage: _Stage | None = None
        self._is_due = False  # for another cut

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
        # Frozen layers may be in eval mode.
        with without_fused_layers():
            return self._called(samples, args, kwargs)

    def _called(self, samples: list[int], args: Any, kwargs: Any) -> Any:
        self._check_inputs_repeat(samples, (args, kwargs))
        front = self._frozen_in_front()
        if front != self._front:
            self._front, self._is_due = front, True
            if not self._keeps_dropout:
                self._switch_off_dropout(args, kwargs)
        if self._is_due and self._is_complete():
            return self._cut_anew(args, kwargs)
        if self._stage is None:
            return self.freezer.model(*args, **kwargs)
        features = self._stage.features(unwrap(self.freezer.model), samples, args, kwargs)
        if self._is_complete():
            self._stage.below = None  # it has served
        with self._stage.prefix.replaced(features):
            return self.freezer.model(*args, **kwargs)

    def _is_complete(self) -> bool:
        """Whether all samples seen are remembered, or as many as can be."""
        store = self._stage.store if self._stage else None
        return store is None or len(store) >= min(store.capacity, len(self._fingerprints))

    def _cut_anew(self, args: Any, kwargs: Any) -> Any:
        model = unwrap(self.freezer.model)
        with ModuleCalls(model) as recorded:
            output = self.freezer.model(*args, **kwargs)
        if self._keeps_dropout:
            self._check_nothing_is_random(recorded.calls)
        self._is_due = False
        if self._front:
            prefix = longest_prefix(model, recorded.calls, lambda: model(*args, **kwargs))
            self._stage = (
                _Stage(prefix, self._stage, self._budget_bytes, self._folder) if prefix else None
            )
            self._say_where()
        return output

    def _switch_off_dropout(self, args: Any, kwargs: Any) -> None:
        model = unwrap(self.freezer.model)
        with ModuleCalls(model) as recorded, evaluating(model), torch.no_grad():
            model(*args, **kwargs)
        switch_off_dropout(recorded.calls, self._front or [])

    def _say_where(self) -> None:
        self.cut = self._name(self._stage.prefix.cut.module) if self._stage else ""
        if self._stage:
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


class _Stage:
    """A place at which the network is cut, and the features there that are remembered.

    Args:
        prefix: what is skipped.
        below: an earlier one, which the features of further samples are computed from.
        budget_bytes: how much this stage and the one below it remember.
        folder: as in `FeatureCache`.
    """

    def __init__(
        self, prefix: Prefix, below: "_Stage | None", budget_bytes: int, folder: Path | None
    ) -> None:
        self.prefix, self.folder = prefix, folder
        self.below = below
        self.budget_bytes = budget_bytes
        self.store: FeatureStore | None = None

    def features(self, model: nn.Module, samples: list[int], args: Any, kwargs: Any) -> Tensor:
        """The features of a batch, (B, ...); what is missing is computed and, if it fits, kept."""
        known = [False] * len(samples) if self.store is None else self.store.has(samples)
        missing = [i for i, is_known in enumerate(known) if not is_known]
        if not missing and self.store is not None:
            return self.store.get(samples)
        rows = torch.tensor(missing)
        some_args, some_kwargs = tree_map(
            lambda leaf: leaf[rows] if _has_rows(leaf, len(samples)) else leaf, (args, kwargs)
        )
        new = [samples[i] for i in missing]
        computed = self._computed(model, new, some_args, some_kwargs)
        if self.store is None:
            self.store = self._make_store(computed[0])
        features = computed.new_empty(len(samples), *computed.shape[1:])
        features[rows] = computed
        if len(missing) < len(samples):
            kept = [i for i, is_known in enumerate(known) if is_known]
            features[torch.tensor(kept)] = self.store.get([samples[i] for i in kept])
        self.store.put(new, computed)
        return features

    def _computed(self, model: nn.Module, samples: list[int], args: Any, kwargs: Any) -> Tensor:
        if self.below is None:
            return self.prefix.features(lambda: model(*args, **kwargs))
        earlier = self.below.features(model, samples, args, kwargs)
        with self.below.prefix.replaced(earlier):
            return self.prefix.features(lambda: model(*args, **kwargs), self.below.prefix)

    def _make_store(self, row: Tensor) -> FeatureStore:
        """As large as the budget allows beside the stage below, or without it if that is little."""
        held = self.below.store.nbytes if self.below and self.below.store else 0
        left = self.budget_bytes - held
        if left < held:
            self.below, left = None, self.budget_bytes
        return FeatureStore(row, left, self.folder)


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
            total = 31 * total + (bits * _factors(bits.shape[1], bits.device)).sum(1).cpu()
    return total.tolist()


@lru_cache(maxsize=8)
def _factors(count: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-(2**62), 2**62, (count,), generator=generator).to(device)
