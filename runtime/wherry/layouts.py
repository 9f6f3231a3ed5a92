"""Model folders without a manifest, told by the names of their files: graphs by role and precision, and the task.

They are transformers.js's and optimum's, sentence-transformers' and onnxruntime-genai's. Opens no graph.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from wherry.files import read_json

ROLES = (
    "model",
    "text_model",
    "vision_model",
    "audio_model",
    "vision_encoder",
    "audio_encoder",
    "embed_tokens",
    "encoder_model",
    "decoder_model_merged",
    "decoder_with_past_model",
    "decoder_model",
    "decoder_postnet",
)
"""What files of graphs are named for; transformers.js and optimum name them so."""

GENAI = "genai_config.json"

HEADS = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForImageClassification": "image-classification",
    "ForObjectDetection": "object-detection",
    "ForSemanticSegmentation": "image-segmentation",
    "ForInstanceSegmentation": "image-segmentation",
    "ForUniversalSegmentation": "image-segmentation",
    "ForDepthEstimation": "depth-estimation",
    "ForCTC": "automatic-speech-recognition",
    "ForAudioClassification": "audio-classification",
    "VitsModel": "text-to-audio",
}
"""How the name of an architecture ends to what it is for."""

HEARD = {"feature-extraction": "audio-feature-extraction", "text-classification": "audio-classification"}
"""Tasks of models of text to those of models of sounds whose architectures are named alike."""


def files_in(folder: Path) -> list[str]:
    """The files of a folder that are graphs or hold their weights, relative to it."""
    paths = [*folder.glob("*.onnx*"), *folder.glob("*/*.onnx*")]
    return sorted(path.relative_to(folder).as_posix() for path in paths if path.is_file())


def graphs_in(files: Collection[str], suffixes: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Precision to role to file of a graph.

    A role that a precision lacks is filled by the first that has it. Of a decoder's graphs the merged one is taken.

    Args:
        files: of a folder or a repository, relative to it.
        suffixes: precision to what its files' names end with, the preferred first.
    """
    found: dict[str, dict[str, str]] = {}
    for precision, suffix in suffixes.items():
        for role in ROLES:
            names = (f"onnx/{role}{suffix}.onnx", f"{role}{suffix}.onnx")
            name = next((name for name in names if name in files), None)
            if name is not None:
                found.setdefault(precision, {})[role] = name
    every = {role for graphs in found.values() for role in graphs}
    if "decoder_model_merged" in every:
        every -= {"decoder_model", "decoder_with_past_model"}
    spare = {role: next(graphs[role] for graphs in found.values() if role in graphs) for role in ROLES if role in every}
    return {
        precision: {role: graphs.get(role, spare[role]) for role in spare}
        for precision, graphs in found.items()
        if every & set(graphs)
    }


def with_data(files: Collection[str], graphs: Iterable[str]) -> Iterator[str]:
    """The files of graphs, and those of their weights."""
    for name in graphs:
        yield name
        yield from sorted(file for file in files if file.startswith(f"{name}_data") or file == f"{name}.data")


def alone(path: Path) -> tuple[str, Path | None] | None:
    """The task and the configuration of a graph that its makers give out as a file by itself."""
    voice = path.with_name(f"{path.name}.json")
    if voice.is_file():  # Piper's
        return "text-to-audio", voice
    return ("voice-activity-detection", None) if path.name.startswith("silero_vad") else None


def genai_config(folder: Path) -> tuple[str, dict[str, Any]]:
    """The graph of a folder of onnxruntime-genai, and what its configuration says, in the words of a config.json.

    Raises:
        BundleError: genai_config.json is broken.
    """
    told = read_json(folder / GENAI)
    model, search = (_part(told, name) for name in ("model", "search"))
    decoder = _part(model, "decoder")
    tokens = {name: value for name, value in model.items() if name.endswith("_token_id")}
    chosen = ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "no_repeat_ngram_size")
    return str(decoder.get("filename", "model.onnx")), {
        "architectures": ["ForCausalLM"],
        "model_type": model.get("type"),
        "vocab_size": model.get("vocab_size"),
        "max_position_embeddings": model.get("context_length"),
        "head_dim": decoder.get("head_size"),
        **tokens,
        **{name: search[name] for name in chosen if name in search},
    }


def _part(told: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = told.get(name)
    return part if isinstance(part, Mapping) else {}


def task_in(folder: Path, config: Mapping[str, Any], roles: Collection[str]) -> str | None:
    """The task that a folder's own files tell.

    By sentence-transformers' modules.json, then by which graphs there are, then by `architectures`.
    """
    if (folder / "modules.json").exists():
        return "sentence-embeddings"
    architectures = config.get("architectures")
    names = [str(name) for name in architectures] if isinstance(architectures, list) else []
    if "vision_encoder" in roles:
        return "image-text-to-text"
    if "audio_encoder" in roles:
        return "audio-text-to-text"
    if "decoder_postnet" in roles:
        return "text-to-audio"
    if "encoder_model" in roles:
        return _of_two(config)
    for name in names:
        for ending, task in HEADS.items():
            if name.endswith(ending):
                return _of_what(config, task)
        if name.endswith("Model"):
            return _of_what(config, "feature-extraction")
    return None


def _of_two(config: Mapping[str, Any]) -> str:
    """The task of an encoder and a decoder, by what the encoder takes."""
    encoder = config.get("encoder")
    if "num_mel_bins" in config:
        return "automatic-speech-recognition"
    if any(name.endswith("ForQuestionAnswering") for name in config.get("architectures") or []):
        return "visual-question-answering"
    seen = "vision_config" in config or (isinstance(encoder, Mapping) and "image_size" in encoder)
    return "image-to-text" if seen else "text2text-generation"


def _of_what(config: Mapping[str, Any], task: str) -> str:
    """A task by what the model takes: images, sounds or text, which the names of architectures do not always tell."""
    seen = {"vision_config", "text_config"} <= set(config)
    if seen and task in ("feature-extraction", "object-detection"):
        return "zero-shot-image-classification" if task == "feature-extraction" else "zero-shot-object-detection"
    if task == "feature-extraction" and {"audio_config", "text_config"} <= set(config):
        return "zero-shot-audio-classification"
    heard = bool({"conv_dim", "num_mel_bins"} & set(config))
    if heard and task in HEARD:
        return HEARD[task]
    by_sight = {"feature-extraction": "image-feature-extraction", "question-answering": "visual-question-answering"}
    return by_sight.get(task, task) if "image_size" in config else task
