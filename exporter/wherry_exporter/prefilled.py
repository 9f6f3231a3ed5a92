"""A decoder and the graph that reads its prompts, run as one session. Knows nothing of how they were made."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from wherry_exporter.probes import Feed, Session

TOKENS = ("input_ids", "inputs_embeds", "per_layer_inputs", "token_type_ids")
"""Inputs that tell of each token along their second axis."""


class Prefilled:
    """Prompts are read by one graph and gone on with by another.

    Where logits of every token are asked, the graph reads the first half of a prompt; the logits of that half, which
    has nothing behind it, are the decoder's own.
    """

    def __init__(self, prefill: "Session", decoder: "Session", *, every: bool) -> None:
        """Prepare.

        Args:
            prefill: gives keys and values alone.
            decoder: gives logits, and keys and values.
            every: whether logits are asked of each token of a prompt, and not only of the last, as where text is made.
        """
        self.prefill, self.decoder, self.every = prefill, decoder, every

    def get_inputs(self) -> Any:
        return self.decoder.get_inputs()

    def get_outputs(self) -> Any:
        return self.decoder.get_outputs()

    def run(self, output_names: Any, input_feed: "Feed") -> Any:
        """As a session does; a prompt is padded on the right, and what comes behind it goes to the decoder."""
        tokens = input_feed["input_ids" if "input_ids" in input_feed else "inputs_embeds"]
        width = tokens.shape[1]
        begun = any(name.startswith("past_") and array.shape[2] for name, array in input_feed.items())
        if begun or width == 1:
            return self.decoder.run(output_names, input_feed)
        names = output_names or [port.name for port in self.get_outputs()]
        rows = [
            self._row(names, {name: _one(name, array, row) for name, array in input_feed.items()})
            for row in range(len(tokens))
        ]
        return [
            np.concatenate([_padded(array, 1 if name == "logits" else 2, width) for array in arrays])
            for name, *arrays in zip(names, *rows, strict=True)
        ]

    def _row(self, names: list[str], feed: "Feed") -> list[Any]:
        length = int(feed["attention_mask"].sum())
        first = length // 2 if self.every else length - 1
        if not first:
            return list(self.decoder.run(names, _part(feed, 0, length)))
        head = _part(feed, 0, first)
        known = [name for name in feed if name.startswith("past_")]
        past = dict(zip(known, self.prefill.run(None, head), strict=True))
        found = dict(zip(names, self.decoder.run(names, _part(feed, first, length) | past), strict=True))
        if self.every:
            found["logits"] = np.concatenate([self.decoder.run(["logits"], head)[0], found["logits"]], 1)
        return [found[name] for name in names]


def _one(name: str, array: Any, row: int) -> Any:
    """A row of an input; positions may be told in time, height and width before that."""
    return array[:, [row]] if name == "position_ids" and array.ndim == 3 else array[[row]]


def _part(feed: "Feed", first: int, last: int) -> "Feed":
    """The feed of some tokens of a row; the mask tells of those before them too."""
    found = {name: array[:, first:last] for name, array in feed.items() if name in TOKENS}
    found |= {name: array for name, array in feed.items() if name.startswith("past_")}
    if "position_ids" in feed:
        found["position_ids"] = feed["position_ids"][..., first:last]
    return found | {"attention_mask": feed["attention_mask"][:, :last]}


def _padded(array: Any, axis: int, width: int) -> Any:
    lacking = [(0, 0)] * array.ndim
    lacking[axis] = (0, width - array.shape[axis])
    return np.pad(array, lacking)
