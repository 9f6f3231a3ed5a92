"""A checkpoint, whatever it comes as, to a float32 torch module, its task and the files that travel with it.

Weights come from safetensors or GGUF, never from pickles, and no code of a repository is run.
"""

import json
import struct
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from wherry.errors import BundleError, WherryError
from wherry.files import read_json, sha256
from wherry.hub import resolve
from wherry_exporter.dequantized import prepared, whole
from wherry_exporter.errors import ExportError
from wherry_exporter.fast import fast_form
from wherry_exporter.quiet import quiet
from wherry_exporter.tasks import TASKS, find_task, task_of, writes_words_alone
from wherry_exporter.timm_form import in_transformers_words, is_timm
from wherry_tokenization import Tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

CARRIED = (
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "normalizer.json",
    "preprocessor_config.json",
    "processor_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "LICENSE",
    "LICENSE.txt",
)
"""Files that a bundle takes over unchanged; config.json and generation_config.json are written by transformers."""

PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")

TEKKEN = "tekken.json"
VOCABULARIES = ("vocab*", "*.model", "*.tiktoken", "*.spm", "*.tokenizer", TEKKEN)
"""What tokenizers without a tokenizer.json keep their vocabulary in."""

CHECKPOINT = [
    "*.json",
    "model*.safetensors",
    "gptq_model*.safetensors",
    "*.txt",
    "*.jinja",
    "*.model",
    "*.spm",
    "*.tiktoken",
    "*.tokenizer",
    "*/config.json",
    "README.md",
]


@dataclass(frozen=True)
class Checkpoint:
    """A model ready to be traced.

    Attributes:
        model: in float32 and evaluation mode, on the CPU.
        task: a key of `TASKS`.
        files: bundle-relative name to content, of the tokenizer and what else travels unchanged.
        source: what the user named: a folder's name, a file's name or a repository id.
        revision: commit of the repository, or sha256 of the weights' file.
        licence: as the checkpoint's model card states it, if it does.
        weights: files that hold the weights, where the model is nobody else's.
    """

    model: "PreTrainedModel"
    task: str
    files: Mapping[str, bytes]
    source: str
    revision: str | None
    licence: str | None
    weights: Collection[Path] = ()

    def __post_init__(self) -> None:
        """Let the model itself be asked for features that what is within it gives, as Janus' and Gemma 4's does."""
        inner = getattr(self.model, "model", None)
        for name in ("get_image_features", "get_audio_features"):
            if not hasattr(self.model, name) and hasattr(inner, name):
                setattr(self.model, name, getattr(inner, name))


def load(
    model: "str | Path | PreTrainedModel",
    *,
    task: str | None = None,
    revision: str | None = None,
    tokenizer: Any = None,
    trust_remote_code: bool = False,
) -> Checkpoint:
    """Load a checkpoint.

    Args:
        model: a Hugging Face folder, a GGUF file, a hub repository id, or a loaded model.
        task: what to export it for; inferred when None.
        revision: of the hub repository.
        tokenizer: for a loaded model that does not come from a folder.
        trust_remote_code: whether to run the code that a folder or repository brings (`auto_map`). Without, what
            transformers has itself is loaded by that, and other models are refused.

    Raises:
        HubError: no such folder or repository.
        TaskError: a task that is unknown or does not fit.
        ExportError: a folder that holds no usable checkpoint.
    """
    from transformers import PreTrainedModel

    if isinstance(model, PreTrainedModel):
        return _from_python(model, task, tokenizer)
    path = resolve(model, revision=revision, patterns=[*CHECKPOINT, "*.py"] if trust_remote_code else CHECKPOINT)
    if path.is_file():
        if path.suffix != ".gguf":
            raise ExportError(f"{path} is not a model: give a Hugging Face folder or a .gguf file")
        return _from_gguf(path, task)
    found = path.parent.name == "snapshots"
    source = str(model) if found else path.resolve().name
    return _from_folder(path, task, source, path.name if found else None, trusted=trust_remote_code)


