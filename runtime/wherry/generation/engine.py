"""Requests that are decoded together: they join and leave between steps, and each is as if it were alone.

A step either reads a part of a prompt or decodes a token of every running row, in turn, so that a long prompt holds
nobody up for long. Knows nothing of text.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from wherry.errors import InputError
from wherry.generation.batch import Batch, Given
from wherry.generation.beams import Beams, Hypothesis
from wherry.generation.cache import bytes_per_token
from wherry.generation.config import GenerationConfig
from wherry.generation.decoder import Decoder
from wherry.generation.grammar import Grammar
from wherry.generation.growing import together
from wherry.generation.prefix import PrefixCache
from wherry.generation.processors import Processor
from wherry.generation.sampling import Chooser
from wherry.generation.speculation import Assistant, lookup

Array = np.ndarray[Any, Any]
Finish = Literal["stop", "length", "cancelled", "deadline"]

CHUNK = 512
"""Tokens of prompts that are read in one step on the CPU."""

CHUNK_ON_DEVICE = 4096
"""The same on a GPU, which is quicker the more there is to do."""


@dataclass(eq=False)
class Request:
    """A prompt that is being continued, `config.num_return_sequences` times.

    Attributes:
        prompt: token ids, (length,) int64.
        config: how.
        limit: tokens that may follow.
        given: what else the graph takes, a row each, such as `encoder_hidden_states` (1, length, size).
        grammar: the form that its texts must have.
        further: processors of a caller; see `processors`.
        deadline: by `time.monotonic()`; it ends with the step in which that is past.
        cancelled: sequences that end before their next step; see `cancel`.
        choosers: one for each sequence, with its ids and log-probabilities, once the prompt is read.
    """

    prompt: Array
    config: GenerationConfig
    limit: int
    given: Given
    grammar: Grammar | None = None
    deadline: float | None = None
    further: Sequence[Processor] = ()
    cancelled: set[int] = field(default_factory=set)
    choosers: list[Chooser] = field(default_factory=list)

    @property
    def seen(self) -> bool:
        """Whether its prompt is given as embeddings, such as an image's, which its ids do not tell apart."""
        return "inputs_embeds" in self.given

    def cancel(self, index: int | None = None) -> None:
        """End one of the sequences, or all of them, before the next step."""
        self.cancelled |= set(range(self.config.num_return_sequences)) if index is None else {index}

    def over(self, index: int, now: float) -> Finish | None:
        """Why one of the sequences ends before its next step, if it does."""
        if index in self.cancelled:
            return "cancelled"
        return "deadline" if self.deadline is not None and now > self.deadline else None

    @property
    def room(self) -> int:
        """Tokens that a row of it may come to."""
        return len(self.prompt) + self.limit


@dataclass(frozen=True)
class Event:
    """What happened to one sequence of a request in a step.

    Attributes:
        index: which of the sequences.
        token: the new one; None where the sequence ended without one.
        finish: why it ended, if it did.
    """

    request: Request
    index: int
    token: int | None
    finish: Finish | None = None


@dataclass(eq=False)
class _Row:
    request: Request
    index: int
    last: int
    ends: frozenset[int]

    @property
    def chooser(self) -> Chooser:
        return self.request.choosers[self.index]

    @property
    def made(self) -> int:
        return self.chooser.length - len(self.request.prompt)


