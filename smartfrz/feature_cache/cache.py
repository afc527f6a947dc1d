"""The feature cache, which skips the forward pass of a frozen prefix on repeated inputs."""

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from smartfrz.compilation import is_compiled
from smartfrz.distributed import unwrap
from smartfrz.feature_cache.dropout import first_random, switch_off_dropout
from smartfrz.feature_cache.fingerprints import Fingerprints, has_rows
from smartfrz.feature_cache.prefix import Forward, Prefix, longest_prefix
from smartfrz.feature_cache.store import FeatureStore, take
from smartfrz.freezer import Freezer
from smartfrz.freezing import follow_mode
from smartfrz.graph import ModuleCall, ModuleCalls, evaluating, without_fused_layers
from smartfrz.layers import Layer
from smartfrz.sharding import sharded_modules


class FeatureCache:
    """Calls a model and computes the frozen prefix's features only once per sample.

    Call the cache in place of the model, with the samples' keys as first argument:

        cached = FeatureCache(freezer)
        for keys, inputs, labels in loader:
            loss = criterion(cached(keys, inputs), labels)

    Once the first layers are frozen, the next forward pass finds the last module after which the
    network can be cut (`longest_prefix`), and features are stored at this cut. When more layers
    freeze, the network is cut again at once. When a sample comes again, its new features are
    computed from the stored ones, which they replace. If layers are thawed, all features are
    discarded. The output equals that of the model, up to rounding differences between batch sizes.
    In eval mode the cache only calls the model.

    Inputs must repeat unchanged: padded to one length and not augmented. The forward passes of
    skipped modules do not run, but their forward hooks do, with arbitrary values. With several
    processes, each stores the samples that it receives.

    Args:
        freezer: the freezer of the model to call; its frozen prefix is skipped.
        budget_bytes: memory limit of the stored features. The features of further samples are
            computed each time.
        folder: folder for memory-mapped files of features; by default features are in memory.
        dropout: ``"keep"`` leaves dropout on, as PyTorch does. Active dropout before the head is
            then an error, because it makes the features of a sample vary. ``"eval"`` switches off
            dropout in the frozen prefix, as AutoFreeze does; its modules stay in eval mode.

    Raises:
        ValueError: the model is compiled or sharded by ``fully_shard``, or ``dropout`` is unknown.

    Attributes:
        cut: name of the module whose output is stored; empty if none is.
    """

    def __init__(
        self,
        freezer: Freezer,
        budget_bytes: int = 2**30,
        folder: Path | None = None,
        dropout: str = "keep",
    ) -> None:
        if dropout not in ("keep", "eval"):
            raise ValueError(f"dropout must be 'keep' or 'eval', not {dropout!r}.")
        if is_compiled(freezer.model):
            raise ValueError(
                "A feature cache cannot skip modules inside a compiled model. Use either the cache "
                "or torch.compile."
            )
        if sharded_modules(freezer.model):
            raise ValueError(
                "A feature cache does not support models sharded by fully_shard: a process that "
                "skips modules would not take part in gathering their parameters. Use the model "
                "without the cache, or DistributedDataParallel."
            )
        self.freezer = freezer
        self.cut = ""
        self._budget_bytes, self._folder = budget_bytes, folder
        self._keeps_dropout = dropout == "keep"
        self._fingerprints = Fingerprints()
        self._frozen_prefix: list[Layer] | None = None
        self._frozen: dict[str, int] = {}
        self._without_dropout: list[nn.Module] = []
        self._stage: _Stage | None = None

    def __call__(self, keys: Tensor | Sequence[int], *args: Any, **kwargs: Any) -> Any:
        """Returns the model's output for a batch.

        Args:
            keys: (B,) an integer per sample that identifies it in all batches. A sample may appear
                several times in a batch. For a tensor on a GPU the host waits at each step.
            *args: positional arguments of the model.
            **kwargs: keyword arguments of the model. Every tensor with B rows is taken to contain
                one row per sample.

        Raises:
            ValueError: a sample has other inputs than before, or random numbers are drawn before
                the head. For inputs on a GPU, changed inputs are reported by the next call, when
                the device has compared them; the sample's features are then discarded.
        """
        self._check_inputs_repeated(wait=True)
        if not self.freezer.model.training:
            return self.freezer.model(*args, **kwargs)
        samples = keys.tolist() if isinstance(keys, Tensor) else list(keys)
        # Frozen transformer layers may be in eval mode, in which the fused layers would be used.
        with without_fused_layers():
            return self._called(samples, args, kwargs)

    @property
    def nbytes(self) -> int:
        """The size in bytes of the memory that is allocated for features, never over the budget."""
        return self._stage.nbytes if self._stage else 0

    def _called(self, samples: list[int], args: Any, kwargs: Any) -> Any:
        self._fingerprints.compare(samples, (args, kwargs))
        self._check_inputs_repeated(wait=False)
        if not self._frozen.items() <= self.freezer.frozen.items():
            self._discard_features()
        self._frozen = dict(self.freezer.frozen)
        frozen_prefix = self._frozen_prefix_now()
        if frozen_prefix != self._frozen_prefix:
            return self._cut_again(frozen_prefix, samples, args, kwargs)
        with self._prefix_skipped(samples, args, kwargs):
            return self.freezer.model(*args, **kwargs)

    def _prefix_skipped(
        self, samples: list[int], args: Any, kwargs: Any
    ) -> AbstractContextManager[None]:
        if self._stage is None:
            return nullcontext()
        features = self._stage.features(unwrap(self.freezer.model), samples, args, kwargs)
        return self._stage.prefix.replaced(features)

    def _cut_again(
        self, frozen_prefix: list[Layer], samples: list[int], args: Any, kwargs: Any
    ) -> Any:
        model, count = unwrap(self.freezer.model), len(samples)
        # A cut is the same for any batch, so that a small one is enough to find it.
        some_args, some_kwargs = _rows((args, kwargs), range(min(2, count)), count)
        forward = partial(model, *some_args, **some_kwargs)
        if not self._keeps_dropout:
            self._switch_off_dropout(frozen_prefix, forward)
        skipped = self._stage.prefix.parts if self._stage else ()
        with self._prefix_skipped(samples, args, kwargs), ModuleCalls(model, skipped) as recorded:
            output = self.freezer.model(*args, **kwargs)
        if self._keeps_dropout:
            self._check_nothing_is_random(recorded.calls)
        self._frozen_prefix = frozen_prefix
        if frozen_prefix:
            self._cut_at(longest_prefix(model, recorded.calls, forward))
        return output

    def _cut_at(self, prefix: Prefix | None) -> None:
        if prefix is None:
            self._stage, self.cut = None, ""
            warnings.warn(
                "The frozen prefix is not skipped, because there is no module after which the "
                "forward pass can be cut.",
                stacklevel=5,
            )
        elif self._stage is None or not prefix.ends_where(self._stage.prefix):
            self._stage = _Stage(prefix, self._stage, self._budget_bytes, self._folder)
            self.cut = self._name(prefix.cut.module)

    def _switch_off_dropout(self, frozen_prefix: list[Layer], forward: Forward) -> None:
        model = unwrap(self.freezer.model)
        with ModuleCalls(model) as recorded, evaluating(model), torch.no_grad():
            forward()
        self._without_dropout = switch_off_dropout(recorded.calls, frozen_prefix)

    def _discard_features(self) -> None:
        """Discards all features and switches dropout on again, because layers were thawed."""
        self._frozen_prefix, self._stage, self.cut = None, None, ""
        frozen = (layer for layer in self.freezer.layers if layer.name in self.freezer.frozen)
        stay = {module for layer in frozen for module in layer.modules}
        for module in self._without_dropout:
            if module not in stay:
                follow_mode(module, self.freezer.model.training)

    def _name(self, module: nn.Module) -> str:
        return {each: name for name, each in unwrap(self.freezer.model).named_modules()}[module]

    def _frozen_prefix_now(self) -> list[Layer]:
        frozen = self.freezer.frozen
        return list(takewhile(lambda layer: layer.name in frozen, self.freezer.layers))

    def _check_inputs_repeated(self, wait: bool) -> None:
        changed = self._fingerprints.changed(wait)
        if not changed:
            return
        if self._stage:
            self._stage.drop(changed)  # may have been computed from the other inputs
        raise ValueError(
            f"Sample {changed[0]} has other inputs than before. A feature cache needs inputs "
            "that repeat unchanged: remove augmentation and pad to one length."
        )

    def _check_nothing_is_random(self, calls: Sequence[ModuleCall]) -> None:
        module = first_random(calls, [each for each in self.freezer.layers if not each.is_head])
        if module is not None:
            raise ValueError(
                f"{self._name(module)} draws random numbers, as dropout does, which makes the "
                "features of a sample vary. Set its probability to 0, or pass dropout='eval'."
            )


