"""A decoder's graph and what it takes, whoever made it.

Two kinds: graphs with GroupQueryAttention write new keys and values where they read the past ones, so that a step moves
no cache; others give the whole cache anew in each step, which is handed back to them as it is.
"""

from typing import Any

import numpy as np

from wherry.errors import SessionError
from wherry.generation.batch import Batch, Given
from wherry.generation.growing import GrowingBatch
from wherry.generation.shared import SharedBatch
from wherry.session import Session

Array = np.ndarray[Any, Any]


class Decoder:
    """A graph with a cache: past_key_values, or states that do not grow, such as past_conv and past_recurrent.

    Attributes:
        session: the graph.
        first: another graph for the first step, where there are two: decoder_model and decoder_with_past_model.
        embed: makes embeddings of tokens, for a graph that takes those.
        shared: whether new keys and values may be written where the past ones are read.
        left: whether the graph wants padding on the left of a row.
        joins: whether rows of unlike length can run together.
        past: the cache's inputs.
        present: the cache's outputs, in the same order.
    """

    def __init__(
        self,
        session: Session,
        padding_side: str | None = None,
        *,
        first: Session | None = None,
        embed: Session | None = None,
    ) -> None:
        """Look at a graph's inputs, outputs and operators.

        Args:
            session: the graph.
            padding_side: `right` for graphs that put new keys after a row's last real one (GroupQueryAttention),
                `left` for those that append them to the cache; by default as its operators tell.
            first, embed: see the attributes.

        Raises:
            SessionError: the graph has no cache.
        """
        self.session, self.first, self.embed = session, first, embed
        self.shared = "GroupQueryAttention" in session.operators
        self.left = padding_side == "left" if padding_side else not self.shared
        # Without positions of their own, rows would count what pads them.
        told = padding_side is not None or self.shared or "position_ids" in session.inputs
        self.joins = told and "attention_mask" in session.inputs
        self.past = [port for name, port in session.inputs.items() if name.startswith("past_")]
        self.present = [
            port.name.replace("past_key_values.", "present.").replace("past_", "present_") for port in self.past
        ]
        if not self.past or "logits" not in session.outputs:
            raise SessionError("the graph is no decoder with a cache: it lacks past_key_values or logits")
        if embed is None and "inputs_embeds" in session.inputs:
            raise SessionError("the graph takes embeddings, and there is no embed_tokens that makes them")

    def batch(self, rows: int, capacity: int) -> Batch:
        """An empty batch, with memory for so many rows of so many tokens where that is taken beforehand."""
        if self.shared and self.session.device == "cpu":
            return SharedBatch(self, rows, capacity)
        return GrowingBatch(self)

    def feeds(self, ids: Array, positions: Array, mask: Array, given: Given) -> dict[str, Array]:
        """The inputs that tell of new tokens.

        Args:
            ids: (rows, tokens) int64.
            positions: as many, where each token stands.
            mask: (rows, past and new tokens) int64, 0 where there is padding.
            given: what is known already, such as `inputs_embeds` (rows, tokens, size) with images among the words.
        """
        made = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": self.positions(positions),
            "token_type_ids": np.zeros_like(ids),
        }
        if self.embed is not None and "inputs_embeds" not in given:
            made |= self.embed.run({"input_ids": ids}, ["inputs_embeds"])
        return made | dict(given)

    def positions(self, positions: Array) -> Array:
        """Positions as the graph takes them: in time, height and width, which are the same for words, or one alone."""
        port = self.session.inputs.get("position_ids")
        if port is None or len(port.shape) == 2:
            return positions
        return np.broadcast_to(positions, (3, *positions.shape))
