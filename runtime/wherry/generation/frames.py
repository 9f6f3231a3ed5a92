"""The greedy search of a transducer: frame by frame, with what is written in view.

Graves, https://arxiv.org/abs/1211.3711; with durations: Xu et al., https://arxiv.org/abs/2304.06795.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wherry.errors import BundleError

Joint = Callable[[int, int | None], np.ndarray[Any, Any]]
"""The number of a frame, and the token that was written just before it if any was: the logits of the next token, behind
them those of durations where the model has some, (vocabulary + durations,)."""


@dataclass(frozen=True)
class Frame:
    """What a model says at a frame.

    Attributes:
        at: the number of the frame.
        token: None where nothing is written.
        onward: how many frames it goes on.
    """

    at: int
    token: int | None
    onward: int


@dataclass(frozen=True)
class FrameSearch:
    """How a model goes through frames.

    Attributes:
        vocabulary: how many tokens there are, the blank among them.
        blank: the token that stands for nothing.
        most: so many tokens are written at one frame at most where there are no durations.
        durations: in frames.
    """

    vocabulary: int
    blank: int
    most: int
    durations: tuple[int, ...]

    @classmethod
    def of(cls, config: Mapping[str, Any], place: object) -> "FrameSearch":
        """As a model's configuration tells it.

        Args:
            config: what `config.json` holds.
            place: of that, for messages.

        Raises:
            BundleError: it does not.
        """
        durations = config.get("durations") or ()
        names = ("vocab_size", "blank_token_id", "max_symbols_per_step")
        numbers = [*(config.get(name) for name in names), *durations]
        if not all(type(number) is int and number >= 0 for number in numbers) or not numbers[2]:
            raise BundleError(f"{place} must tell {', '.join(names)} and durations in whole numbers")
        vocabulary, blank, most, *durations = numbers
        return cls(vocabulary, blank, most, tuple(durations))

    def run(self, joint: Joint, frames: int) -> Iterator[Frame]:
        """What is the likeliest, until the frames are at their end."""
        at, here = 0, 0
        token: int | None = None
        for _ in range(self.most * frames):
            if at >= frames:
                return
            scores = joint(at, token)
            best = int(scores[: self.vocabulary].argmax())
            onward = self.durations[int(scores[self.vocabulary :].argmax())] if self.durations else 0
            token = None if best == self.blank else best
            yield Frame(at, token, onward)
            here = 0 if token is None else here + 1
            if token is None:
                onward = max(1, onward)
            elif not self.durations and here >= self.most:
                onward, here = 1, 0
            at += onward
