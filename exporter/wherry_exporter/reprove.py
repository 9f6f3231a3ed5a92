"""The proof of a bundle, repeated: its variants beside the model they came from. Writes nothing."""

from pathlib import Path
from typing import TYPE_CHECKING

from wherry.bundle import Bundle

if TYPE_CHECKING:
    from wherry_exporter.verify import Parity


def reprove(
    bundle: Bundle, model: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> "dict[str, Parity]":
    """Measure every variant of a bundle, or of another folder with ONNX graphs, against a model.

    Args:
        bundle: its files are compared with its manifest first.
        model: a Hugging Face folder, a GGUF file or a hub repository id.
        revision: branch, tag or commit of a hub repository.
        trust_remote_code: run the code that the model's folder or repository brings (`auto_map`).

    Returns:
        precision to figures.

    Raises:
        DamagedBundleError: a file is not what the manifest says.
        HubError, TaskError, ExportError: the model cannot be loaded, or is not for the bundle's task.
        ParityError: a variant differs from the model more than its precision may, or in the shape of an output.
    """
    from wherry_exporter.load import load
    from wherry_exporter.quiet import quiet
    from wherry_exporter.rounded import runnable
    from wherry_exporter.verify import LIMITS, Verifier, judge

    bundle.check()
    checkpoint = load(model, task=bundle.task, revision=revision, trust_remote_code=trust_remote_code)
    with quiet():
        verifier = Verifier(checkpoint, bundle.folder, bundle.padding_side or "right")
    found = {}
    for precision, variant in bundle.variants.items():
        with runnable({role: bundle.folder / path for role, path in variant.graphs.items()}) as graphs:
            found[precision] = verifier.measure(graphs)
        judge(precision if precision in LIMITS else "int4", found[precision])  # what only others make: the widest limit
    return found
