"""Small models of every kind, for the tests of capture, applying and verifying.

Each function of ``ZOO`` builds one and returns ``Case(model, args, kwargs, loss)``; ``loss`` is None where the model computes
its own. They are in train mode, with dropout and batch normalisation where they have them. Seed before building: parameters and
inputs are random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils.checkpoint import checkpoint


class Case(NamedTuple):
    """A model and how it is trained."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    loss: Callable[[Any], torch.Tensor] | None


ZOO: dict[str, Callable[[], Case]] = {}


def _in_zoo(build: Callable[[], Case]) -> Callable[[], Case]:
    ZOO[build.__name__] = build
    return build


def loss_of(case: Case, output: Any) -> torch.Tensor:
    """The scalar that a training loop would call ``backward`` on."""
    if case.loss is not None:
        return case.loss(output)
    if isinstance(output, torch.Tensor):
        return output
    return output["loss"] if isinstance(output, dict) and "loss" in output else output.loss


def _tokens(least: int = 0, shape: tuple[int, int] = (2, 32)) -> torch.Tensor:
    return torch.randint(least, 200, shape)


@_in_zoo
def gpt2() -> Case:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=2, n_head=4, n_embd=64, vocab_size=200, n_positions=64, bos_token_id=1, eos_token_id=2
    )
    tokens = _tokens()
    return Case(transformers.GPT2LMHeadModel(config).train(), (), {"input_ids": tokens, "labels": tokens}, None)


@_in_zoo
def llama() -> Case:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        num_hidden_layers=2,
        hidden_size=64,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=200,
        use_cache=False,
    )
    tokens = _tokens()
    return Case(transformers.LlamaForCausalLM(config).train(), (), {"input_ids": tokens, "labels": tokens}, None)


@_in_zoo
def llama_padded() -> Case:
    case = llama()
    mask = torch.ones(2, 32, dtype=torch.int64)
    mask[1, 20:] = 0
    return case._replace(kwargs={**case.kwargs, "attention_mask": mask})


@_in_zoo
def bert() -> Case:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        num_hidden_layers=2, hidden_size=64, intermediate_size=128, num_attention_heads=4, vocab_size=200
    )
    tokens = _tokens()
    kwargs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": torch.tensor([0, 1])}
    return Case(transformers.BertForSequenceClassification(config).train(), (), kwargs, None)


@_in_zoo
def t5() -> Case:
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(
        num_layers=2,
        d_model=64,
        d_ff=128,
        num_heads=4,
        d_kv=16,
        vocab_size=200,
        use_cache=False,
        decoder_start_token_id=0,
        pad_token_id=0,
    )
    tokens = _tokens(1)
    return Case(transformers.T5ForConditionalGeneration(config).train(), (), {"input_ids": tokens, "labels": tokens}, None)


@_in_zoo
def vit() -> Case:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        num_hidden_layers=2,
        hidden_size=64,
        intermediate_size=128,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
        hidden_dropout_prob=0.1,
    )
    kwargs = {"pixel_values": torch.randn(2, 3, 32, 32), "labels": torch.tensor([0, 1])}
    return Case(transformers.ViTForImageClassification(config).train(), (), kwargs, None)


@_in_zoo
def resnet() -> Case:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic")
    kwargs = {"pixel_values": torch.randn(4, 3, 32, 32), "labels": torch.tensor([0, 1, 0, 1])}
    return Case(transformers.ResNetForImageClassification(config).train(), (), kwargs, None)


@_in_zoo
def whisper() -> Case:
    transformers = pytest.importorskip("transformers")
    config = transformers.WhisperConfig(
        encoder_layers=1,
        decoder_layers=1,
        d_model=64,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        vocab_size=200,
        max_source_positions=50,
        max_target_positions=32,
        num_mel_bins=16,
        use_cache=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        dropout=0.1,
    )
    kwargs = {"input_features": torch.randn(2, 16, 100), "labels": _tokens(1, (2, 16))}
    return Case(transformers.WhisperForConditionalGeneration(config).train(), (), kwargs, None)


@_in_zoo
def unet() -> Case:
    diffusers = pytest.importorskip("diffusers")
    model = diffusers.UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(32, 64),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    return Case(model.train(), (torch.randn(2, 3, 16, 16), torch.tensor([3, 5])), {}, _mean_square_of_sample)


def _mean_square_of_sample(output: Any) -> torch.Tensor:
    return output.sample.pow(2).mean()