def _from_folder(folder: Path, task: str | None, source: str, revision: str | None, *, trusted: bool) -> Checkpoint:
    if (folder / "adapter_config.json").exists():
        raise ExportError(
            f"{folder} holds an adapter (adapter_config.json): merge it into its model with peft's "
            "`merge_and_unload()`, and export what `save_pretrained` writes of that"
        )
    if not (folder / "config.json").exists():
        ggufs = sorted(path.name for path in folder.glob("*.gguf"))
        hint = f": give the file, {folder / ggufs[0]}" if ggufs else ""
        if revision is not None:
            hint = f": if {source} has GGUF files, give one, as {source}/FILE.gguf"
        raise ExportError(f"{folder} is not a Hugging Face model: it has no config.json{hint}")
    raw = read_json(folder / "config.json")
    if "model_type" not in raw and not is_timm(raw):
        raise BundleError(f"{folder / 'config.json'} has no model_type: not a transformers configuration")
    if "auto_map" in raw and not trusted:
        _leave_code(folder, str(raw.get("model_type")))
    _check_weights(folder)
    brings_code = "auto_map" in raw and trusted
    try:
        return _read_folder(folder, raw, task, source, revision, brings_code=brings_code)
    except Exception as error:
        if not brings_code or isinstance(error, WherryError):
            raise
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise ExportError(f"code that {folder} brings failed: {reason}") from error


def _read_folder(
    folder: Path, raw: Mapping[str, Any], task: str | None, source: str, revision: str | None, *, brings_code: bool
) -> Checkpoint:
    import transformers
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    from wherry_exporter.inputs import setting

    kind: Any = AutoConfig
    for name in raw.get("architectures") or []:  # vocoders have no place in transformers' table of configurations
        own = getattr(getattr(transformers, name, None), "config_class", None)
        if own is not None and own.model_type == raw.get("model_type"):
            kind = own
    allowed = {"trust_remote_code": brings_code} if kind is AutoConfig else {}
    try:
        config = kind.from_pretrained(folder, local_files_only=True, **allowed)
    except StrictDataclassError as error:  # whose first line alone tells of no value
        reason = " ".join(str(error).split())
        raise ExportError(f"transformers cannot read {folder / 'config.json'}: {reason[:300]}") from error
    except (ValueError, TypeError, KeyError, AttributeError, OSError, ImportError) as error:
        raise ExportError(f"transformers cannot read {folder / 'config.json'}: {_first_line(error)}") from error
    made = {}
    if is_timm(raw):
        made = in_transformers_words(config, raw, folder / "config.json")
    if not brings_code:
        _forget_code(config)
    chosen = find_task(task, config, folder)
    options = {"config": config, "state_dict": prepared(config, folder)}
    options |= {"trust_remote_code": True} if brings_code else {}
    model_class = _model_class(chosen, config, [] if brings_code else raw.get("architectures"))
    model = _giving_features(chosen, _read_weights(model_class, folder, **options))
    _forget_code(model.config)
    files = made | carried(folder, chosen, config, trusted=brings_code)
    text: Any = model.config.get_text_config() if chosen == "text-classification" else None
    if text is not None and getattr(text, "pad_token_id", None) is None:  # decoders look for where it begins
        text.pad_token_id = _padding(files)
    size = _size_of_images(folder)
    if size is not None and not setting(model.config, "image_size"):
        model.config.image_size = size
    return Checkpoint(model, chosen, files, source, revision, _licence(folder), list(folder.glob("*.safetensors")))


def _leave_code(folder: Path, model_type: str) -> None:
    """Say that a repository's code is not run, or refuse a model that transformers cannot load without it."""
    from transformers import CONFIG_MAPPING

    if model_type not in CONFIG_MAPPING:
        raise ExportError(
            f"{folder / 'config.json'} asks to run code of its repository (auto_map), and transformers has no "
            f"{model_type} of its own: read that code, and give --trust-remote-code if you trust it"
        )
    warnings.warn(f"code that {folder} brings is not run: transformers has {model_type} itself", stacklevel=3)


