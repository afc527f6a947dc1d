"""The attention-based predictor: network, inputs, labels, training and calibration.

The predictor estimates from a layer's weight history whether to freeze it (Sections 3.2-3.4).
Import the names in ``__all__``; everything else is internal.
"""

from smartfrz.predictor.attention import AttentionPredictor
from smartfrz.predictor.calibration import calibrate, freezing_threshold
from smartfrz.predictor.encodings import ENCODINGS
from smartfrz.predictor.gradient_agreement import GradientAgreement
from smartfrz.predictor.gradient_samples import GradientSamples
from smartfrz.predictor.history import PREVIOUS, WeightHistory, kept_before
from smartfrz.predictor.incremental import IncrementalPredictor
from smartfrz.predictor.labels import LABELS, exhausted, future_contribution, stabilised
from smartfrz.predictor.recorded import History, thinned
from smartfrz.predictor.recording import HistoryRecorder
from smartfrz.predictor.tailoring import deciding_layers, sample_positions
from smartfrz.predictor.training import STRIDES, train_predictor

__all__ = [
    "ENCODINGS",
    "LABELS",
    "PREVIOUS",
    "STRIDES",
    "AttentionPredictor",
    "GradientAgreement",
    "GradientSamples",
    "History",
    "HistoryRecorder",
    "IncrementalPredictor",
    "WeightHistory",
    "calibrate",
    "deciding_layers",
    "exhausted",
    "freezing_threshold",
    "future_contribution",
    "kept_before",
    "sample_positions",
    "stabilised",
    "thinned",
    "train_predictor",
]
