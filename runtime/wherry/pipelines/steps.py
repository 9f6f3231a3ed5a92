"""A decoder behind an encoder, step by step, where what it writes are no tokens of a text."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wherry.generation.batch import bind
from wherry.session import Session

Array = np.ndarray[Any, Any]


class Steps:
    """A decoder's graph over its keys and values, which stay where the graph gives them; the encoder's come once."""

    def __init__(self, session: Session, given: Mapping[str, Array], rows: int) -> None:
        """Begin.

        Args:
            session: of `decoder_model_merged`.
            given: what it takes in every step, such as `encoder_hidden_states` (rows, states, size).
            rows: of keys and values.
        """
        self.session, self.given = session, given
        self.ports = [port for name, port in session.inputs.items() if name.startswith("past_key_values.")]
        self.cross = [".encoder." in port.name for port in self.ports]
        sizes = [[size if isinstance(size, int) else 0 for size in port.shape[1:]] for port in self.ports]
        self.past = [
            session.value(np.zeros((rows, *size), port.dtype)) for size, port in zip(sizes, self.ports, strict=True)
        ]
        self.started = False

    def __call__(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Those outputs of the next step, float32."""
        binding = self.session.raw.io_binding()
        bind(binding, self.session, {**feeds, **self.given, "use_cache_branch": np.array([self.started])})
        wanted = [not (cross and self.started) for cross in self.cross]
        for port, value in zip(self.ports, self.past, strict=True):
            binding.bind_ortvalue_input(port.name, value)
        for name in outputs:
            binding.bind_output(name, "cpu")
        for port, new in zip(self.ports, wanted, strict=True):
            if new:
                name = port.name.replace("past_key_values", "present")
                binding.bind_output(name, self.session.memory, self.session.index)
        self.session.run_bound(binding)
        values = binding.get_outputs()
        present = iter(values[len(outputs) :])
        self.past = [next(present) if new else value for value, new in zip(self.past, wanted, strict=True)]
        self.started = True
        return [np.asarray(value.numpy(), np.float32) for value in values[: len(outputs)]]