class _Tied(nn.Module):
    """Tied embedding and head, and a submodule under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 32)
        self.first = nn.Linear(32, 32)
        self.second = self.first
        self.head = nn.Linear(32, 100, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.second(torch.tanh(self.first(self.embedding(tokens)))))
        return F.cross_entropy(self.head(hidden).flatten(0, 1), tokens.flatten())


@_in_zoo
def tied_and_shared() -> Case:
    return Case(_Tied(), (torch.randint(0, 100, (4, 8)),), {}, None)


class _SquareWithOwnBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return 2.0 * x * gradient + 0.001 * gradient  # not the derivative: a capture that derives its own is found out


class _CustomFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(16, 16)
        self.b = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(_SquareWithOwnBackward.apply(self.a(x))).pow(2).mean()


@_in_zoo
def custom_function() -> Case:
    return Case(_CustomFunction(), (torch.randn(4, 16),), {}, None)


class _InPlaceAndViews(nn.Module):
    """In-place ops through views, an input handed back, outputs that alias each other."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(16, 16)
        self.b = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        h = self.a(x)
        h[:, :8].mul_(2)
        y = self.b(h.view(2, 2, 16).transpose(0, 1).contiguous())
        y.add_(1).relu_()
        return y.pow(2).mean(), h.view(-1), h, x


def _mean_and_sum(output: Any) -> torch.Tensor:
    return output[0] + output[1].sum()


@_in_zoo
def in_place_and_views() -> Case:
    return Case(_InPlaceAndViews(), (torch.randn(4, 16),), {}, _mean_and_sum)


class _Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(32, 64)
        self.norm = nn.LayerNorm(64)
        self.b = nn.Linear(64, 32)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = self.b(self.dropout(F.gelu(self.norm(self.a(x)))))
        return h.float().pow(2).mean()


@_in_zoo
def autocast() -> Case:
    return Case(_Autocast(), (torch.randn(4, 32),), {}, None)


class _BatchNorm(nn.Module):
    """Batch normalisation (twice through one module), a counter in a buffer, in-place ReLU, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps.add_(1)
        h = F.relu(self.norm(self.a(x)), inplace=True)
        h = F.relu(self.norm(self.b(h)), inplace=True)
        return self.head(F.dropout(h, 0.1, self.training).mean((2, 3))).pow(2).mean()


@_in_zoo
def batch_norm_and_counter() -> Case:
    return Case(_BatchNorm(), (torch.randn(4, 3, 8, 8),), {}, None)


@dataclass
class _Result:
    loss: torch.Tensor
    hidden: list[Any] = field(default_factory=list)


class _ShapeControl(nn.Module):
    """Branches on shapes and Python values; returns a dataclass that pytree does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.depth = 3

    def forward(self, x: torch.Tensor, flag: bool = True) -> _Result:
        for i, layer in enumerate(self.layers):
            if i < self.depth:
                x = F.gelu(layer(x))
        if x.shape[0] > 2 and flag:
            x = x * 2
        return _Result(x.pow(2).mean(), [x, x.shape[0]])


@_in_zoo
def shape_control() -> Case:
    return Case(_ShapeControl(), (torch.randn(4, 16),), {"flag": True}, None)


class _Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16, padding_idx=0)
        self.rnn = nn.LSTM(16, 24, num_layers=2, batch_first=True, dropout=0.2, bidirectional=True)
        self.head = nn.Linear(48, 50)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.rnn(self.embedding(tokens))
        return F.cross_entropy(self.head(hidden).flatten(0, 1), tokens.flatten())


@_in_zoo
def lstm() -> Case:
    return Case(_Lstm(), (torch.randint(0, 50, (3, 7)),), {}, None)


class _LstmLoop(nn.Module):
    """A cell called in a Python loop, its state dropped out on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(8, 16)
        self.head = nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = (x.new_zeros(x.shape[0], 16), x.new_zeros(x.shape[0], 16))
        losses = []
        for now, following in zip(x[:, :-1].unbind(1), x[:, 1:].unbind(1), strict=True):
            hidden, cell = self.cell(now, state)
            state = (F.dropout(hidden, 0.2, self.training), cell)
            losses.append(F.mse_loss(self.head(hidden), following))
        return torch.stack(losses).mean()


@_in_zoo
def lstm_loop() -> Case:
    return Case(_LstmLoop(), (torch.randn(64, 6, 8),), {}, None)


class _Gru(nn.Module):
    """Gates that ATen computes in place on slices, which leave gaps between their rows."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(8, 16, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0][:, -1]).square().mean()


@_in_zoo
def gru() -> Case:
    return Case(_Gru(), (torch.randn(4, 5, 8),), {}, None)


