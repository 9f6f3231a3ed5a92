"""Inputs for every graph of a model that show what its activations are like. Knows no way of quantizing."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from wherry_exporter.runners import Feed, Runner, Step

Array = np.ndarray[Any, Any]
STEPS = 12
"""Tokens that a decoder behind an encoder is looked at over."""


def graph_feeds(graph: ir.Model, entries: Sequence[Feed], original: Runner, start: int) -> list[Feed]:
    """Inputs of a graph.

    Args:
        graph: in float32.
        entries: what the model as a whole takes: tokens, images, sounds.
        original: computes what goes from graph to graph.
        start: the token that a decoder behind an encoder begins with.

    Returns:
        none for a graph that takes what neither `entries` nor `original` give.
    """
    found: list[Feed] = []
    ports = {str(value.name): value for value in graph.graph.inputs}
    for entry in entries:
        known = dict(entry)
        if "encoder_hidden_states" in ports and "encoder_hidden_states" not in known:
            known = _decoder_inputs(entry, original, start)
        rows = len(known.get("encoder_hidden_states", known.get("attention_mask", next(iter(known.values())))))
        known |= {
            name: np.zeros(
                [rows, *(dim if isinstance(dim, int) else 0 for dim in list(value.shape or ())[1:])], np.float32
            )
            for name, value in ports.items()
            if name.startswith("past_")
        }
        if "attention_mask" in known and "position_ids" not in known:
            positions = np.maximum(known["attention_mask"].cumsum(1) - 1, 0)
            wanted = len(ports["position_ids"].shape or ()) if "position_ids" in ports else 2
            known["position_ids"] = positions if wanted == 2 else np.tile(positions, (3, 1, 1))
        if set(ports) <= set(known):
            found.append({name: known[name] for name in ports})
    return found


def _decoder_inputs(entry: Feed, original: Runner, start: int) -> dict[str, Array]:
    states, mask = original.encode(entry), entry.get("attention_mask")
    first = np.full((original.rows * len(states), 1), start)
    tokens = greedy(original.decoding(states, mask), first, STEPS)
    return {
        "input_ids": np.concatenate([first, tokens], 1),
        "encoder_hidden_states": states,
        "encoder_attention_mask": np.ones(states.shape[:2], np.int64) if mask is None else mask,
        "use_cache_branch": np.array([False]),
    }


def greedy(step: Step, prompt: Array, steps: int, end: int | None = None) -> Array:
    """The likeliest tokens after a prompt, (batch, steps); fewer where every row has come to the token `end`."""
    ids = prompt
    tokens: list[Array] = []
    done = np.zeros(len(prompt), np.bool_)
    while len(tokens) < steps and not done.all():
        ids = step(ids)[:, -1:].argmax(-1)
        tokens.append(ids)
        done |= ids[:, 0] == end
    return np.concatenate(tokens, 1)


def start_token(config: Mapping[str, Any], generation: Mapping[str, Any]) -> int:
    """The token that a decoder behind an encoder begins with, as the model's configurations tell."""
    for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
        for source in (config, generation):
            if isinstance(source.get(name), int):
                return int(source[name])
    return 0
