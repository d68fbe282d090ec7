"""The packages of others that a recipe relies on, and how their members are found again without
being installed.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from distill_ray.augmentation import AUGMENTATIONS
from distill_ray.errors import RequestError, first_line
from distill_ray.job import Recipe
from distill_ray.methods import METHODS, Method
from distill_ray.models import FAMILIES, family_of
from distill_ray.models.own_modules import (
    ModuleFile,
    load_module_files,
    loaded_module_files,
    module_file_of,
)
from distill_ray.registry import Registry

_REGISTRIES: dict[str, Registry[Any]] = {
    "model": FAMILIES,
    "method": METHODS,
    "augmentation": AUGMENTATIONS,
}


@dataclass(frozen=True)
class Extension:
    """A member of a family that another package provides: `value` is its entry point, such as
    `my_lab.tiny_conv:FAMILY`. `package` and `version` are empty where they are not known.
    """

    family: str
    name: str
    value: str
    package: str
    version: str

    @property
    def title(self) -> str:
        """The package with its version, and what it provides: `my-lab 1.0 (model tiny-conv)`."""
        package = " ".join(filter(None, [self.package or self.top_module, self.version]))
        return f"{package} ({self.family} {self.name})"

    @property
    def top_module(self) -> str:
        """The package or module to import, as it lies in a folder of `sys.path`."""
        return self.value.partition(":")[0].partition(".")[0]

    @property
    def module_file(self) -> ModuleFile | None:
        """The file of `--extension` that it is, where it is one."""
        return next((file for file in loaded_module_files() if _named(file) == self), None)

    def code(self) -> Path:
        """The folder or file of `top_module`."""
        spec = importlib.util.find_spec(self.top_module)
        if spec is not None and spec.submodule_search_locations:
            return Path(next(iter(spec.submodule_search_locations)))
        if spec is not None and spec.origin:
            return Path(spec.origin)
        raise RequestError(f"extension {self.title}: the code of {self.top_module} is not found")

    def to_dict(self) -> dict[str, str]:
        """The extension as JSON values."""
        return asdict(self)


def extensions_of(recipe: Recipe) -> tuple[Extension, ...]:
    """Every extension that training by `recipe` uses."""
    if recipe.answers_alone:
        return ()
    family, _ = family_of(recipe.model)
    file = module_file_of(recipe.model)
    own = () if file is None else (_named(file),)
    names = {
        "model": next((name for name, known in FAMILIES.items() if known is family), ""),
        "method": recipe.method.name,
        "augmentation": recipe.augmentation.name,
    }
    extensions = [_extension(family, name) for family, name in names.items()]
    return own + tuple(extension for extension in extensions if extension is not None)


def extensions_for_inference(recipe: Recipe) -> tuple[Extension, ...]:
    """Those without whose code the trained network cannot be built: of its model, and of its method
    where that changes the network.
    """
    families = {"model", "method"} if shapes_network(recipe.method) else {"model"}
    return tuple(extension for extension in extensions_of(recipe) if extension.family in families)


def shapes_network(method: Method) -> bool:
    """Whether the deployed network is another one than the plain model."""
    return type(method).deployed_like is not Method.deployed_like


def versions_of(extensions: Iterable[Extension]) -> dict[str, str]:
    """The versions of the packages behind `extensions`, by package."""
    return {
        extension.package or extension.top_module: extension.version or "unknown"
        for extension in extensions
    }


def require(description: Mapping[str, Any], *, load: bool) -> None:
    """Make the extension that `Extension.to_dict` describes available to the registries.

    One that is not installed is imported from wherever `sys.path` has it, if `load` allows that.
    Raises `RequestError` when it cannot be had.
    """
    extension = Extension(**{name: str(value) for name, value in description.items()})
    registry = _REGISTRIES.get(extension.family)
    if registry is None:
        raise RequestError(f"extension {extension.title}: there is no such family")
    if extension.name in registry:
        return
    if "@" in extension.name:
        _require_file(extension, load)
        return
    if not load:
        raise RequestError(
            f"this model needs the extension {extension.title}, which is not installed here; "
            "install it, or export the model in the format mlflow, which includes its code"
        )
    point = EntryPoint(extension.name, extension.value, f"distill_ray.{extension.family}")
    try:
        member = point.load()
    except (ImportError, AttributeError, ValueError) as error:
        missing = f"extension {extension.title} cannot be loaded ({first_line(error)})"
        raise RequestError(f"{missing}; install it") from None
    if extension.name not in registry:  # importing it may have registered it
        registry.register(extension.name)(member)


def _named(file: ModuleFile) -> Extension:
    """A file of `--extension` as an extension. Its module has a name that nothing else has."""
    name = f"{file.name}@{file.digest}"
    return Extension("model", name, f"{file.name}_{file.digest}", f"{file.name}.py", file.digest)


def _require_file(extension: Extension, load: bool) -> None:
    """Run the file that `_named` describes, from wherever `sys.path` has it."""
    spec = importlib.util.find_spec(extension.value) if load else None
    if spec is None or spec.origin is None:
        raise RequestError(
            f"this model needs {extension.package} with the digest {extension.version}; name it: "
            f"--extension {extension.package}, or export the model in the format mlflow, which "
            "includes it"
        )
    file = ModuleFile(extension.name.partition("@")[0], Path(spec.origin).read_text("utf-8"))
    if file.digest != extension.version:
        raise RequestError(f"{extension.package}, which this model needs, was changed")
    load_module_files([file])


def _extension(family: str, name: str) -> Extension | None:
    point = _REGISTRIES[family].entry_point(name)
    if point is not None:
        package, version = (point.dist.name, point.dist.version) if point.dist else ("", "")
        return Extension(family, name, point.value, package, version)
    member = _REGISTRIES[family].get(name) if name else None
    return None if member is None else _registered_by_hand(family, name, member)


def _registered_by_hand(family: str, name: str, member: Any) -> Extension | None:
    """A member of another package that was registered with the decorator, not by an entry point."""
    module = getattr(member, "__module__", "") if isinstance(member, type) else ""
    if not module or module.partition(".")[0] in ("distill_ray", "__main__"):
        return None
    version = getattr(sys.modules.get(module.partition(".")[0]), "__version__", "")
    return Extension(family, name, f"{module}:{member.__qualname__}", "", str(version))
