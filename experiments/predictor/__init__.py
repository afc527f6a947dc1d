"""Training predictors: recordings, recipes, calibration, the model card.

Import `fit` from ``experiments.predictor.fitting``, `make_bundled` from
``experiments.predictor.making``.
"""
