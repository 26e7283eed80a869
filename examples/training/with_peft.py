"""PEFT: LoRA on a Llama. The base weights are frozen, so less is kept to begin with, and the plan counts no gradients for them.

python examples/training/with_peft.py
"""

import copy
import tempfile

import torch
from _checked import Checked, check
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

import remat_planner


def build() -> PeftModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        num_hidden_layers=3,
        hidden_size=48,
        intermediate_size=96,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=300,
        use_cache=False,
    )
    adapters = LoraConfig(r=4, lora_dropout=0.1, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(LlamaForCausalLM(config), adapters)
    return model.train()


def batches(number: int) -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    return [{"input_ids": tokens, "labels": tokens} for tokens in torch.randint(300, (number, 4, 64))]


def train(model: PeftModel) -> None:
    data = batches(6)
    torch.manual_seed(2)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    for batch in data:
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()


def main() -> Checked:
    model = build()
    eager = copy.deepcopy(model)
    batch = batches(1)[0]

    schedule = remat_planner.plan(model, (), batch, budget="75%", time_limit=5)
    planned = remat_planner.apply_schedule(model, schedule)
    train(eager)
    train(planned)

    with planned.disable_adapter(), eager.disable_adapter():  # the reference model of preference training
        reference, expected = planned(**batch).loss, eager(**batch).loss
    with tempfile.TemporaryDirectory() as folder:
        planned.save_pretrained(folder)
        loaded = PeftModel.from_pretrained(build().unload(), folder, is_trainable=True).train()
    same = all(torch.equal(tensor, planned.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    if not torch.equal(reference, expected) or not same:
        raise SystemExit("the planned model is not PEFT's any more: this must not happen")
    return check(eager, planned, schedule, lambda: planned(**batch).loss.backward())


if __name__ == "__main__":
    main()
