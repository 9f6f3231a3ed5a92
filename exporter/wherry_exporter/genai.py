"""The genai_config.json by which onnxruntime-genai runs a decoder's bundle.

Reads a configuration and a graph's inputs. Knows no architecture: genai takes the type `decoder` for any of them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wherry_exporter.convert import Traced

NO_LIMIT = 2048
"""Positions that genai may fill where a configuration states no limit; models with ALiBi have none."""

SEARCH = ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "no_repeat_ngram_size")


def write_genai_config(folder: Path, model: Any, traced: Traced, graphs: Mapping[str, str]) -> None:
    """Write genai_config.json for the variant with those graphs, where genai can run it.

    It runs decoders whose keys and values have the same heads and sizes in every layer.
    """
    if "model" not in graphs:
        return
    caches = [value for value in traced.graphs["model"].graph.inputs if str(value.name).startswith("past_")]
    sizes = {tuple(axis for axis in cache.shape or () if isinstance(axis, int)) for cache in caches}
    if len(sizes) == 1 and all(str(cache.name).startswith("past_key_values.") for cache in caches):
        heads, size = sizes.pop()
        config = genai_config(
            model.config.get_text_config(),
            model.generation_config,
            filename=graphs["model"],
            layers=len(caches) // 2,
            heads=heads,
            size=size,
            shared=traced.padding_side == "right",
        )
        (folder / "genai_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def genai_config(
    config: Any, generation: Any, *, filename: str, layers: int, heads: int, size: int, shared: bool
) -> dict[str, Any]:
    """What genai needs to know of a decoder.

    Args:
        config: transformers' configuration of the text model.
        generation: transformers' generation configuration.
        filename: of the graph, relative to the bundle.
        layers: how many keys and values are cached.
        heads: of a layer's keys.
        size: of a head.
        shared: whether the graph writes new keys and values into the buffers of the past ones.
    """
    length = getattr(config, "max_position_embeddings", None) or NO_LIMIT
    tokens = {name: _first(name, generation, config) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    search = {name: getattr(generation, name, None) for name in SEARCH}
    return {
        "model": {
            "type": "decoder",
            "vocab_size": config.vocab_size,
            "context_length": length,
            **_stated(tokens),
            "decoder": {
                "filename": filename,
                "hidden_size": config.hidden_size,
                "num_attention_heads": config.num_attention_heads,
                "num_hidden_layers": layers,
                "num_key_value_heads": heads,
                "head_size": size,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
                "session_options": {"provider_options": []},
            },
        },
        "search": {"max_length": length, "past_present_share_buffer": shared, **_stated(search)},
    }


def _first(name: str, *sources: Any) -> Any:
    return next((value for source in sources if (value := getattr(source, name, None)) is not None), None)


def _stated(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}