class Engine:
    """Decodes many requests over one decoder's graph. Not for several threads at once; several engines are."""

    def __init__(
        self,
        decoder: Decoder,
        *,
        max_rows: int = 32,
        max_bytes: int | None = None,
        prefixes: PrefixCache | None = None,
        assistant: Assistant | None = None,
    ) -> None:
        """Begin without requests.

        Args:
            max_rows: sequences that run at once; more wait.
            max_bytes: of the cache of running sequences, each counted with all that it may come to; more wait.
            prefixes: where the beginnings of prompts are kept for those that begin alike.
            assistant: guesses what follows in a sequence that runs alone; it changes no token.
        """
        self.decoder, self.max_rows, self.max_bytes = decoder, max_rows, max_bytes
        self.prefixes, self.assistant = prefixes, assistant
        self.per_token = bytes_per_token(decoder.past)
        self.waiting: deque[Request] = deque()
        self.rows: list[_Row] = []
        self.reading: Request | None = None
        self.read = 0
        self.batch: Batch | None = None
        self.turn = False

    def submit(
        self,
        prompt: Sequence[int],
        config: GenerationConfig,
        given: Given | None = None,
        grammar: Grammar | None = None,
        further: Sequence[Processor] = (),
    ) -> Request:
        """Add a request; its prompt is read in one of the next steps.

        Args:
            prompt: token ids, at least one; those that the decoder begins with where there is an encoder.
            given, grammar, further: see `Request`.

        Raises:
            InputError: it can never fit into what this engine may hold.
        """
        deadline = None if config.max_time is None else time.monotonic() + config.max_time
        request = Request(
            np.asarray(prompt, np.int64), config, limit_of(config, prompt), given or {}, grammar, deadline, further
        )
        rows = config.num_return_sequences
        if rows > self.max_rows:
            raise InputError(f"num_return_sequences is {rows}, and {self.max_rows} sequences may run at once")
        need = rows * request.room * self.per_token
        if self.max_bytes is not None and need > self.max_bytes:
            raise InputError(
                f"a prompt of {len(prompt)} tokens and {request.limit} new ones need {need / 1e6:.0f} MB of cache, "
                f"and {self.max_bytes / 1e6:.0f} MB are allowed: shorten it or ask for fewer tokens"
            )
        self.waiting.append(request)
        return request

    @property
    def busy(self) -> bool:
        """Whether there is something left to do."""
        return bool(self.waiting or self.rows or self.reading)

    def step(self) -> list[Event]:
        """Read a part of a prompt, or decode a token of every running row."""
        events = self._ended()
        read = self.reading is not None or self._admits()
        if read and (self.turn or not self.rows):
            self.turn = False
            return events + self._read()
        self.turn = True
        return events + (self._decode() if self.rows else [])

    def run(self) -> Iterator[Event]:
        """Step until nothing is left to do."""
        while self.busy:
            yield from self.step()

    def _ended(self) -> list[Event]:
        """Drop what was cancelled or is late."""
        now = time.monotonic()
        events: list[Event] = []
        for request in [*self.waiting, *([self.reading] if self.reading else [])]:
            every = range(request.config.num_return_sequences)
            if all(request.over(index, now) for index in every):
                events += [Event(request, index, None, request.over(index, now)) for index in every]
                if request is self.reading:
                    self.reading = None
                    self._keep(list(range(len(self.rows))))
                else:
                    self.waiting.remove(request)
        gone = {at: finish for at, row in enumerate(self.rows) if (finish := row.request.over(row.index, now))}
        if gone:
            events += [Event(self.rows[at].request, self.rows[at].index, None, finish) for at, finish in gone.items()]
            self._drop(set(gone))
        return events

    def _admits(self) -> bool:
        """Whether the first that waits may begin."""
        if not self.waiting:
            return False
        if self.rows and not self._batch.joins:
            return False
        first = self.waiting[0]
        count = first.config.num_return_sequences
        held = sum(row.request.room for row in self.rows) + count * first.room
        fits = self.max_bytes is None or held * self.per_token <= self.max_bytes
        return fits and len(self.rows) + count <= self.max_rows

    def _read(self) -> list[Event]:
        """Read tokens of the prompts that wait, so many that others are not held up for long."""
        budget = CHUNK_ON_DEVICE if self.decoder.session.on_gpu else CHUNK
        events: list[Event] = []
        while budget > 0:
            if self.reading is None:
                if not self._admits():
                    break
                self.reading, self.read = self.waiting.popleft(), 0
                self._make_room(self.reading)
                same = self._alike(self.reading, budget)
                if same:
                    events += self._read_together([self.reading, *same])
                    budget -= (1 + len(same)) * len(self.reading.prompt)
                    self.reading = None
                    continue
            request, batch = self.reading, self._batch
            if not self.read and self.prefixes is not None and batch.chunks and not request.seen:
                known = self.prefixes.find(request.prompt)
                if known is not None:
                    batch.insert(known)
                    self.read = known[0].shape[1]
            in_parts = batch.chunks and not request.seen
            count = min(budget, len(request.prompt) - self.read) if in_parts else len(request.prompt)
            part = request.prompt[None, self.read : self.read + count]
            last = self.read + count == len(request.prompt)
            logits = batch.extend(part, logits=last) if self.read else batch.add(part, request.given, logits=last)
            self.read, budget = self.read + count, budget - count
            if last:
                self.reading = None
                assert logits is not None
                events += self._begin(request, logits[0])
        return events

    def _alike(self, request: Request, budget: int) -> list[Request]:
        """Take from those that wait the next ones whose prompts can be read together with this one's."""
        length = len(request.prompt)
        found: list[Request] = []
        if self.prefixes is not None or request.config.num_return_sequences > 1 or request.seen:
            return found
        while self.waiting and (2 + len(found)) * length <= budget and self._admits():
            other = self.waiting[0]
            taken = len(self.rows) + 1 + len(found)
            alone = len(other.prompt) != length or other.config.num_return_sequences > 1 or other.seen
            unlike = _shapes(self.decoder, request.given) != _shapes(self.decoder, other.given)
            if alone or unlike or taken >= self.max_rows:
                break
            held = [row.request for row in self.rows] + [request, *found, other]
            if self.max_bytes is not None and sum(each.room for each in held) * self.per_token > self.max_bytes:
                break
            self._make_room(other)
            found.append(self.waiting.popleft())
        return found

    def _read_together(self, requests: Sequence[Request]) -> list[Event]:
        given = together([request.given for request in requests]) if requests[0].given else None
        logits = self._batch.add(np.stack([request.prompt for request in requests]), given)
        assert logits is not None
        events, ended = [], set()
        for request, each in zip(requests, logits, strict=True):
            row, event = self._first(request, 0, each)
            if event.finish:
                ended.add(len(self.rows))
            self.rows.append(row)
            events.append(event)
        self._drop(ended)
        return events

    def _begin(self, request: Request, logits: Array) -> list[Event]:
        """Let the row that was just read run, as often as it is wanted."""
        at, count = len(self.rows), request.config.num_return_sequences
        if self.prefixes is not None and self._batch.chunks and not request.seen:
            known = request.prompt if self.decoder.prefill is None else request.prompt[:-1]
            self.prefixes.add(known, self._batch.read(at, len(known)))
        if count > 1:
            self._batch.keep(np.array([*range(at), *[at] * count]))
        events, ended = [], set()
        for index in range(count):
            row, event = self._first(request, index, logits)
            if event.finish:
                ended.add(len(self.rows))
            self.rows.append(row)
            events.append(event)
        self._drop(ended)
        return events

    def _first(self, request: Request, index: int, logits: Array) -> tuple[_Row, Event]:
        constraint = None if request.grammar is None else request.grammar.start()
        request.choosers.append(
            Chooser(request.config, request.prompt.tolist(), len(logits), index, constraint, request.further)
        )
        row = _Row(request, index, 0, frozenset(request.config.eos_token_ids))
        return row, self._choose(row, logits)

    def _decode(self) -> list[Event]:
        guess = self._guess()
        if len(guess):
            return self._verify(guess)
        last = [row.last for row in self.rows]
        wanted = [row.chooser.wanted for row in self.rows]
        best = self._batch.best(last, max(each or 0 for each in wanted)) if None not in wanted else None
        if best is None:
            events = [self._choose(row, each) for row, each in zip(self.rows, self._batch.step(last), strict=True)]
        else:
            events = [self._pick(at, *each) for at, each in enumerate(zip(*best, strict=True))]
        self._drop({at for at, event in enumerate(events) if event.finish})
        return events

    def _guess(self) -> Array:
        """What may follow in a sequence that runs alone: as after the same tokens before, or as an assistant says."""
        row = self.rows[0]
        config, left = row.request.config, row.request.limit - row.made - 1
        guess: Array = np.empty(0, np.int64)
        if len(self.rows) > 1 or self.reading is not None or not self._batch.chunks or left <= 0:
            return guess
        if config.prompt_lookup_num_tokens:
            guess = lookup(row.chooser.ids, min(config.prompt_lookup_num_tokens, left))
        if len(guess) or self.assistant is None or row.request.given:
            return guess
        count = min(config.num_assistant_tokens, left)
        return self.assistant.guess(row.chooser.ids, count, config.assistant_confidence_threshold)

    def _verify(self, guess: Array) -> list[Event]:
        """Read tokens that are guessed, and take those that are chosen as well.

        Each is chosen as without a guess, so that what comes out is the same.
        """
        (row,) = self.rows
        before = row.chooser.length
        events: list[Event] = []
        for at, logits in enumerate(self._batch.verify(np.concatenate([[row.last], guess]))):
            events.append(self._choose(row, logits))
            if events[-1].finish or at == len(guess) or row.last != guess[at]:
                break
        self._batch.cut(0, before + len(events) - 1)
        self._drop({0} if events[-1].finish else set())
        return events

    def _pick(self, at: int, tokens: Array, logits: Array) -> Event:
        """Choose among the likeliest tokens, or among all where those do not tell."""
        row = self.rows[at]
        token = row.chooser.pick(tokens, logits)
        return self._choose(row, self._batch.logits()[at]) if token is None else self._event(row, token)

    def _choose(self, row: _Row, logits: Array) -> Event:
        return self._event(row, row.chooser.choose(logits))

    def _event(self, row: _Row, token: int) -> Event:
        row.last = token
        finish: Finish | None = "stop" if row.last in row.ends else "length" if row.made >= row.request.limit else None
        return Event(row.request, row.index, row.last, finish)

    def _drop(self, places: set[int]) -> None:
        if not places:
            return
        # Where a graph of its own reads prompts, a prompt would come out otherwise over keys and values of the other's.
        if self.prefixes is not None and self._batch.chunks and self.decoder.prefill is None:
            for at in places:
                if self.rows[at].request.seen:
                    continue
                ids = self.rows[at].chooser.ids[:-1]
                self.prefixes.add(ids, self._batch.read(at, len(ids)))
        left = [at for at in range(len(self.rows)) if at not in places]
        reading = [len(self.rows)] if self.reading is not None and self.read else []
        self._keep(left + reading)
        self.rows = [self.rows[at] for at in left]

    def _keep(self, order: list[int]) -> None:
        if self.batch is not None:
            self.batch.keep(np.array(order, np.int64))

    def _make_room(self, request: Request) -> None:
        if self.batch is None:
            together = [request, *self.waiting]
            rows = min(self.max_rows, sum(each.config.num_return_sequences for each in together))
            self.batch = self.decoder.batch(rows, max(each.room for each in together))
        else:
            self.batch.reserve(request.room)

    @property
    def _batch(self) -> Batch:
        assert self.batch is not None
        return self.batch


