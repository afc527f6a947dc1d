"""The model card says what the facts say."""

import copy

from experiments.card import model_card

RECORDING = {
    **{"model": "residual", "dataset": "digits[5:10]", "train_images": 0, "image_size": 16},
    **{"epochs": 4.0, "lr": 0.05, "pretraining": None, "seed": 0},
    "options": {"records_per_epoch": 10, "probe_images": 128, "reference_seed": 1000},
}
SCORE = {
    **{"examples": 429, "positive_rate": 0.5501, "accuracy": 0.741},
    **{"auroc": 0.8591, "auroc_last_displacement": 0.8062},
}
FACTS = {
    "id": "0123456789ab",
    "held_out": {
        "residual": SCORE,
        "plain": SCORE | {"auroc": 0.7},
        "attention": SCORE | {"auroc": None, "auroc_last_displacement": None},
    },
    "training": {
        **{"encoding": "displacement", "tolerance": 0.015, "steps": 2000, "batch_size": 32},
        **{"lr": 0.01, "momentum": 0.9},
    },
    "recordings": [
        RECORDING,
        RECORDING
        | {"model": "plain", "train_images": 2560, "epochs": 0.5}
        | {"pretraining": {"dataset": "cifar100[0:50]", "epochs": 2.0}},
        RECORDING
        | {"model": "plain", "seed": 1, "pretraining": {"dataset": "imagenet", "epochs": 0.0}},
    ],
    "machine": {"cpu": "a processor", "cores": 2, "gpu": None},
    **{"torch": "2.14.1", "git": "c0ffee", "command": "make predictor", "date": "2026-01-01"},
}


def test_says_data_label_training_and_scores():
    card = model_card(FACTS)
    for line in (
        "| residual | digits[5:10] | all | 16 | 4 | 0.05 | random weights | 0 |",
        "| plain | digits[5:10] | 2560 | 16 | 0.5 | 0.05 | cifar100[0:50], 2 epochs | 0 |",
        "| plain | digits[5:10] | all | 16 | 4 | 0.05 | imagenet | 1 |",
        r"$$\max_{s \ge t} |\mathrm{CKA}_s - \mathrm{CKA}_t| \le 0.015$$",
        "| residual | 429 | 55% | 0.859 | 0.806 | 74% |",
        "| attention | 429 | 55% | undefined | undefined | 74% |",
        "The predictor does better than the rule on 1 of 2 networks.",
    ):
        assert line in card.splitlines()
    for fact in ("`make predictor`", "0123456789ab", "c0ffee", "a processor", "2000 batches of 32"):
        assert fact in card
    assert "digits[5:10] with residual, plain and nothing else" in card


def test_names_the_gpu_where_there_is_one():
    assert "a GPU" in model_card(FACTS | {"machine": FACTS["machine"] | {"gpu": "a GPU"}})


def test_one_network_alone_has_no_scores():
    facts = copy.deepcopy(FACTS) | {"held_out": {}, "recordings": [RECORDING]}
    card = model_card(facts)
    assert "none can be left out" in card and "does better" not in card
