"""Studies of ensemble knowledge distillation on Ray. `Study` is all that a notebook needs; it is
imported at first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill_ray.notebook import Results, Study

__all__ = ["Results", "Study"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module("distill_ray.notebook"), name)
