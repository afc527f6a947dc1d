"""Training of convergence predictors: recordings, recipes, calibration, the model card.

Import `fit` from ``experiments.predictor.fitting`` and `make_bundled` from
``experiments.predictor.making``.
"""
