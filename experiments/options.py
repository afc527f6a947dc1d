"""The options of each method, as specs set them."""

from dataclasses import dataclass

from experiments.errors import UserError


@dataclass(frozen=True)
class ShorterOptions:
    """Full training with fewer epochs and the learning rate annealed over them.

    The number of epochs is chosen to spend the same compute as the method ``match`` with the same
    seed or, if ``compute`` is given, that fraction of the compute of full training.
    """

    match: str = "smartfrz"
    compute: float | None = None

    def __post_init__(self) -> None:
        _check_compute(self.compute)


@dataclass(frozen=True)
class LinearOptions:
    """Linear freezing (FreezeOut).

    The number of epochs is chosen to spend the same compute as the method ``match`` with the same
    seed (Table 2); if ``match`` is empty, it is that of the config. If ``compute`` is given, it is
    also that of the config, and ``t0`` is chosen to spend that fraction of the compute of full
    training. With ``freeze = false``, nothing is frozen, but the number of epochs and all learning
    rates are the same.
    """

    t0: float = 0.5
    how: str = "linear"
    scale: bool = False
    match: str = "smartfrz"
    freeze: bool = True
    compute: float | None = None

    def __post_init__(self) -> None:
        _check_compute(self.compute)
        if self.how not in ("linear", "cubic"):
            raise UserError(f"how = {self.how!r} is not a schedule: choose linear or cubic.")
        if not 0 < self.t0 <= 1:
            raise UserError(f"t0 = {self.t0} must be above 0 and at most 1.")


@dataclass(frozen=True)
class AutoFreezeOptions:
    """AutoFreeze with M intervals per epoch and percentile N.

    The paper uses M = 4 and N = 50 (Appendix B). A fractional M suits epochs that are shorter than
    the paper's.
    """

    intervals_per_epoch: int | float = 4
    percentile: float = 50.0

    def __post_init__(self) -> None:
        _check_positive(self, "intervals_per_epoch")
        if not 0 <= self.percentile <= 100:
            raise UserError(f"percentile = {self.percentile} must be between 0 and 100.")


@dataclass(frozen=True)
class SmartFRZOptions:
    """SmartFRZ.

    ``predictor`` is the name of a predictor that is bundled or trained for the table, a folder or a
    Hub id. The plan sets ``threshold``, if it is None, to the predictor's own, and ``fingerprint``
    to a hash of the predictor's weights or of its recipe. The paper names no ``min_records``: the
    default is the fewest with which the predictor can decide, and not that of the policy. It has no
    guard, either. With ``compute``, the run spends that fraction of full training's compute.
    """

    predictor: str = "drift"
    records_per_epoch: int = 4
    records_per_decision: int = 1
    threshold: float | None = None
    fingerprint: str = ""
    min_records: int = 2
    compute: float | None = None
    guard: bool = False

    def __post_init__(self) -> None:
        _check_positive(self, "records_per_epoch", "records_per_decision", "min_records")
        _check_compute(self.compute)


@dataclass(frozen=True)
class SimilarityOptions:
    """Similarity-guided freezing, the oracle of Table 1.

    CKA is measured ``looks_per_epoch`` times per epoch (once in the paper) on the first
    ``probe_images`` training images. The reference model is the final model of full training with
    the same config and the seed ``reference_seed``.
    """

    looks_per_epoch: int | float = 1
    tolerance: float = 0.01
    probe_images: int = 128
    reference_seed: int = 1000

    def __post_init__(self) -> None:
        _check_positive(self, "looks_per_epoch")
        _check_probe(self.probe_images)


@dataclass(frozen=True)
class DisplacementOptions:
    """A rule without a trained predictor: a layer freezes once its relative displacement is small.

    ``threshold`` is the largest relative displacement at which a layer freezes.
    """

    records_per_epoch: int = 4
    threshold: float = 0.001

    def __post_init__(self) -> None:
        _check_positive(self, "records_per_epoch")


@dataclass(frozen=True)
class RandomOptions:
    """Layers freeze in random order: a control for the criterion that selects layers.

    The last layer freezes after the fraction ``span`` of the run. The span is chosen to spend the
    same compute as the method ``match`` with the same seed; if ``match`` is empty, it is that of
    the config. If ``compute`` is given, the span is chosen to spend that fraction of the compute of
    full training.
    """

    match: str = "smartfrz"
    span: float = 1.0
    compute: float | None = None

    def __post_init__(self) -> None:
        _check_compute(self.compute)
        _check_positive(self, "span")