def _forget_code(config: Any) -> None:
    """Leave out of a configuration where a repository's code is, which a bundle does not need."""
    config._auto_class = None
    vars(config).pop("auto_map", None)


def _from_gguf(path: Path, task: str | None) -> Checkpoint:
    from transformers import AutoConfig, AutoTokenizer

    from wherry_exporter.gguf_once import read_once

    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ExportError(f"{path} is not a GGUF file: it does not begin with 'GGUF'")
    with read_once():
        try:
            config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
            asked = task or (None if config.architectures else "text-generation")
            chosen = find_task(asked, config, None)
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
        except (ValueError, KeyError, IndexError, OSError, NotImplementedError, struct.error) as error:
            raise ExportError(f"{path} cannot be read as GGUF: {_first_line(error)}") from error
        model = _read_weights(_model_class(chosen, config, None), path.parent, gguf_file=path.name)
    loaded: Any = model  # transformers refuses to save a model that it loaded from GGUF unless these go
    loaded.hf_quantizer, loaded.is_quantized = None, False
    if hasattr(loaded.config, "quantization_config"):
        del loaded.config.quantization_config
    return Checkpoint(model, chosen, _save_tokenizer(tokenizer), path.name, sha256(path), None)


def _from_python(model: "PreTrainedModel", task: str | None, tokenizer: Any) -> Checkpoint:
    config: Any = model.config
    if not config.architectures:
        config.architectures = [type(model).__name__]
    folder = Path(config.name_or_path) if config.name_or_path and Path(config.name_or_path).is_dir() else None
    chosen = find_task(task, config, folder)
    if tokenizer is not None:
        files = _save_tokenizer(tokenizer)
    elif folder is not None:
        files = carried(folder, chosen, config)
    elif not TASKS[chosen].text:
        files = {}
    else:
        raise ExportError("a model that was not loaded from a folder needs its tokenizer: pass tokenizer=...")
    source = config.name_or_path or type(model).__name__
    return Checkpoint(_giving_features(chosen, model.float().eval().cpu()), chosen, files, source, None, None)