class _Stage:
    """A cut of the network and the features stored there.

    Args:
        prefix: the part of the forward pass that is skipped.
        below: the stage of the previous cut, from whose features new ones are computed.
        budget_bytes: memory limit of this stage and those below together.
        folder: as in `FeatureCache`.
    """

    def __init__(
        self, prefix: Prefix, below: "_Stage | None", budget_bytes: int, folder: Path | None
    ) -> None:
        self.prefix, self.folder = prefix, folder
        self.below = below
        self.budget_bytes = budget_bytes
        self.store: FeatureStore | None = None

    @property
    def nbytes(self) -> int:
        """The size in bytes of the memory that is allocated for features."""
        stored = self.store.nbytes if self.store else 0
        return stored + (self.below.nbytes if self.below else 0)

    def features(self, model: nn.Module, samples: list[int], args: Any, kwargs: Any) -> Tensor:
        """Returns the features of a batch, (B, ...); computes missing ones and stores what fits."""
        features = self._features(model, samples, args, kwargs)
        if self.store is None:
            self.store = FeatureStore(features[0], self.budget_bytes, self.folder)
        new = list(self.store.fitting(samples))
        if new and self.below:
            # What is computed from these rows replaces them; the rest makes room.
            left = self.budget_bytes - self.store.bytes_with(len(new))
            self.below = self.below._without(new, left)
        self.store.put(samples, features)
        return features

    def drop(self, samples: list[int]) -> None:
        """Discards the features of samples."""
        if self.store:
            self.store.drop(samples)
        if self.below:
            self.below.drop(samples)

    def _without(self, samples: list[int], budget_bytes: int) -> "_Stage | None":
        """Removes samples, then what exceeds the budget, from the lowest stage first.

        Returns:
            The highest stage that still stores features, if any.
        """
        assert self.store is not None
        self.store.drop(samples)
        self.store.shrink(budget_bytes)
        if self.below:
            self.below = self.below._without(samples, budget_bytes - self.store.nbytes)
        return self if len(self.store) else self.below

    def _features(self, model: nn.Module, samples: list[int], args: Any, kwargs: Any) -> Tensor:
        known = [False] * len(samples) if self.store is None else self.store.has(samples)
        missing = [i for i, is_known in enumerate(known) if not is_known]
        if not missing and self.store is not None:
            return self.store.get(samples)
        some_args, some_kwargs = _rows((args, kwargs), missing, len(samples))
        new = [samples[i] for i in missing]
        computed = self._computed(model, new, some_args, some_kwargs)
        if self.store is None or len(missing) == len(samples):
            return computed
        kept = [i for i, is_known in enumerate(known) if is_known]
        rows = dict(zip(kept, self.store.get([samples[i] for i in kept]), strict=True))
        rows |= zip(missing, computed, strict=True)
        return torch.stack([rows[i] for i in range(len(samples))])

    def _computed(self, model: nn.Module, samples: list[int], args: Any, kwargs: Any) -> Tensor:
        if self.below is None:
            return self.prefix.features(lambda: model(*args, **kwargs))
        earlier = self.below._features(model, samples, args, kwargs)
        with self.below.prefix.replaced(earlier):
            return self.prefix.features(lambda: model(*args, **kwargs), self.below.prefix)


def _rows(inputs: Any, indices: Sequence[int], count: int) -> Any:
    """Returns the inputs of some of ``count`` samples."""
    return tree_map(
        lambda leaf: take(leaf, indices) if has_rows(leaf, count) else leaf,
        inputs,
    )
