"""Modules that are imported at first use, so that reading and checking a study file never pays for torch."""

import importlib
from types import ModuleType
from typing import Any


class LazyModule(ModuleType):
    """Stands in for module `name` and imports it when the first attribute is asked for.

    Use it beside a `TYPE_CHECKING` import of the real module, so that types and editors see the real thing::

        if TYPE_CHECKING:
            import torch
        else:
            torch = LazyModule("torch")
    """

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self.__name__), attribute)
