"""Plans for ranges of sizes: what they say, which steps they are for, and what is refused."""

from __future__ import annotations

import copy
import json
import logging

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import remat_planner
from remat_planner import InfeasibleBudgetError, Schedule, ShapesError, apply_schedule, plan, verify
from remat_planner.planner.apply import planned_call
from remat_planner.planner.cli import main
from remat_planner.planner.measurement import measure_peak
from remat_planner.planner.planning import InputForm, size_ranges

BATCH, TOKENS, WIDTH = 6, 48, 20
RANGES = "batch=1..6, tokens=13..48"


class Tagger(nn.Module):
    """A transformer of one layer with padded tokens, dropout and its own loss; long sentences take another branch."""

    longest = 30

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, WIDTH, padding_idx=0)
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 3 * WIDTH, dropout=0.1, batch_first=True, norm_first=True)
        self.tags = nn.Linear(WIDTH, 7)

    def forward(self, tokens: torch.Tensor, tags: torch.Tensor) -> dict[str, torch.Tensor]:
        h = self.layer(self.words(tokens), src_key_padding_mask=tokens == 0)
        if tokens.shape[1] > self.longest:
            h = h * 2
        return {"loss": F.cross_entropy(self.tags(h).flatten(0, 1), tags.flatten(), ignore_index=-100)}


class Padded(nn.Module):
    """Pads to a multiple of eight."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(F.pad(x, (0, 0, 0, -x.shape[1] % 8))).square().mean()


class Counted(nn.Module):
    """Gives a size to ``range``."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum(self.layer(x[:, k]).square().mean() for k in range(x.shape[1]))


class Blocks(nn.Module):
    """Adds a token where there is an odd number of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x if x.shape[1] % 2 == 0 else F.pad(x, (0, 0, 0, 1)) * 2).square().mean()


class Twice(nn.Module):
    """Takes two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.layer(x * y).square().mean()


def sentences(batch: int = BATCH, tokens: int = TOKENS) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids, of which each sentence has another number, and their tags."""
    generator = torch.Generator().manual_seed(100 * batch + tokens)
    ids = torch.randint(1, 50, (batch, tokens), generator=generator)
    ids[torch.arange(tokens) >= torch.linspace(tokens // 2, tokens, batch).long()[:, None]] = 0
    return ids, (ids % 7).masked_fill(ids == 0, -100)


def planned_tagger(**options) -> tuple[nn.Module, nn.Module, Schedule]:
    """Eager's model, the model that is planned, and the plan."""
    torch.manual_seed(0)
    model = Tagger()
    schedule = plan(model, sentences(), shapes=RANGES, budget="70%", time_limit=2, **options)
    return copy.deepcopy(model), model, schedule


