"""The attention-based predictor: network, inputs, labels, training and calibration.

The predictor estimates from a layer's weight history whether to freeze it (Sections 3.2-3.4).
Import the names in ``__all__``; everything else is internal.
"""

from smartfrz.predictor.attention import AttentionPredictor
from smartfrz.predictor.calibration import calibrate, freezing_threshold
from smartfrz.predictor.encodings import ENCODINGS
from smartfrz.predictor.history import PREVIOUS, WeightHistory, kept_before
from smartfrz.predictor.incremental import IncrementalPredictor
from smartfrz.predictor.labels import LABELS, exhausted, future_contribution, stabilised
from smartfrz.predictor.outputs import WIDTH, output_drift, output_drift_of
from smartfrz.predictor.recorded import History, thinned
from smartfrz.predictor.recording import HistoryRecorder
from smartfrz.predictor.records import OutputRecords
from smartfrz.predictor.tailoring import deciding_layers, sample_indices, sample_positions
from smartfrz.predictor.training import STRIDES, encoded, train_predictor

__all__ = [
    "ENCODINGS",
    "LABELS",
    "PREVIOUS",
    "STRIDES",
    "WIDTH",
    "AttentionPredictor",
    "History",
    "HistoryRecorder",
    "IncrementalPredictor",
    "OutputRecords",
    "WeightHistory",
    "calibrate",
    "deciding_layers",
    "encoded",
    "exhausted",
    "freezing_threshold",
    "future_contribution",
    "kept_before",
    "output_drift",
    "output_drift_of",
    "sample_indices",
    "sample_positions",
    "stabilised",
    "thinned",
    "train_predictor",
]
