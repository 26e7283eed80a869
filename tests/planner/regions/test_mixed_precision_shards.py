"""A model that ``fully_shard`` gathers in another dtype than it keeps."""

from __future__ import annotations

import subprocess
import sys

import pytest

_CODE = """
import os, socket, torch, remat_planner
import torch.distributed as dist
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = str(free.getsockname()[1])
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, RANK="0", WORLD_SIZE="1")
dist.init_process_group("gloo")
torch.manual_seed(0)
block = lambda: torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.GELU(), torch.nn.Linear(64, 16))
net = torch.nn.Sequential(block(), block())
policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
for block in net:
    fully_shard(block, mp_policy=policy)
fully_shard(net, mp_policy=policy)
x = torch.randn(32, 16)
loss = lambda output: output.float().square().mean()

def gradients():
    net.zero_grad()
    loss(net(x)).backward()
    return [p.grad.to_local().clone() for p in net.parameters()]

eager = gradients()
schedule = remat_planner.plan(net, (x,), loss=loss, budget="100%", regions="*", time_limit=2)
remat_planner.apply_schedule(net, schedule)
assert all(map(torch.equal, gradients(), eager))
try:
    remat_planner.apply_schedule(torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.GELU()), schedule)
except remat_planner.schedules.StaleScheduleError:
    os._exit(0)
os._exit(1)
"""


@pytest.mark.slow
def test_a_schedule_of_gathered_parameters_fits_the_sharded_ones():
    subprocess.run([sys.executable, "-c", _CODE], check=True)
