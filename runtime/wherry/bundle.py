"""What is in a model folder: its task, its configuration, its graphs in each precision, and their hashes.

A bundle is a Hugging Face folder with ONNX graphs; `wherry.json` adds hashes, parity figures and provenance.
Folders without that manifest (onnx-community, Xenova, optimum, sentence-transformers, genai) are read by convention.
Nothing here opens a graph or needs onnxruntime.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from wherry.errors import BundleError, DamagedBundleError
from wherry.files import read_json, sha256
from wherry.layouts import GENAI, alone, files_in, genai_config, graphs_in, task_in, with_data

MANIFEST = "wherry.json"
SCHEMA = 1

SUFFIXES = {
    "fp32": "",
    "fp16": "_fp16",
    "bf16": "_bf16",
    "int8": "_int8",
    "quantized": "_quantized",
    "uint8": "_uint8",
    "int4": "_q4",
    "int4f16": "_q4f16",
    "bnb4": "_bnb4",
}
"""Precision to file name suffix, as transformers.js and the hub use them; in order of preference.

`bf16` is wherry's own, for GPUs alone. `quantized` is 8 bits of whichever kind its maker preferred.
"""

ALIASES = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "q8": "quantized",
    "q4": "int4",
    "q4f16": "int4f16",
}

PREFILL = "prefill"
"""The role of a graph that gives keys and values alone: of all tokens of a prompt but its last. It is for the CPU."""


@dataclass(frozen=True)
class FileRecord:
    """One file of a bundle as its manifest knows it."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Variant:
    """One precision of a model.

    Attributes:
        precision: a key of `SUFFIXES`, or `default` where the folder does not tell.
        graphs: role (`model`, or `encoder_model` and `decoder_model_merged`; `PREFILL` beside it) to path of the ONNX
            file, relative to the bundle's folder.
        files: every file of this variant, external data included, by relative path.
        opset: version of the default ONNX operator set, where known.
        parity: figures measured against the original model when it was exported; empty where unknown.
        speed: how many times faster than the original model it ran on a CPU, where measured.
        provider_options: role to kind of device to options of its execution provider that are good for the graph.
    """

    precision: str
    graphs: Mapping[str, str]
    files: Mapping[str, FileRecord | None]
    opset: int | None = None
    parity: Mapping[str, float] | None = None
    speed: float | None = None
    provider_options: Mapping[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)

    @property
    def bytes(self) -> int | None:
        """Size on disk of all files of this variant, where the manifest records it."""
        sizes = [record.bytes for record in self.files.values() if record]
        return sum(sizes) if len(sizes) == len(self.files) else None


@dataclass(frozen=True)
class Bundle:
    """A model folder, read and checked for form. `Bundle.load` makes one.

    Attributes:
        folder: where it is.
        task: what it does, e.g. `text-generation`; None where neither manifest nor configuration tell.
        config: the model's config.json.
        variants: precision to `Variant`; the first is the default.
        files: records of the files that all variants share (tokenizer, configuration).
        provenance: source, revision, tool versions and time of the export; empty without a manifest.
        padding_side: where rows of unlike length in a decoder's batch are padded; None where that is not known, and
            rows have to run one by one.
    """

    folder: Path
    task: str | None
    config: Mapping[str, Any]
    variants: Mapping[str, Variant]
    files: Mapping[str, FileRecord]
    provenance: Mapping[str, Any]
    padding_side: str | None = None

    @classmethod
    def load(cls, folder: str | Path) -> "Bundle":
        """Read a model folder.

        Raises:
            BundleError: not a folder, no graphs in it, or a manifest or configuration that is broken.
        """
        folder = Path(folder)
        if folder.suffix == ".onnx" and folder.is_file() and (kind := alone(folder)):
            return _alone(folder, *kind)
        if not folder.exists():
            raise BundleError(f"no such folder: {folder}")
        if not folder.is_dir():
            raise BundleError(f"{folder} is a file, not a model folder")
        if (folder / MANIFEST).exists():
            return _from_manifest(folder)
        return _by_convention(folder)

    def variant(self, precision: str | None = None) -> Variant:
        """The variant of that precision, or the default one.

        Raises:
            BundleError: the bundle has no such precision.
        """
        if precision is None:
            return next(iter(self.variants.values()))
        wanted = ALIASES.get(precision, precision)
        if wanted == "quantized" and wanted not in self.variants:
            wanted = "int8"
        if wanted not in self.variants:
            raise BundleError(f"{self.folder} has no precision '{precision}': it has {', '.join(self.variants)}")
        return self.variants[wanted]

    def check(self, variant: Variant | None = None) -> int:
        """Compare files with the manifest: those of one variant and the shared ones, or all of them.

        Returns:
            how many files were compared; 0 for a folder without a manifest.

        Raises:
            DamagedBundleError: the first file that is missing, of another size, or altered.
        """
        chosen = [variant] if variant else list(self.variants.values())
        records = {**self.files}
        for each in chosen:
            records |= {name: record for name, record in each.files.items() if record}
        for name, record in records.items():
            path = self.folder / name
            if not path.is_file():
                raise DamagedBundleError(f"{path} is missing: the bundle is incomplete, export or copy it again")
            size = path.stat().st_size
            if size != record.bytes:
                raise DamagedBundleError(
                    f"{path} is damaged: {size} bytes where the manifest says {record.bytes}, export or copy it again"
                )
            if sha256(path) != record.sha256:
                raise DamagedBundleError(
                    f"{path} is damaged: its sha256 is not the manifest's, export or copy it again"
                )
        return len(records)