class _OwnCheckpoint(nn.Module):
    """The user's own torch.utils.checkpoint, with dropout inside."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Dropout(0.2), nn.Linear(32, 16)) for _ in range(2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + checkpoint(block, x, use_reentrant=False)
        return x.pow(2).mean()


@_in_zoo
def own_checkpoint() -> Case:
    return Case(_OwnCheckpoint(), (torch.randn(4, 16),), {}, None)


class _LowRank(nn.Module):
    """A frozen layer with a trained low-rank correction (LoRA)."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(32, 32).requires_grad_(False)
        self.down = nn.Linear(32, 4, bias=False)
        self.up = nn.Linear(4, 32, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.up(self.down(x))


@_in_zoo
def low_rank() -> Case:
    model = nn.Sequential(_LowRank(), nn.Tanh(), _LowRank(), nn.Tanh(), nn.Linear(32, 1).requires_grad_(False))
    return Case(model, (torch.randn(8, 32),), {}, torch.mean)


@_in_zoo
def lora_llama() -> Case:
    """Llama with frozen weights and PEFT's trained low-rank corrections, dropout before them."""
    peft = pytest.importorskip("peft")
    case = llama()
    adapters = peft.LoraConfig(r=4, lora_dropout=0.1, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    return case._replace(model=peft.get_peft_model(case.model, adapters).train())


@_in_zoo
def mixtral() -> Case:
    transformers = pytest.importorskip("transformers")
    config = transformers.MixtralConfig(
        num_hidden_layers=1,
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=200,
        num_local_experts=4,
        num_experts_per_tok=2,
        output_router_logits=True,
        use_cache=False,
    )
    tokens = _tokens(shape=(2, 16))
    return Case(transformers.MixtralForCausalLM(config).train(), (), {"input_ids": tokens, "labels": tokens}, None)


class _Experts(nn.Module):
    """Each token to its best experts and one that is drawn, all computed and weighted; a loss for the balance of the load."""

    def __init__(self, experts: int = 4, chosen: int = 2) -> None:
        super().__init__()
        self.router = nn.Linear(16, experts)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)) for _ in range(experts))
        self.chosen = chosen

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        share = self.router(x).softmax(-1)
        weight, expert = share.topk(self.chosen, -1)
        best, first = share.max(-1)
        drawn = torch.multinomial(share.detach(), 1)
        gate = torch.zeros_like(share).scatter(-1, expert, weight / weight.sum(-1, keepdim=True))
        gate = gate + torch.zeros_like(share).scatter(-1, drawn, 0.1)
        mixed = sum(gate[:, k, None] * layer(x) for k, layer in enumerate(self.experts))
        load = torch.zeros_like(share).scatter(-1, first[:, None], 1.0).mean(0)
        return (x + mixed).pow(2).mean() + 0.01 * (load * share.mean(0)).sum() + 0.01 * best.mean()


@_in_zoo
def mixture_of_experts() -> Case:
    return Case(_Experts(), (torch.randn(24, 16),), {}, None)


@_in_zoo
def mamba() -> Case:
    """The selective scan as a loop over the tokens."""
    transformers = pytest.importorskip("transformers")
    config = transformers.MambaConfig(
        num_hidden_layers=1, hidden_size=16, state_size=4, vocab_size=50, conv_kernel=3, time_step_rank=4, use_cache=False
    )
    tokens = torch.randint(50, (2, 6))
    return Case(transformers.MambaForCausalLM(config).train(), (), {"input_ids": tokens, "labels": tokens}, None)


@_in_zoo
def plain_sequential() -> Case:
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 8))
    target = torch.randint(0, 8, (32,))
    return Case(model, (torch.randn(32, 16),), {}, lambda output: F.cross_entropy(output, target))


class _Branches(nn.Module):
    """Branches on the values of its inputs, as masks are looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(16, 16)
        self.register_buffer("limit", torch.tensor(3))

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        mask = torch.arange(x.shape[1])[None, :] < lengths[:, None]
        mask[:, 0] = True
        h = self.a(x)
        if not bool(mask.all()):
            h = h * mask[..., None]
        for _ in range(int(lengths.min())):
            h = torch.tanh(h)
        if (lengths > self.limit).any():
            h = h + x
        return h.pow(2).mean()


@_in_zoo
def branches_on_inputs() -> Case:
    return Case(_Branches(), (torch.randn(2, 6, 16), torch.tensor([2, 5])), {}, None)


@_in_zoo
def channels_last() -> Case:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Flatten(),
    )
    inputs = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    return Case(model.to(memory_format=torch.channels_last), (inputs,), {}, lambda output: output.square().mean())