def generate(decoder: Decoder, prompts: Sequence[Sequence[int]], config: GenerationConfig) -> list[list[int]]:
    """The tokens that follow each prompt, those of each of its sequences one after another."""
    engine = Engine(decoder, max_rows=max(1, len(prompts)) * config.num_return_sequences)
    requests = [engine.submit(prompt, config) for prompt in prompts]
    for _ in engine.run():
        pass
    return [each.ids[len(request.prompt) :].tolist() for request in requests for each in request.choosers]


def search(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    given: Sequence[Given] = (),
    further: Sequence[Sequence[Processor]] = (),
    *,
    batch_size: int = 8,
) -> list[list[Hypothesis]]:
    """Continue prompts by beam search; gives the hypotheses of each, the best first.

    Args:
        given: of each prompt, and `further` too: see `Request`.
        batch_size: prompts that run together, where they are of one length; each has `config.num_beams` rows.
    """
    given, further = given or [{}] * len(prompts), further or [()] * len(prompts)
    alike: dict[Any, list[int]] = {}
    for at, (prompt, each) in enumerate(zip(prompts, given, strict=True)):
        alike.setdefault((len(prompt), at if "inputs_embeds" in each else _shapes(decoder, each)), []).append(at)
    found: list[list[Hypothesis]] = [[] for _ in prompts]
    for places in alike.values():
        for start in range(0, len(places), batch_size):
            part = places[start : start + batch_size]
            every = [given[at] for at in part]
            limit = limit_of(config, prompts[part[0]])
            size = len(prompts[part[0]])
            batch = decoder.batch(len(part) * config.num_beams, size + limit)
            first = batch.add(
                np.array([prompts[at] for at in part], np.int64), every[0] if len(part) == 1 else together(every)
            )
            assert first is not None
            beams = [Beams(config, prompts[at], first.shape[1], limit, further[at]) for at in part]
            _advance(batch, beams, first, size)
            for at, done in zip(part, beams, strict=True):
                found[at] = done.hypotheses()
    return found


