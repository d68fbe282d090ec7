"""What this package uses of torch that is not public.

`tests/training/test_torch_internals.py` fails where a release of torch changes it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch


def cpu_has_amx() -> bool:
    """Whether this processor multiplies matrices of bfloat16 in tiles (AMX)."""
    return bool(torch.cpu._is_amx_tile_supported())


def cpu_has_avx512_bf16() -> bool:
    """Whether this processor multiplies vectors of bfloat16, twice as many numbers at a time as in
    float32.
    """
    return bool(torch.cpu._is_avx512_bf16_supported())


def keep_compiled_programs(count: int) -> None:
    """Let this process keep so many compiled programs of the same code; torch keeps eight."""
    torch._dynamo.config.recompile_limit = count


def optimizer_without_compiler(
    kind: Callable[..., torch.optim.Optimizer], groups: list[dict[str, Any]], **settings: Any
) -> torch.optim.Optimizer:
    """An optimiser of that `kind` which never loads torch's compiler.

    torch wraps the methods of optimisers to keep its compiler off them, and loads the compiler to
    do so: three seconds of computing in every process that trains. Here they are marked beforehand
    as torch marks them then, and `step` is the function within the wrapping, without gradients. A
    release that marks them otherwise would load the compiler, as without this.
    """
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        plain = inspect.unwrap(getattr(torch.optim.Optimizer, name))
        setattr(plain, "__dynamo_disable", plain)
    optimizer = kind(groups, **settings)
    step = functools.partial(inspect.unwrap(type(optimizer).step), optimizer)
    optimizer.step = torch.no_grad()(step)  # type: ignore[method-assign]
    return optimizer