def train(model: nn.Module, sizes) -> list[torch.Tensor]:
    """Losses, parameters and random state of some steps."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    torch.manual_seed(3)
    left = []
    for batch, tokens in sizes:
        optimizer.zero_grad()
        loss = model(*sentences(batch, tokens))["loss"]
        loss.backward()
        optimizer.step()
        left.append(loss.detach())
    return [*left, *(p.detach() for p in model.parameters()), torch.get_rng_state()]


SIZES = [(6, 48), (5, 47), (1, 13), (6, 13), (1, 48), (3, 30), (3, 31), (2, 40), (4, 17), (6, 33)]


@pytest.mark.slow
def test_no_size_in_the_ranges_is_planned_while_the_model_trains(caplog):
    eager, model, schedule = planned_tagger()
    planned = apply_schedule(model, schedule)
    with caplog.at_level(logging.INFO, "remat_planner"):
        ours = train(planned, SIZES)
    assert not caplog.records
    assert all(map(torch.equal, ours, train(eager, SIZES)))
    constant = schedule.graph.constant_bytes
    for batch, tokens in SIZES:
        planned.zero_grad()
        inputs = sentences(batch, tokens)
        assert constant + measure_peak(lambda inputs=inputs: planned(*inputs)["loss"].backward()) <= schedule.budget


@pytest.mark.slow
def test_a_file_has_the_ranges_and_training_by_it_plans_nothing(tmp_path, caplog):
    eager, model, schedule = planned_tagger(verify=False)
    schedule.save(tmp_path / "plan.json")
    loaded = Schedule.load(tmp_path / "plan.json")
    assert [form.origin.ranges for form in loaded.forms] == [form.origin.ranges for form in schedule.forms]
    with caplog.at_level(logging.WARNING, "remat_planner"):
        ours = train(apply_schedule(model, loaded), SIZES[1:])
    assert not caplog.records
    assert all(map(torch.equal, ours, train(eager, SIZES[1:])))


@pytest.mark.slow
def test_sizes_outside_are_planned_when_they_come_and_within_the_budget(caplog):
    eager, model, schedule = planned_tagger(verify=False)
    planned = apply_schedule(model, schedule)
    with caplog.at_level(logging.WARNING, "remat_planner"):
        ours = train(planned, [(6, 48), (6, 10), (6, 20)])
    assert "inputs differ from what was planned" in caplog.text
    assert all(map(torch.equal, ours, train(eager, [(6, 48), (6, 10), (6, 20)])))
    with pytest.raises(InfeasibleBudgetError, match=r"int64\[6, 200\]"):
        planned(*sentences(6, 200))


@pytest.mark.slow
def test_parts_are_the_sizes_with_the_same_step_and_smaller_sizes_recompute_less():
    _, _, schedule = planned_tagger(verify=False)
    parts = {tuple(map(str, form.origin.ranges)) for form in schedule.forms}
    assert {("batch=2..6", "tokens=13..48"), ("batch=2..6", "tokens=13..30"), ("batch=1", "tokens=13..48")} <= parts
    largest, *smaller = [form for form in schedule.forms if form.origin.ranges[1].largest == TOKENS]
    assert largest.overhead > min(form.overhead for form in smaller)
    assert all(form.peak_bytes <= schedule.budget for form in schedule.forms)


@pytest.mark.slow
def test_a_copy_and_a_changed_model_keep_eagers_bits():
    eager, model, schedule = planned_tagger(verify=False)
    planned = copy.deepcopy(apply_schedule(model, schedule))
    assert all(map(torch.equal, train(planned, SIZES[:5]), train(eager, SIZES[:5])))
    for changed in (eager, planned):
        changed.longest = 10
    assert all(map(torch.equal, train(planned, SIZES[:5]), train(eager, SIZES[:5])))


@pytest.mark.slow
def test_verify_takes_any_size_of_the_ranges():
    _, model, schedule = planned_tagger(verify=False)
    for batch, tokens in ((6, 48), (5, 29), (1, 40)):
        found = verify(model, schedule, sentences(batch, tokens))
        assert found.identical
        assert found.within_budget
    with pytest.raises(remat_planner.StaleScheduleError):
        verify(model, schedule, sentences(6, 12))


@pytest.mark.slow
def test_padding_to_a_multiple_is_one_part():
    torch.manual_seed(0)
    model = Padded()
    eager = copy.deepcopy(model)
    schedule = plan(model, (torch.randn(4, 200, WIDTH),), shapes="tokens=2..200", budget="100%", solver="none", verify=False)
    assert len(schedule.forms) <= 3
    planned = apply_schedule(model, schedule)
    for tokens in (200, 199, 193, 192, 9, 2):
        x = torch.randn(4, tokens, WIDTH)
        for called in (eager, planned):
            called.zero_grad()
            called(x).backward()
        assert all(torch.equal(ours.grad, its.grad) for ours, its in zip(planned.parameters(), eager.parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "question"), [(Counted, "tokens == 48"), (Blocks, r"tokens % 2\) == 0")])
def test_steps_of_too_many_parts_are_refused_with_the_line_that_asks(kind, question):
    with pytest.raises(ShapesError, match=rf"too many parts .*{question} \(.*test_size_ranges\.py:\d+"):
        plan(kind(), (torch.randn(4, 48, WIDTH),), shapes="tokens=2..48", budget="100%", solver="none", verify=False)


@pytest.mark.slow
def test_a_step_that_cannot_have_symbols_is_refused():
    shared = torch.randn(4, 48, WIDTH)
    with pytest.raises(ShapesError, match=r"cannot be planned for all of tokens=2\.\.48 at once: two inputs share memory"):
        plan(Twice(), (shared, shared), shapes="tokens=2..48", budget="100%", solver="none", verify=False)


@pytest.mark.slow
def test_a_compiler_and_copies_are_refused(tmp_path):
    _, model, schedule = planned_tagger(verify=False)
    assert planned_call(apply_schedule(model, schedule))
    with pytest.raises(remat_planner.CompilerError, match="ranges of sizes"):
        apply_schedule(copy.deepcopy(model), schedule, compiler="inductor")
    with pytest.raises(ShapesError, match="leave offload out"):
        plan(model, sentences(), shapes=RANGES, budget="70%", offload=remat_planner.Offload(disk="1GB", folder=tmp_path))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("tokens", "'tokens' is no range"),
        ("tokens=4", "is no range"),
        ("tokens=48..13", "to a larger one"),
        ("tokens=0..48", "to a larger one"),
        ("tokens=1..50", "no dimension of the inputs .* is 50 long"),
        ("tokens@0=1..48", "no dimension of the inputs .* is 48 long"),
        ("tokens=1..48, tokens=1..6", "two ranges"),
        ("tokens=1..48, batch=2..48", "may be either: name the dimension"),
    ],
)
def test_texts_that_name_no_sizes_are_refused(text, why):
    with pytest.raises(ShapesError, match=why):
        size_ranges(text, InputForm(sentences(), {}))


def test_a_range_is_of_all_dimensions_of_its_largest_size():
    square = InputForm((torch.zeros(8, 8),), {"y": torch.zeros(3, 8)})
    (of_all,) = size_ranges("size=2..8", square)
    assert of_all.dims == ((0, 0), (0, 1), (1, 1))
    second, first = size_ranges("columns@1=2..8, rows@0=1..8", square)[::-1]
    assert (first.name, first.dims, second.name, second.dims) == ("rows", ((0, 0),), "columns", ((0, 1), (1, 1)))


@pytest.mark.slow
def test_the_command_plans_for_ranges(tmp_path, capsys):
    (tmp_path / "model.py").write_text(
        "import torch\nfrom tests.planner.planning.test_size_ranges import Tagger, sentences\n"
        "def build():\n    return Tagger(), sentences()\n"
    )
    output = tmp_path / "plan.json"
    options = ["--budget", "80%", "--time-limit", "2", "--shapes", RANGES.replace(" ", ""), "-o", str(output), "--verify"]
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "model.py"), *options, "--json"])
    assert ended.value.code == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ranges"] == ["batch=1..6", "tokens=13..48"]
    assert document["verification"]["identical"]
    with pytest.raises(SystemExit):
        main(["show", str(output)])
    assert "batch=1..6, tokens=13..48" in " ".join(capsys.readouterr().out.split())