def _check_weights(folder: Path) -> None:
    """Refuse a folder whose weights are absent, pickled or cut short, before transformers meets them."""
    from safetensors import SafetensorError, safe_open

    shards = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = set(read_json(index).get("weight_map", {}).values())
        outside = sorted(name for name in names if Path(name).name != name)
        if outside:
            raise ExportError(f"{index} names a file outside its folder: {outside[0]}")
        missing = sorted(name for name in names if not (folder / name).is_file())
        if missing:
            raise ExportError(f"{folder} lacks {len(missing)} of {len(names)} weight files: {', '.join(missing)}")
    elif not shards:
        pickled = sorted(path.name for path in [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
        if pickled:
            raise ExportError(
                f"{folder} holds pickled weights ({pickled[0]}), which can run code when opened: "
                "save it as safetensors with `model.save_pretrained(folder)` where you trust it"
            )
        raise ExportError(f"{folder} is not a Hugging Face model: it holds no weights (*.safetensors)")
    for shard in shards:
        try:
            with safe_open(shard, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise ExportError(f"{shard} is damaged: {_first_line(error)}") from error


def _model_class(task: str, config: Any, architectures: Sequence[str] | None) -> Any:
    """The class of the checkpoint's own architecture when it fits the task, else the auto class of the task.

    `architectures` are those that its config.json names; None for those that transformers derived.
    """
    import transformers
    from optimum.exporters.tasks import TasksManager
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASK_GENERATION_MAPPING_NAMES

    auto = TASKS[task].auto
    if auto == "mask-generation" and config.model_type in MODEL_FOR_MASK_GENERATION_MAPPING_NAMES:
        return getattr(transformers, MODEL_FOR_MASK_GENERATION_MAPPING_NAMES[config.model_type])  # not of videos
    for name in (config.architectures or []) if architectures is None else architectures:
        own = getattr(transformers, name, None)
        able = task_of(own) if own is not None else None
        if (able is not None and able in TASKS and TASKS[able].auto == auto) or writes_words_alone(task, able):
            return own
    return TasksManager.get_model_class_for_task(auto, model_type=config.model_type)


def _padding(files: Mapping[str, bytes]) -> int | None:
    """The token that a tokenizer fills rows up with: where it names none, that of the end, as the runtime does."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            if name in files:
                (Path(folder) / name).write_bytes(files[name])
        tokenizer = Tokenizer.load(folder)
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def _giving_features(task: str, model: "PreTrainedModel") -> "PreTrainedModel":
    """The model, or for features its encoder, where the decoder gives none before it is told what to say."""
    from wherry_exporter.inputs import input_names, parameters_of, random_inputs, runs

    if TASKS[task].auto != "feature-extraction" or "decoder_input_ids" not in parameters_of(model):
        return model
    speaks = runs(model, random_inputs(model, input_names(model), batch=1, scale=1, seed=0))
    encoder: PreTrainedModel = model if speaks else model.get_encoder()
    return encoder


@contextmanager
def without_losses() -> Iterator[None]:
    """Let models be made without scipy, which some demand for a loss that nothing here computes."""
    from transformers.utils.import_utils import BACKENDS_MAPPING

    with patch.dict(BACKENDS_MAPPING, {"scipy": (lambda: True, "")}):
        yield


def _read_weights(model_class: Any, folder: Path, **options: Any) -> "PreTrainedModel":
    import torch
    from transformers import GenerationConfig

    unpacked = options.get("state_dict") is not None
    try:
        with quiet(), without_losses():
            model, report = model_class.from_pretrained(
                None if unpacked else folder,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the report, which is judged below
                local_files_only=True,
                **options,
            )
    except (ValueError, KeyError, RuntimeError, OSError, NotImplementedError, ImportError) as error:
        raise ExportError(f"transformers cannot load {folder}: {_first_line(error)}") from error
    missing = [name for name in sorted(report["missing_keys"]) if "pooler" not in name]
    wrong = [name for name in missing if not _computed(model.get_submodule(name.rpartition(".")[0]))]
    wrong += [f"{name} (wrong shape)" for name, *_ in report["mismatched_keys"]]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ExportError(f"{folder} lacks weights that {model_class.__name__} needs: {', '.join(wrong[:3])}{more}")
    if unpacked and (folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    bad = [name for name, tensor in model.named_parameters() if not _finite(tensor)]
    if bad:
        raise ExportError(f"{folder} has weights that are not finite numbers: {', '.join(bad[:3])}")
    loaded: PreTrainedModel = whole(model).eval()
    return loaded


def _computed(module: "torch.nn.Module") -> bool:
    """Whether a module's weights follow from its size; Marian's positions are saved with none of its models."""
    return "Sinusoidal" in type(module).__name__


def _finite(tensor: "torch.Tensor") -> bool:
    """Whether every element is a finite number. A finite sum proves it, in a tenth of the time of asking each."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def carried(folder: Path, task: str, config: Any, *, trusted: bool = False) -> dict[str, bytes]:
    """The files of a checkpoint's folder that travel unchanged, and a tokenizer.json made where there is none.

    The tokenizer's code in the folder is run if that is `trusted`.
    """
    from transformers import AutoTokenizer

    names = [name for name in CARRIED if (folder / name).is_file()] + named_templates(folder)
    if task == "text-generation":  # of what sees or hears too
        names = [name for name in names if name not in PREPROCESSORS]
    if "modules.json" in names:
        names += [path.relative_to(folder).as_posix() for path in sorted(folder.glob("*/config.json"))]
    files = {name: (folder / name).read_bytes() for name in names}
    older = folder / "chat_template.json"  # of processors, before transformers 4.52
    if older.is_file() and isinstance(template := read_json(older).get("chat_template"), str):
        files.setdefault("chat_template.jinja", template.encode())
    if "tokenizer.json" in files:
        return files
    vocabularies = [path for pattern in VOCABULARIES for path in folder.glob(pattern)]
    if not vocabularies and TASKS[task].text and (tokenizer := _without_vocabulary(folder, trusted)):
        return files | _save_tokenizer(tokenizer)
    if not vocabularies:  # transformers would make an empty one
        if not TASKS[task].text:
            if TASKS[task].generates:
                warnings.warn(f"{folder} has no tokenizer: what the bundle writes stays tokens", stacklevel=2)
            return files
        raise ExportError(f"{folder} has no tokenizer (tokenizer.json): copy the tokenizer's files into the folder")
    copied = {path.name: path.read_bytes() for path in vocabularies}
    if any(name.endswith("ForCTC") for name in config.architectures or ()):  # labels of frames, and no tokenizer
        return files | copied
    try:
        tekken = {"mistral_format": False} if TEKKEN in copied else {}  # transformers' reading, not mistral-common's
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trusted, **tekken)
        if not {path.name for path in vocabularies} & {*tokenizer.vocab_files_names.values(), TEKKEN}:
            raise ExportError(f"{type(tokenizer).__name__} does not read {', '.join(sorted(copied))}")
        return files | _save_tokenizer(tokenizer)
    except (ExportError, ValueError, TypeError, KeyError, OSError, ImportError, AssertionError) as error:
        reason = f"{folder} has no usable tokenizer (tokenizer.json): {_first_line(error)}"
        if TASKS[task].text or TASKS[task].generates:
            raise ExportError(f"{reason}; copy the tokenizer's files into the folder") from error
        warnings.warn(f"{reason}; its vocabulary is copied as it is", stacklevel=2)
        return files | copied


def _without_vocabulary(folder: Path, trusted: bool) -> Any:
    """The tokenizer of a folder, if it is of a kind that keeps no vocabulary, as ByT5's of bytes; else None."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trusted)
    except (ValueError, TypeError, KeyError, OSError, ImportError):
        return None
    return None if tokenizer.is_fast or tokenizer.vocab_files_names else tokenizer


def named_templates(folder: Path) -> list[str]:
    """Chat templates beside the usual one, for tools or documents: names relative to the folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob("additional_chat_templates/*.jinja"))


def _size_of_images(folder: Path) -> Mapping[str, int] | None:
    """The one size that the preprocessor gives every image, if it does."""
    path = next((path for name in PREPROCESSORS if (path := folder / name).exists()), None)
    if path is None:
        return None
    raw = read_json(path)
    raw = raw.get("image_processor", raw)
    size = raw.get("crop_size" if raw.get("do_center_crop") else "size")
    whole = isinstance(size, dict) and all(isinstance(size.get(side), int) for side in ("height", "width"))
    return {side: size[side] for side in ("height", "width")} if whole else None


def _save_tokenizer(tokenizer: Any) -> dict[str, bytes]:
    if not tokenizer.is_fast:
        tokenizer = fast_form(tokenizer)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_pretrained(scratch)
        names = [name for name in CARRIED if Path(scratch, name).is_file()] + named_templates(Path(scratch))
        files = {name: Path(scratch, name).read_bytes() for name in names}
    config = json.loads(files["tokenizer_config.json"])
    config |= {"model_input_names": list(tokenizer.model_input_names), "padding_side": tokenizer.padding_side}
    return files | {"tokenizer_config.json": _for_older_readers(config)}


def _for_older_readers(config: dict[str, Any]) -> bytes:
    """A tokenizer's configuration in words that transformers 4 knows too, and nothing of where it was loaded from."""
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    for name in ("backend", "is_local", "local_files_only"):
        config.pop(name, None)
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def _licence(folder: Path) -> str | None:
    card = folder / "README.md"
    if card.is_file():
        lines = card.read_text(encoding="utf-8", errors="replace").splitlines()
        if lines[:1] == ["---"]:
            for line in lines[1:]:
                if line.startswith("license:"):
                    return line.removeprefix("license:").strip().strip("\"'") or None
                if line == "---":
                    break
    return None


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    if isinstance(error, ImportError):  # which library to install stands below
        text = " ".join(text.split()).partition(" Please note")[0]
    return json.dumps(text.splitlines()[0][:300], ensure_ascii=False).strip('"')
