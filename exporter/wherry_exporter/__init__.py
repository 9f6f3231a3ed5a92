"""Checkpoint to verified bundle. The only package of wherry that imports torch, transformers, optimum and onnx."""

from wherry_exporter.errors import ExportError, ParityError, UsageError
from wherry_exporter.export import export

__all__ = ["ExportError", "ParityError", "UsageError", "export"]
