"""The original in torch and its graphs in onnxruntime behind one face, so that both can be asked the same.

Each answers with arrays; neither knows what is asked nor what the answers are for.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from wherry.generation.frames import Joint
from wherry_exporter.errors import UsageError
from wherry_exporter.inputs import tensors_of
from wherry_exporter.probes import Session, next_past, no_past, open_sessions, output_names
from wherry_exporter.prompts import Prompt
from wherry_exporter.seq2seq import rows_of
from wherry_exporter.spliced import Embedded, Spliced, asked, encode_seen
from wherry_exporter.tasks import has_encoder, transduces
from wherry_exporter.transducer import Encoder, joined

Array = np.ndarray[Any, Any]
Feed = Mapping[str, Array]
Step = Callable[[Array], Array]
"""Tokens (batch, new) to logits (batch, new, vocabulary), after all tokens given before."""


class Runner(Protocol):
    """A model that runs in one go, a decoder, or an encoder with a decoder; the methods of its shape work.

    Attributes:
        rows: of a decoder's tokens for one of its encoder's.
    """

    rows: int

    def run(self, feed: Feed) -> dict[str, Array]:
        """Outputs of a model that runs in one go."""

    def logits(self, ids: Array) -> Array:
        """A decoder's logits, (batch, sequence, vocabulary), for whole rows of one length."""

    def encode(self, feed: Feed) -> Array:
        """The encoder's states, (batch, encoder sequence, size)."""

    def decoding(self, states: Array, mask: Array | None) -> Step:
        """A decoder over an encoder's states."""

    def reading(self, prompt: Prompt) -> Step:
        """A decoder that sees or hears what is in a prompt; it is given `prompt.start` at first."""

    def joining(self, states: Array, blank: int) -> Joint:
        """What follows each of a sound's states, (frames, size), in a transducer; `blank` is its token for nothing."""


class TorchRunner:
    """A torch module."""

    def __init__(self, model: Any) -> None:
        from transformers.modeling_outputs import BaseModelOutput

        self.model, self.rows = model, rows_of(model)
        self.encoded: type[Any] = BaseModelOutput

    def run(self, feed: Feed) -> dict[str, Array]:
        with torch.no_grad():
            outputs = self.model(**_tensors(feed))
        return {name: value.numpy() for name, value in tensors_of(outputs).items()}

    def logits(self, ids: Array) -> Array:
        with torch.no_grad():
            return np.asarray(self.model(input_ids=torch.from_numpy(ids)).logits.numpy())

    def encode(self, feed: Feed) -> Array:
        with torch.no_grad():
            if transduces(type(self.model)):
                return np.asarray(Encoder(self.model)(_tensors(feed)).numpy())
            encoded = self.model.get_encoder()(**_tensors(feed))
        self.encoded = type(encoded)
        return np.asarray(encoded.last_hidden_state.numpy())

    def decoding(self, states: Array, mask: Array | None) -> Step:
        given: dict[str, Any] = {"encoder_outputs": self.encoded(last_hidden_state=torch.from_numpy(states))}
        if mask is not None:
            given["attention_mask"] = torch.from_numpy(mask)
        past: Any = None

        def step(ids: Array) -> Array:
            nonlocal past
            with torch.no_grad():
                output = self.model(
                    **given, decoder_input_ids=torch.from_numpy(ids), past_key_values=past, use_cache=True
                )
            past = output.past_key_values
            return np.asarray(output.logits.numpy())

        return step

    def reading(self, prompt: Prompt) -> Step:
        given = _tensors(prompt.inputs)
        behind = has_encoder(self.model)
        past: Any = None
        for module in self.model.modules():
            if hasattr(module, "rope_deltas"):
                module.rope_deltas = None  # those of the last image, which a prompt without one would go on with

        def step(ids: Array) -> Array:
            nonlocal past
            tokens = {"decoder_input_ids" if behind else "input_ids": torch.from_numpy(ids)}
            first = given if past is None or behind else {}
            with torch.no_grad():
                output = self.model(**first | tokens, past_key_values=past, use_cache=True)
            past = output.past_key_values
            return np.asarray(output.logits.numpy())

        return step

    def joining(self, states: Array, blank: int) -> Joint:
        frames, cache = torch.from_numpy(states)[:, None, None], None

        def step(at: int, written: int | None) -> Array:
            nonlocal cache
            ids = torch.tensor([[blank if written is None else written]])  # a blank leaves the cache as it is
            with torch.no_grad():
                output = joined(self.model, frames[at], ids, decoder_cache=cache, use_decoder_cache=True)
            cache = output.decoder_cache
            return np.asarray(output.logits[0, 0].numpy())

        return step


