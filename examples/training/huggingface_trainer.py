"""Hugging Face Trainer: the planned model goes in where the model went, and ``gradient_checkpointing`` stays off.

python examples/training/huggingface_trainer.py
"""

import copy
import tempfile

import torch
from _checked import Checked, check
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, default_data_collator

import remat_planner


def build() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            num_hidden_layers=3,
            hidden_size=48,
            intermediate_size=96,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=300,
            attention_dropout=0.1,
            use_cache=False,
        )
    )


def texts(number: int) -> list[dict[str, list[int]]]:
    torch.manual_seed(1)
    rows = torch.randint(300, (number, 64)).tolist()
    return [{"input_ids": row, "labels": row} for row in rows]


def train(model: LlamaForCausalLM, output_dir: str) -> Trainer:
    arguments = TrainingArguments(
        output_dir=output_dir,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=4,
        gradient_accumulation_steps=2,
        max_steps=4,
        max_grad_norm=1.0,
        eval_strategy="steps",
        eval_steps=2,
        save_steps=2,
        seed=3,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
    )
    trainer = Trainer(model, arguments, train_dataset=texts(32), eval_dataset=texts(8))
    trainer.train()
    return trainer


def main() -> Checked:
    model = build()
    eager = copy.deepcopy(model)
    # What Trainer calls the model with: a batch of the collator, and the number of labels, for models that scale their loss.
    batch = {**default_data_collator(texts(4)), "num_items_in_batch": torch.tensor(1.0)}

    schedule = remat_planner.plan(model, (), batch, budget="75%", time_limit=5)
    planned = remat_planner.apply_schedule(model, schedule)
    with tempfile.TemporaryDirectory() as folder:
        train(eager, f"{folder}/eager")
        trainer = train(planned, f"{folder}/planned")
        trainer.save_model(f"{folder}/saved")
        saved = LlamaForCausalLM.from_pretrained(f"{folder}/saved")  # as any other saved model
    if any(not torch.equal(tensor, planned.state_dict()[name]) for name, tensor in saved.state_dict().items()):
        raise SystemExit("the saved model is not the trained one: this must not happen")
    planned.train()
    return check(eager, planned, schedule, lambda: planned(**batch).loss.backward())


if __name__ == "__main__":
    main()