def _shapes(decoder: Decoder, given: Given) -> tuple[tuple[int, ...], ...] | None:
    """What must be the same for two prompts to be read together: nothing where padding can be told."""
    if "encoder_attention_mask" in decoder.session.inputs:
        return None
    return tuple(array.shape for array in given.values())


def _advance(batch: Batch, beams: Sequence[Beams], first: Array, size: int) -> None:
    """Run the beams of prompts that were just read until all are done.

    Args:
        first: their logits, (prompts, vocabulary).
        size: tokens of each prompt.
    """
    width = len(beams[0].scores)
    order = np.repeat(np.arange(len(beams)), width)
    batch.keep(order)
    logits, running = first[order], list(beams)
    while True:
        left, orders, tokens = [], [], []
        for place, each in enumerate(running):
            sources, chosen = each.advance(logits[place * width : (place + 1) * width])
            if not each.done:
                left.append(each)
                orders.append(place * width + sources)
                tokens.append(chosen)
        if not left:
            return
        batch.keep(np.concatenate(orders), since=size if len(left) == len(running) else 0)
        logits, running = batch.step(np.concatenate(tokens).tolist()), left


def limit_of(config: GenerationConfig, prompt: Sequence[int]) -> int:
    """How many tokens may follow a prompt."""
    if config.max_length is None:
        return config.max_new_tokens
    return min(config.max_new_tokens, config.max_length - len(prompt))