@dataclass(frozen=True)
class SimFreezeOptions:
    """SimFreeze's criterion: a layer freezes once its CKA to the initial model has stabilised.

    CKA is measured ``looks`` times during the run, on the first ``probe_images`` training images.
    """

    looks: int = 10
    tolerance: float = 0.01
    probe_images: int = 128

    def __post_init__(self) -> None:
        _check_positive(self, "looks")
        _check_probe(self.probe_images)


@dataclass(frozen=True)
class SVCCAOptions:
    """SVCCA freezing: layers freeze from the front once their outputs stand still.

    The outputs are compared ``looks`` times during the run, on the first ``probe_images`` training
    images. The sources name no ``tolerance``: the default is ours.
    """

    looks: int = 10
    tolerance: float = 0.01
    probe_images: int = 256

    def __post_init__(self) -> None:
        _check_positive(self, "looks", "probe_images")


@dataclass(frozen=True)
class MeasuredOptions:
    """Freezing by measured contribution, which spends the fraction ``compute`` of full training.

    The run is divided into ``looks`` intervals. Layers may freeze after each of them, by what they
    have contributed in it.
    """

    looks: int = 20
    compute: float = 0.75

    def __post_init__(self) -> None:
        _check_positive(self, "looks")
        _check_compute(self.compute)


@dataclass(frozen=True)
class ComputeOptions:
    """A fixed schedule that spends the fraction ``compute`` of the compute of full training."""

    compute: float = 0.75

    def __post_init__(self) -> None:
        _check_compute(self.compute)


@dataclass(frozen=True)
class PrefixThenBodyOptions:
    """The front is frozen from the start, and the rest of the body from a later step on.

    A step with the front frozen costs at least the fraction ``prefix`` of one of full training. The
    rest freezes at once, or over the fraction ``spread`` of the run; annealed over the last
    fraction ``anneal`` of its steps, or at the mean of its weights over the last ``average``.
    """

    prefix: float = 0.75
    compute: float = 0.58
    spread: float = 0.0
    anneal: float = 0.0
    average: float = 0.0
    freeze: bool = True

    def __post_init__(self) -> None:
        _check_compute(self.compute)
        _check_fractions(self, "prefix", "spread", "anneal", "average")
        if bool(self.spread) + bool(self.average) + bool(self.anneal or not self.freeze) > 1:
            raise UserError("spread, average, and anneal or freeze = false: choose one.")


@dataclass(frozen=True)
class UnfreezingOptions:
    """Layers thaw from the head to a prefix that stays frozen.

    The pace is one that thaws all layers within the fraction ``over`` of the run, and the prefix
    such that the run spends the fraction ``compute`` of full training.
    """

    compute: float = 0.75
    over: float = 0.25

    def __post_init__(self) -> None:
        _check_compute(self.compute)
        _check_fractions(self, "over")


@dataclass(frozen=True)
class FrozenGroupOptions:
    """The layers of one of ``groups`` groups, numbered from 1 at the front, freeze at a moment.

    ``at`` is the fraction of the run after which they freeze.
    """

    group: int
    at: float
    groups: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.group <= self.groups:
            raise UserError(f"group = {self.group} must be from 1 to groups = {self.groups}.")
        if not 0 <= self.at < 1:
            raise UserError(f"at = {self.at} must be at least 0 and below 1.")


@dataclass(frozen=True)
class RecordOptions:
    """Full training that records training data for the predictor.

    CKA is measured on the first ``probe_images`` test images.
    """

    records_per_epoch: int = 20
    sampled_weights: int = 4096
    probe_images: int = 256

    def __post_init__(self) -> None:
        _check_positive(self, "records_per_epoch")
        _check_probe(self.probe_images)


def _check_positive(options: object, *names: str) -> None:
    for name in names:
        if getattr(options, name) <= 0:
            raise UserError(f"{name} must be positive.")


def _check_fractions(options: object, *names: str) -> None:
    for name in names:
        if not 0 <= (value := getattr(options, name)) <= 1:
            raise UserError(f"{name} = {value} must be between 0 and 1.")


def _check_compute(compute: float | None) -> None:
    if compute is not None and not 0 < compute <= 1:
        raise UserError(
            f"compute = {compute} must be above 0 and at most 1: it is a fraction of full "
            "training's compute."
        )


def _check_probe(images: int) -> None:
    """CKA is measured in batches of 32 images, and needs at least 4 in each."""
    if images < 4 or 0 < images % 32 < 4:
        raise UserError(
            f"probe_images = {images} must be at least 4, and leave 0 or at least 4 images after "
            "batches of 32."
        )
