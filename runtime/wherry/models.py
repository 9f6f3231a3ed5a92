"""A model as it is given, to a bundle: a folder, one ONNX file, a hub repository, or a checkpoint, exported once.

Knows nothing of pipelines. Only here does the runtime call the exporter, and only for what has no graph yet.
"""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from wherry.bundle import MANIFEST, SUFFIXES, Bundle, Variant, variants_by_name
from wherry.errors import BundleError
from wherry.files import read_json, sha256
from wherry.hub import DESCRIPTIONS, GRAPHS, cache_folder, files_of, resolve
from wherry.layouts import alone, files_in, task_in, with_data

READ = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "*.tiktoken", "*.spm", "*.tokenizer", "*/config.json")
"""The files of a checkpoint's folder that decide what an export of it is."""


def open_model(
    model: str | Path, *, task: str | None = None, precision: str | None = None, revision: str | None = None
) -> Bundle:
    """The bundle of a model.

    Args:
        model: a bundle or another folder with ONNX graphs, an ONNX file that has its configuration beside it or in the
            folder above, a hub repository id, or a checkpoint: a folder with safetensors, or a GGUF file.
        task: what a checkpoint is exported for; inferred when None.
        precision: what a checkpoint is exported to; `fp32` when None.
        revision: of a hub repository.

    Raises:
        HubError: no such file, folder or repository.
        BundleError: it is no model, or a checkpoint where nothing can export it.
        WherryError: the export fails, for one of the exporter's reasons.
    """
    path = resolve(model, revision=revision, patterns=DESCRIPTIONS)
    fetched = path.parent.name == "snapshots" and not Path(model).expanduser().exists()
    if fetched and (graphs := _needed(str(model), path, precision)):
        resolve(model, revision=path.name, patterns=[*DESCRIPTIONS, *graphs])
    if path.suffix == ".onnx" and path.is_file():
        bundle = Bundle.load(path) if alone(path) else _of_graph(path)
    elif not _lacks_graphs(path, fetched):
        bundle = Bundle.load(path)
    elif fetched:
        bundle = _exported(str(model), path.name, task, precision or "fp32", revision)
    else:
        bundle = _exported(path, _digest(path), task, precision or "fp32", None)
    return bundle


def _needed(name: str, path: Path, precision: str | None) -> Sequence[str]:
    """The files of graphs that one precision of a repository takes, of which the rest is in `path` already.

    None where the hub cannot be asked: what was fetched before has to do.

    Raises:
        BundleError: it has no such precision.
    """
    if (path / MANIFEST).exists():
        bundle = Bundle.load(path)
        return [*bundle.variant(precision).files, *bundle.files]
    files = files_of(name, path.name)
    if variants := variants_by_name(files):
        return list(Bundle(path, None, {}, variants, {}, {}).variant(precision).files)
    return GRAPHS if files else []


def _lacks_graphs(path: Path, fetched: bool) -> bool:
    """Whether it is a checkpoint that has to be exported first."""
    if path.is_file():
        return path.suffix == ".gguf"
    if (path / MANIFEST).exists() or any(path.glob("*.onnx")) or any(path.glob("onnx/*.onnx")):
        return False
    return fetched or any(path.glob("*.safetensors"))


def _of_graph(path: Path) -> Bundle:
    """The bundle that an ONNX file belongs to, with that graph alone."""
    folder = next((above for above in (path.parent, path.parent.parent) if (above / "config.json").is_file()), None)
    if folder is None:
        raise BundleError(f"{path} has no config.json beside it or in the folder above: copy the model's files there")
    name = path.relative_to(folder).as_posix()
    if (folder / MANIFEST).exists():
        bundle = Bundle.load(folder)
        for precision, variant in bundle.variants.items():
            if variant.graphs.get("model") == name:
                return replace(bundle, variants={precision: variant})
    endings = {f"model{suffix}": precision for precision, suffix in SUFFIXES.items()}
    precision = endings.get(path.stem, path.stem)
    variant = Variant(precision, {"model": name}, dict.fromkeys(with_data(files_in(folder), [name])))
    config = read_json(folder / "config.json")
    return Bundle(folder, task_in(folder, config, ["model"]), config, {precision: variant}, {}, {})


def _digest(path: Path) -> str:
    """What a checkpoint holds, as a hash."""
    files = [path] if path.is_file() else sorted(file for pattern in READ for file in path.glob(pattern))
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path.parent)} {sha256(file)}\n".encode())
    return digest.hexdigest()


def _exported(source: str | Path, content: str, task: str | None, precision: str, revision: str | None) -> Bundle:
    """The bundle of a checkpoint, from the cache where it was exported before."""
    key = hashlib.sha256("\n".join([content, task or "", precision, version("wherry")]).encode()).hexdigest()[:24]
    folder = cache_folder() / "exported" / f"{Path(source).name}-{key}"
    if not folder.exists():
        warnings.warn(f"{source} has no ONNX graph: exporting it, once, to {folder}", stacklevel=4)
        try:
            export = import_module("wherry_exporter").export
            export(source, folder, task=task, precision=[precision], revision=revision, overwrite=True)
        except ModuleNotFoundError as error:
            raise BundleError(
                f"{source} has no ONNX graph, and exporting it needs {error.name}: "
                "pip install 'wherry[cpu,export]', or run `wherry export` where that is installed"
            ) from error
    return Bundle.load(folder)
