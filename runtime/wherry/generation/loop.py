"""Prompts to tokens: prefill, then a step at a time, by choosing each row's next token or by beam search."""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np

from wherry.generation.beams import Beams, Hypothesis
from wherry.generation.config import GenerationConfig
from wherry.generation.decoder import Batch, Decoder
from wherry.generation.sampling import Chooser

Array = np.ndarray[Any, Any]
Token = tuple[int, int]
"""A row, and the token that it goes on with."""


def generate(decoder: Decoder, prompts: Sequence[Sequence[int]], config: GenerationConfig) -> Iterator[list[Token]]:
    """Continue prompts, a token a row and step; rows that have ended leave the batch.

    Args:
        prompts: token ids, at least one each.

    Yields:
        the tokens of a step, by row: prompt `number` has the rows from `number * config.num_return_sequences` on.
    """
    repeats = config.num_return_sequences
    limits = [limit_of(config, prompt) for prompt in prompts]
    batch = decoder.batch(len(prompts) * repeats, max(len(p) + n for p, n in zip(prompts, limits, strict=True)))
    logits = _prefill(batch, prompts)
    places = np.repeat(np.arange(len(prompts)), repeats)
    if repeats > 1:
        batch.keep(places)
        logits = logits[places]
    choosers = [Chooser(config, prompts[place], logits.shape[1], row % repeats) for row, place in enumerate(places)]
    rows = list(range(len(places)))
    ends = frozenset(config.eos_token_ids)
    for step in count(1):
        tokens = [choosers[row].choose(each) for row, each in zip(rows, logits, strict=True)]
        yield list(zip(rows, tokens, strict=True))
        going = [at for at, token in enumerate(tokens) if token not in ends and step < limits[places[rows[at]]]]
        if not going:
            return
        if len(going) < len(rows):
            batch.keep(np.array(going))
            rows, tokens = [rows[at] for at in going], [tokens[at] for at in going]
        logits = batch.step(np.array(tokens))


def search(decoder: Decoder, prompts: Sequence[Sequence[int]], config: GenerationConfig) -> list[list[Hypothesis]]:
    """Continue prompts by beam search.

    Returns:
        for each prompt its hypotheses, the best first.
    """
    width = config.num_beams
    found = []
    for prompt in prompts:
        limit = limit_of(config, prompt)
        batch = decoder.batch(width, len(prompt) + limit)
        logits = np.repeat(batch.add(np.array([prompt], np.int64)), width, 0)
        batch.keep(np.zeros(width, np.int64))
        beams = Beams(config, prompt, logits.shape[1], limit)
        while True:
            order, tokens = beams.advance(logits)
            if beams.done:
                break
            batch.keep(order, since=len(prompt))
            logits = batch.step(tokens)
        found.append(beams.hypotheses())
    return found


def limit_of(config: GenerationConfig, prompt: Sequence[int]) -> int:
    """How many tokens may follow a prompt."""
    if config.max_length is None:
        return config.max_new_tokens
    return min(config.max_new_tokens, config.max_length - len(prompt))


def _prefill(batch: Batch, prompts: Sequence[Sequence[int]]) -> Array:
    """Read the prompts, those of one length together; gives the logits behind each."""
    by_length = np.argsort([len(prompt) for prompt in prompts], kind="stable")
    parts, first = [], 0
    while first < len(prompts):
        length = len(prompts[by_length[first]])
        last = first
        while last < len(prompts) and len(prompts[by_length[last]]) == length:
            last += 1
        parts.append(batch.add(np.array([prompts[at] for at in by_length[first:last]], np.int64)))
        first = last
    order = np.argsort(by_length)
    batch.keep(order)
    logits: Array = np.concatenate(parts)[order]
    return logits
