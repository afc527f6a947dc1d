"""Tests of the model card."""

from experiments.predictor.model_card import model_card

RECORDING = {
    **{"id": "c0de", "model": "residual", "dataset": "digits[5:10]"},
    **{"train_images": 0, "image_size": 16},
    **{"epochs": 4.0, "lr": 0.05, "pretraining": None, "seed": 0},
    "options": {"records_per_epoch": 20, "sampled_weights": 4096, "probe_images": 128},
}
FACTS = {
    **{"id": "0123456789ab", "threshold": 0.41234},
    "held_out": {
        **{"examples": 429, "positive_rate": 0.5501, "auroc": 0.8591, "average_precision": 0.75},
        **{"calibration_error": 0.0123, "f1": 0.8, "precision": 0.7, "recall": 0.9},
    },
    "training": {
        **{"encoding": "drift", "tolerance": 0.015, "steps": 200, "lr": 3e-4, "weight_decay": 1.0},
        **{"stride": 5, "window": 30, "size": 1024, "pooling": "attention", "precision": 0.8},
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
    **{"torch": "2.14.1", "git": "c0ffee", "date": "2026-01-01"},
    "command": "make predictor SCALE=small",
}


def test_says_data_label_training_scores_and_limits():
    card = model_card(FACTS)
    sgd = "0.05 | SGD, cosine"
    for line in (
        f"| c0de | residual | digits[5:10] | all | 16 | 4 | {sgd} | random weights | 0 |",
        f"| c0de | plain | digits[5:10] | 2560 | 16 | 0.5 | {sgd} | cifar100[0:50], 2 epochs | 0 |",
        f"| c0de | plain | digits[5:10] | all | 16 | 4 | {sgd} | imagenet | 1 |",
        r"$$\max_{s \ge t} |\mathrm{CKA}_s - \mathrm{CKA}_t| \le 0.015$$",
    ):
        assert line in card.splitlines()
    text = " ".join(card.split())
    for fact in (
        "AdamW, 200 steps, learning rate 0.0003, weight decay 1,",
        "to choose the threshold, 0.41: the lowest at which at least 80% of the frozen layers are "
        'labelled "freeze" at the record at which they are frozen. Trained on a processor, torch '
        "2.14.1, commit c0ffee, 2026-01-01; recipe 0123456789ab.",
        "During each run, 20 times per epoch,",
        "measured on 128 test images",
        "held out for calibration, at 4 records per epoch",
        "AUROC 0.859, average precision 0.750, calibration error 0.012, F1 0.800, "
        'labelled "freeze" 0.550.',
        "results/evidence-small/.",
        "Trained on runs of residual, plain on digits[5:10] only",
        "Trained for 2 to 10 records per epoch, and calibrated at 4.",
        "(not in the paper)",
    ):
        assert fact in text
    assert "{" not in card.replace("{CKA}", "").replace("{s \\ge t}", "")


def test_names_the_gpu_where_there_is_one_and_the_paper_s_encoding():
    machine = FACTS["machine"] | {"gpu": "a GPU"}
    card = model_card(
        FACTS | {"machine": machine, "training": {**FACTS["training"], "encoding": "raw"}}
    )
    assert "Trained on a GPU, torch" in " ".join(card.split())
    assert "as in the paper" in card and "not in the paper" not in card
