"""A decoder and the graph that reads its prompts, run as one session. Knows nothing of how they were made."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from wherry_exporter.probes import Feed, Session


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
        """As a session does; a prompt is padded on the right, and its past is empty."""
        width = input_feed["input_ids"].shape[1]
        if width == 1:
            return self.decoder.run(output_names, input_feed)
        names = output_names or [port.name for port in self.get_outputs()]
        rows = [
            self._row(names, {name: array[[row]] for name, array in input_feed.items()})
            for row in range(len(input_feed["input_ids"]))
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


def _part(feed: "Feed", first: int, last: int) -> "Feed":
    """The feed of some tokens of a row; the mask tells of those before them too."""
    sizes = {"attention_mask": slice(last), "input_ids": slice(first, last), "position_ids": slice(first, last)}
    return {name: array[:, sizes[name]] if name in sizes else array for name, array in feed.items()}


def _padded(array: Any, axis: int, width: int) -> Any:
    lacking = [(0, 0)] * array.ndim
    lacking[axis] = (0, width - array.shape[axis])
    return np.pad(array, lacking)
