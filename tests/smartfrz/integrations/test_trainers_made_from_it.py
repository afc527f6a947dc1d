"""The callback of transformers in trainers made from its Trainer: TRL and sentence-transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
)

from smartfrz import BudgetPlan
from smartfrz.integrations.transformers import SmartFRZCallback
from tests.smartfrz.integrations.test_transformers import Stopped

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*:FutureWarning")]

STEPS, SAVED = 12, 6
SETTINGS: dict[str, Any] = {
    "max_steps": STEPS,
    "save_steps": SAVED,
    "per_device_train_batch_size": 4,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [f"w{number}" for number in range(40)]


def sentence(seed: int) -> str:
    choice = torch.randint(0, 40, (8,), generator=torch.Generator().manual_seed(seed))
    return " ".join(WORDS[number] for number in choice)


def gpt2(tied: bool) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=45, n_positions=32, n_embd=32, n_layer=3, n_head=2, tie_word_embeddings=tied
    )
    return GPT2LMHeadModel(config)


def tokenizer(folder: Path, **tokens: str) -> BertTokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]))
    return BertTokenizer(str(folder / "vocab.txt"), **tokens)


def sft(folder: Path, *callbacks: Any, tied: bool = False, adapters: bool = False) -> Trainer:
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    lora = LoraConfig(r=4, task_type="CAUSAL_LM", target_modules=["c_attn", "c_proj"])
    return SFTTrainer(
        gpt2(tied),
        SFTConfig(output_dir=str(folder), bf16=False, max_length=16, **SETTINGS),
        train_dataset=Dataset.from_list([{"text": sentence(number)} for number in range(64)]),
        processing_class=tokenizer(folder, eos_token="[SEP]"),
        peft_config=lora if adapters else None,
        callbacks=list(callbacks),
    )


def adapted(folder: Path, *callbacks: Any) -> Trainer:
    return sft(folder, *callbacks, adapters=True)


def encoder(folder: Path, *callbacks: Any) -> Trainer:
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from sentence_transformers.models import Dense, Pooling, Transformer

    base = folder / "bert"
    tokenizer(base).save_pretrained(base)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=45,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(base)
    torch.manual_seed(0)
    model = SentenceTransformer(
        modules=[Transformer(str(base)), Pooling(32), Dense(32, 16)], device="cpu"
    )
    pairs = [{"anchor": sentence(n), "positive": sentence(100 + n)} for n in range(64)]
    return SentenceTransformerTrainer(
        model,
        SentenceTransformerTrainingArguments(output_dir=str(folder), **SETTINGS),
        train_dataset=Dataset.from_list(pairs),
        loss=MultipleNegativesRankingLoss(model),
        callbacks=list(callbacks),
    )


@pytest.mark.parametrize("make", [sft, adapted, encoder])
def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path, make: Callable[..., Trainer]):
    callback, first, again = (SmartFRZCallback(budget=0.7) for _ in range(3))
    whole = make(tmp_path / "whole", callback)
    whole.train()
    make(tmp_path / "stopped", first, Stopped()).train()
    resumed = make(tmp_path / "stopped", again)
    resumed.train(resume_from_checkpoint=True)
    assert callback.freezer is not None and first.freezer is not None and again.freezer is not None
    assert callback.freezer.compute_spent / STEPS == pytest.approx(0.7, abs=0.02)
    assert 0 < len(first.freezer.frozen) < len(callback.freezer.frozen)
    assert again.freezer.events == callback.freezer.events
    assert isinstance(resumed.model, nn.Module) and isinstance(whole.model, nn.Module)
    ended = resumed.model.state_dict()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, ended[name]), name


def test_with_tied_embeddings_the_least_budget_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"budget=0\.6 cannot be reached.*still spends 0\.7"):
        sft(tmp_path, SmartFRZCallback(budget=0.6), tied=True).train()
    callback = SmartFRZCallback(lambda steps: BudgetPlan(0.8, steps))
    sft(tmp_path, callback, tied=True).train()
    assert callback.freezer is not None
    assert callback.freezer.compute_spent / STEPS == pytest.approx(0.8, abs=0.02)