class GraphRunner:
    """Graphs on disk, by role."""

    rows = 1

    def __init__(self, graphs: Mapping[str, Path]) -> None:
        self.sessions = open_sessions(graphs)

    def run(self, feed: Feed) -> dict[str, Array]:
        return _run(self.sessions["model"], feed)

    def logits(self, ids: Array) -> Array:
        session = self.sessions["model"]
        mask = np.ones_like(ids)
        past = no_past(session, len(ids))
        return _run(session, {"input_ids": ids, "attention_mask": mask, "position_ids": mask.cumsum(1) - 1, **past})[
            "logits"
        ]

    def encode(self, feed: Feed) -> Array:
        return next(iter(_run(self.sessions["encoder_model"], feed).values()))

    def decoding(self, states: Array, mask: Array | None) -> Step:
        session: Session = self.sessions["decoder_model_merged"]
        if "embed_tokens" in self.sessions:
            session = Embedded(self.sessions["embed_tokens"], session)
        past = no_past(session, len(states))
        started = False

        def step(ids: Array) -> Array:
            nonlocal past, started
            feed = {
                "input_ids": ids,
                "encoder_hidden_states": states,
                "encoder_attention_mask": np.ones(states.shape[:2], np.int64) if mask is None else mask,
                "use_cache_branch": np.array([started]),
            }
            found = _run(session, feed | past)
            past, started = next_past(past, found, started=started), True
            return found["logits"]

        return step

    def reading(self, prompt: Prompt) -> Step:
        for port in self.sessions["vision_encoder"].get_inputs() if "pixel_values" in prompt.seen else ():
            shape = asked(prompt.seen, port.name).shape
            if any(isinstance(dim, int) and dim != size for dim, size in zip(port.shape, shape, strict=True)):
                raise UsageError(f"the processor gives {port.name} of {shape}, of which the graph takes {port.shape}")
        if "encoder_model" in self.sessions:
            states = encode_seen(self.sessions, prompt.inputs, prompt.token)
            return self.decoding(states, prompt.inputs["attention_mask"])
        session = Spliced(self.sessions, prompt.seen, prompt.token, [prompt.positions], prompt.read)
        past, length = no_past(session, 1), 0

        def step(ids: Array) -> Array:
            nonlocal past, length
            length += ids.shape[1]
            mask = np.ones((1, length), np.int64)
            logits, *present = session.run(None, {"input_ids": ids, "attention_mask": mask, **past})
            past = dict(zip(past, present, strict=True))
            return np.asarray(logits)

        return step

    def joining(self, states: Array, blank: int) -> Joint:
        session = self.sessions["decoder_joint"]
        token, past = blank, no_past(session, 1)
        found: dict[str, Array] = {}

        def step(at: int, written: int | None) -> Array:
            nonlocal token, past, found
            if written is not None:
                token, past = written, {name: found[name.replace("past", "present")] for name in past}
            given = {"input_ids": np.array([[token]]), "encoder_hidden_states": states[None, at : at + 1]}
            found = _run(session, given | past)
            return np.asarray(found["logits"][0, 0])

        return step


def _run(session: Any, feed: Feed) -> dict[str, Array]:
    ports = {port.name: port.type for port in session.get_inputs()}
    names = output_names(session)
    given = {
        name: value.astype(np.float16) if "float16" in ports[name] else value
        for name, value in feed.items()
        if name in ports
    }
    return dict(zip(names, session.run(names, given), strict=True))


def _tensors(feed: Feed) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in feed.items()}
