"""The decode loop: prompts of token ids in, one token a row and step out, over a cache that stays on the device."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from wherry.errors import SessionError
from wherry.generation.config import GenerationConfig
from wherry.generation.sampling import Sampler
from wherry.session import Session

Array = np.ndarray[Any, Any]


class Decoder:
    """A graph with past_key_values, run over prompts padded on one side, each row with a length of its own."""

    def __init__(self, session: Session, padding_side: str = "right") -> None:
        """Look at a graph's inputs and outputs.

        Args:
            session: the graph.
            padding_side: `right` for graphs that put new keys after a row's last real one (GroupQueryAttention),
                `left` for those that append them to the cache.

        Raises:
            SessionError: the graph has no cache.
        """
        self.session, self.padding_side = session, padding_side
        self.past = [name for name in session.inputs if name.startswith("past_key_values.")]
        self.present = [name.replace("past_key_values.", "present.", 1) for name in self.past]
        if not self.past or "logits" not in session.outputs:
            raise SessionError("the graph is no decoder with a cache: it lacks past_key_values or logits")

    def steps(self, rows: Sequence[Sequence[int]], config: GenerationConfig, sampler: Sampler) -> Iterator[Array]:
        """Decode a batch.

        Args:
            rows: token ids of each prompt, at least one each.

        Yields:
            (batch,) int64: the token of each row at each step; -1 for rows that have ended.
        """
        batch = len(rows)
        lengths = np.array([len(row) for row in rows])
        width = int(lengths.max())
        limits = np.full(batch, config.max_new_tokens)
        if config.max_length is not None:
            limits = np.minimum(limits, config.max_length - lengths)
        ids = np.zeros((batch, width), np.int64)
        left = self.padding_side == "left"
        for index, row in enumerate(rows):
            ids[index, width - len(row) if left else 0 : width if left else len(row)] = row
        ends = np.array(config.eos_token_ids, np.int64)
        columns = np.arange(width + int(limits.max()))
        active = limits > 0
        past: list[Any] = [self._empty(name, batch) for name in self.past]
        starts = (width - lengths if left else np.zeros_like(lengths))[:, None]
        last = (starts[:, 0] + lengths) - 1  # where in this step's logits each row's next token is
        step = 0
        while active.any():
            # A row that has ended goes on with padding; its tokens are thrown away.
            seen = columns[: width + step]
            mask = ((seen >= starts) & (seen < starts + lengths[:, None] + step)).astype(np.int64)
            positions = np.maximum(columns[:width] - starts, 0) if step == 0 else (lengths + step - 1)[:, None]
            logits, past = self._forward(ids, mask, positions, past)
            tokens = sampler(logits[np.arange(batch), last])
            tokens = np.where(active, tokens, -1)
            yield tokens
            step += 1
            active = active & ~np.isin(tokens, ends) & (step < limits)
            ids = np.maximum(tokens, 0)[:, None]
            last = np.zeros(batch, np.int64)

    def _forward(self, ids: Array, mask: Array, positions: Array, past: list[Any]) -> tuple[Array, list[Any]]:
        """One run with the cache bound: it never passes through numpy."""
        session = self.session
        binding = session.raw.io_binding()
        feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        for name, array in feeds.items():
            if name in session.inputs:
                binding.bind_cpu_input(name, np.ascontiguousarray(array, dtype=session.inputs[name].dtype))
        for name, value in zip(self.past, past, strict=True):
            binding.bind_ortvalue_input(name, value)
        binding.bind_output("logits", "cpu")
        kind = "cpu" if session.device == "cpu" else "cuda"
        for name in self.present:
            binding.bind_output(name, kind)
        session.run_bound(binding)
        values = binding.get_outputs()
        return values[0].numpy(), values[1:]

    def _empty(self, name: str, batch: int) -> Any:
        port = self.session.inputs[name]
        _, heads, _, size = port.shape
        return self.session.value(np.zeros((batch, heads, 0, size), port.dtype))
