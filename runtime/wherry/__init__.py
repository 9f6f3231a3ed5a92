"""Run pretrained models as ONNX graphs, light: no torch, no transformers, and nothing loaded before it is used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wherry.bundle import Bundle, Variant
    from wherry.errors import WherryError
    from wherry.pipelines import pipeline
    from wherry.session import Session

_HOMES = {
    "Bundle": "wherry.bundle",
    "Session": "wherry.session",
    "Variant": "wherry.bundle",
    "WherryError": "wherry.errors",
    "pipeline": "wherry.pipelines",
}

__all__ = ["Bundle", "Session", "Variant", "WherryError", "pipeline"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'wherry' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
