"""Studies of ensemble knowledge distillation on Ray. `Study` is all that a notebook needs; it is
imported at first use.
"""

import os
from typing import TYPE_CHECKING, Any

# A large tensor is new memory each time, and Linux maps it faster in pages of 2 MB (BENCHMARKS.md).
# torch reads the variable at its first tensor, so it is set before anything imports torch.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

if TYPE_CHECKING:
    from distill_ray.notebook import Results, Study

__all__ = ["Results", "Study"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module("distill_ray.notebook"), name)
