"""The library's advice in the language of the command: ``costs='h100'`` is ``--device h100`` to who typed options."""

from __future__ import annotations

import logging
import re
import shlex
import sys

from rich.text import Text

from remat_planner.planner.cli.output import SafeConsole

_FLAGS = {
    "whole=True": "--whole",
    "verify=False": "--no-verify",
    "verify=True": "--verify",
    "accumulate=True": "--accumulate",
    "master_weights=True": "--master-weights",
    "optimizer_offload=True": "--offload-optimizer",
    "offload=(?=[)])": "--offload",
}
_OPTIONS = {
    "budget": "--budget",
    "solver": "--solver",
    "time_limit": "--time-limit",
    "costs": "--costs",
    "optimizer": "--optimizer",
    "regions": "--regions",
    "budget_on": "--budget-on",
    "gradient_dtype": "--gradient-dtype",
    "master_weights": "--master-weights",
    "shard": "--shard",
    "zero_stage": "--zero",
    "optimizer_offload": "--offload-optimizer",
    "accumulate": "--accumulate",
    "gradient_buckets": "--gradient-buckets",
    "outputs": "--outputs",
    "order": "--order",
    "variants": "--variants",
}
_CALL = re.compile(
    r"(?:training=)?(?:remat_planner\.)?(?:plan|TrainingState)\((?:model, )?(?:\.\.\., )?(?P<inside>\w+=[^()]*)\)"
)
_OFFLOAD = re.compile(r"(?:offload=)?(?:remat_planner\.)?Offload\((?P<inside>[^()]*)\)")
_KEYWORD = re.compile(rf"\b(?P<name>{'|'.join(_OPTIONS)})=(?P<quote>['\"]?)(?P<value>[^'\"\s,)]+)(?P=quote)")
# Names with an underscore are no words of English, so they can be told by themselves.
_NAME = re.compile(rf"(?<![\w.'\"-])(?P<name>{'|'.join(name for name in _OPTIONS if '_' in name)})(?![\w='\"])")
_POOL_BUDGET = re.compile(r"\b(?P<pool>host|disk)=['\"](?P<bytes>[^'\"]+)['\"]")
_FOLDER = re.compile(r"\bfolder=['\"](?P<folder>[^'\"]+)['\"]")


def in_options(message: str) -> str:
    """``message`` with options in the place of the keyword arguments of ``remat_planner.plan``."""
    message = _CALL.sub(lambda match: match["inside"], message)
    message = _OFFLOAD.sub(lambda match: _offload(match["inside"]), message)
    for flag, option in _FLAGS.items():
        message = re.sub(rf"\b{flag}(?!\w)", option, message)
    message = _KEYWORD.sub(_option, message)
    return _NAME.sub(lambda match: _OPTIONS[match["name"]], message)


def _option(match: re.Match[str]) -> str:
    name, value = match["name"], match["value"]
    # What costs= takes beside "measure" and a file is the name of a GPU, which on the command line has an option of its own.
    to_device = name == "costs" and value != "measure" and not value.endswith(".json") and bool(match["quote"])
    return f"{'--device' if to_device else _OPTIONS[name]} {shlex.quote(value)}"


def _offload(inside: str) -> str:
    folder = _FOLDER.search(inside)
    parts = [
        f"--offload {pool['pool']}"
        + (f":{folder['folder'] if folder else 'FOLDER'}" if pool["pool"] == "disk" else "")
        + f" --{pool['pool']}-budget {pool['bytes']}"
        for pool in _POOL_BUDGET.finditer(inside)
    ]
    return " ".join(parts) or "--offload"


class RemarkHandler(logging.Handler):
    """Prints what the library logs on stderr, in the language of the command and without control characters."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one remark."""
        SafeConsole(sys.stderr, soft_wrap=True).print(Text(in_options(record.getMessage())))


def speak_of_options() -> None:
    """Let remarks of the library be printed by ``RemarkHandler`` in this process, unless somebody handles them already."""
    logger = logging.getLogger("remat_planner")
    if not logger.handlers and not logging.getLogger().handlers:
        logger.addHandler(RemarkHandler())
        logger.propagate = False
