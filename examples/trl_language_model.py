"""A small causal language model, fine-tuned by the SFTTrainer of TRL with a compute budget.

Its embedding shares its weights with the head, as in many language models: its input side is cut
off, so that frozen layers save their backward pass, too. Needs
``pip install 'smartfrz[transformers]' trl``, no data, no network and no GPU:

    python examples/trl_language_model.py
"""

import random
from tempfile import TemporaryDirectory

from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, set_seed
from trl import SFTConfig, SFTTrainer

from smartfrz import detach_tied_embeddings
from smartfrz.integrations.transformers import SmartFRZCallback

STEPS, BATCH = 60, 16
SUBJECTS, VERBS = ("birds", "fish", "cats", "dogs"), ("fly", "swim", "purr", "bark")
WORDS = ["[PAD]", "[EOS]", "we", "know", "that", *SUBJECTS, *VERBS]


def main() -> None:
    """Trains, and prints the loss and a table of the layers."""
    set_seed(0)
    words = tokenizer()
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(WORDS),
            n_positions=16,
            n_embd=32,
            n_layer=4,
            n_head=2,
            bos_token_id=words.eos_token_id,
            eos_token_id=words.eos_token_id,
        )
    )
    detach_tied_embeddings(model)
    callback = SmartFRZCallback(budget=0.7)
    with TemporaryDirectory() as folder:
        settings = SFTConfig(
            output_dir=folder,
            max_steps=STEPS,
            per_device_train_batch_size=BATCH,
            learning_rate=0.01,
            logging_steps=20,
            max_length=16,
            report_to="none",
            save_strategy="no",
            bf16=False,
            disable_tqdm=True,
        )
        trainer = SFTTrainer(
            model, settings, train_dataset=texts(), processing_class=words, callbacks=[callback]
        )
        trainer.train()
    print(callback.freezer)


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that knows all words of the texts."""
    words = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", eos_token="[EOS]")


def texts() -> Dataset:
    """Sentences in which the verb follows from the subject."""
    pairs = random.Random(0).choices(list(zip(SUBJECTS, VERBS, strict=True)), k=STEPS * BATCH)
    return Dataset.from_list([{"text": f"we know that {who} {do}"} for who, do in pairs])


if __name__ == "__main__":
    main()