def _from_manifest(folder: Path) -> Bundle:
    path = folder / MANIFEST
    data = read_json(path)
    if data.get("schema") != SCHEMA:
        raise BundleError(
            f"{path} has schema {data.get('schema')!r}, this version of wherry reads {SCHEMA}: upgrade wherry"
        )
    try:
        variants = {precision: _variant(precision, entry) for precision, entry in data["variants"].items()}
        bundle = Bundle(
            folder=folder,
            task=None if data["task"] is None else str(data["task"]),
            config=read_json(folder / "config.json"),
            variants=variants,
            files=_records(data["files"]),
            provenance=dict(data["provenance"].items()),
            padding_side=_side(data["padding_side"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise BundleError(f"{path} is not a wherry manifest: {type(error).__name__} {error}") from error
    if not variants:
        raise BundleError(f"{path} lists no variants")
    return bundle


def _side(value: Any) -> str | None:
    if value not in ("left", "right", None):
        raise ValueError(f"padding_side is {value!r}")
    return None if value is None else str(value)


def _variant(precision: str, entry: Mapping[str, Any]) -> Variant:
    graphs = {role: _inside(name) for role, name in entry["graphs"].items()}
    files = _records(entry["files"])
    if not graphs or not set(graphs.values()) <= set(files):
        raise ValueError(f"the variant {precision} has no graph, or one that is not among its files")
    return Variant(
        precision=precision,
        graphs=graphs,
        files=files,
        opset=None if entry["opset"] is None else int(entry["opset"]),
        parity={name: float(figure) for name, figure in (entry["parity"] or {}).items()},
        speed=None if entry["speed"] is None else float(entry["speed"]),
        provider_options={
            role: {kind: {str(name): str(value) for name, value in options.items()} for kind, options in kinds.items()}
            for role, kinds in entry.get("provider_options", {}).items()
        },
    )


def _inside(name: str) -> str:
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        raise ValueError(f"the file name {name!r} leads out of the bundle")
    return name


def _records(entries: Mapping[str, Any]) -> dict[str, FileRecord]:
    return {
        _inside(name): FileRecord(sha256=str(entry["sha256"]), bytes=int(entry["bytes"]))
        for name, entry in entries.items()
    }


def _by_convention(folder: Path) -> Bundle:
    files = files_in(folder)
    found = graphs_in(files, SUFFIXES)
    if (folder / GENAI).is_file() and not (folder / "config.json").exists():
        graph, config = genai_config(folder)
        if ".." in PurePosixPath(graph).parts or PurePosixPath(graph).is_absolute():
            raise BundleError(f"{folder / GENAI} names a graph outside of its folder: {graph}")
        found = {"default": {"model": graph}} if (folder / graph).is_file() else {}
    elif found:
        config = read_json(folder / "config.json")
    elif lonely := [(path, kind) for path in sorted(folder.glob("*.onnx")) if (kind := alone(path))]:
        if len(lonely) > 1:
            raise BundleError(f"{folder} holds {len(lonely)} models: give one of them, such as {lonely[0][0]}")
        return _alone(lonely[0][0], *lonely[0][1])
    if not found:
        weights = any(folder.glob("*.safetensors")) or any(folder.glob("*.gguf"))
        raise BundleError(
            f"{folder} holds no ONNX graph (onnx/model*.onnx)"
            + (f": convert it first with `wherry export {folder} -o NEW_FOLDER`" if weights else "")
        )
    roles = next(iter(found.values()))
    return Bundle(folder, task_in(folder, config, roles), config, _variants(found, files), {}, {})


def variants_by_name(files: Collection[str]) -> dict[str, Variant]:
    """Precision to variant, of a folder or repository without a manifest whose files are told; none where none is."""
    return _variants(graphs_in(files, SUFFIXES), files)


def _variants(found: Mapping[str, Mapping[str, str]], files: Collection[str]) -> dict[str, Variant]:
    return {
        precision: Variant(precision, graphs, dict.fromkeys(with_data(files, graphs.values())))
        for precision, graphs in found.items()
    }


def _alone(path: Path, task: str, config: Path | None) -> Bundle:
    told = {} if config is None else read_json(config)
    return Bundle(path.parent, task, told, {"fp32": Variant("fp32", {"model": path.name}, {path.name: None})}, {}, {})
