"""What the original computes and what its graphs compute on the same inputs, for each shape of model.

Inputs are the probe text, padded, or random values, at batch sizes and lengths other than those traced. A decoder runs
step by step over its cache, fed with given tokens, so that an early difference does not hide later ones. Knows nothing
of how a graph was made and does not judge what it finds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from onnxruntime import InferenceSession, SessionOptions

from wherry.bundle import PREFILL
from wherry.pooling import Pooling
from wherry.session import thread_count
from wherry_exporter.errors import ExportError
from wherry_exporter.inputs import (
    as_choices,
    chooses,
    image_size,
    input_names,
    parameters_of,
    random_inputs,
    reads_text,
    reserved_positions,
    tensors_of,
)
from wherry_exporter.load import Checkpoint
from wherry_exporter.noise import still, stilled
from wherry_exporter.pooled import NAME
from wherry_exporter.prefilled import Prefilled
from wherry_exporter.probe import PROSE, SENTENCES
from wherry_exporter.seq2seq import encoder_decoder_of, rows_of, start_token
from wherry_exporter.states import cache_of
from wherry_exporter.tasks import TASKS
from wherry_tokenization import Tokenizer

Array = np.ndarray[Any, Any]
Feed = dict[str, Array]
Graphs = Mapping[str, Path]
Pair = tuple[Array, Array]
"""Vectors of the original and of the graph, (vectors, size) each."""

BATCHES = ((0, 5), (5, 16), (16, 17), (17, 24))
"""Slices of the probe sentences: batches of 5, 11, 1 and 7 rows, each padded to its longest."""

SIZES = ((1, 1.0), (3, 1.0), (2, 2.0), (1, 3.0))
"""Random inputs: how many at once, and what stretches them."""
LARGE, MANY = ((1, 1.0), (2, 1.0)), 600**2
"""Of images with more pixels than that, whose attention takes gigabytes."""

STEPS = 6
LONGEST = 128
"""Tokens of a row of text, many times those traced."""


class Session(Protocol):
    """As much of an onnxruntime session as a decoder's steps need."""

    def get_inputs(self) -> Any: ...

    def get_outputs(self) -> Any: ...

    def run(self, output_names: Any, input_feed: Any) -> Any: ...


Opened = tuple[Callable[[Feed], Array], Session]
"""What computes an encoder's states, and the decoder over them."""


class Probe(Protocol):
    """One shape of model, with the original's outputs computed once."""

    def open(self, graphs: Graphs) -> Any:
        """What runs the graphs, drawing no chance and holding on to no memory."""

    def pairs(self, opened: Any) -> Iterator[tuple[str, Pair]]:
        """Output name, and vectors of both, one run after the other."""

    def losses(self, opened: Any) -> tuple[float, float] | None:
        """Mean negative log-likelihood of a page of English: the original's and the graph's; for language models."""

    def racers(self, opened: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
        """The same work for the original and for the graph, to be timed; both have run before if `pairs` was asked."""


class ModelProbe:
    """A model that runs in one go."""

    def __init__(self, checkpoint: Checkpoint, folder: Path) -> None:
        self.model: Any = checkpoint.model
        self.pooling = Pooling.load(folder) if checkpoint.task == "sentence-embeddings" else None
        self.names = input_names(self.model)
        self.text = TASKS[checkpoint.task].text and reads_text(self.model, self.names)
        if self.text:
            tokenizer = Tokenizer.load(folder)
            longest = " ".join([*SENTENCES, PROSE])
            texts = [list(SENTENCES[first:last]) for first, last in BATCHES] + [[longest, SENTENCES[0]]]
            asks = checkpoint.task == "question-answering"
            self.feeds = [text_feed(self.model, tokenizer, batch, self.names, asks=asks) for batch in texts]
            if chooses(self.model):
                self.feeds = [as_choices(feed) for feed in self.feeds]
        else:
            sizes = LARGE if "pixel_values" in self.names and prod(image_size(self.model.config)) > MANY else SIZES
            self.feeds = [
                _arrays(random_inputs(self.model, self.names, batch=batch, scale=scale, seed=number))
                for number, (batch, scale) in enumerate(sizes, 1)
            ]
        with still() as drawn:
            self.expected = [self._expected(feed) for feed in self.feeds]
        self.random = bool(drawn)
        self.calibration = {"model": self.feeds[1]}

    def open(self, graphs: Graphs) -> InferenceSession:
        with stilled(graphs["model"]) if self.random else nullcontext(graphs["model"]) as path:
            return open_session(path)

    def pairs(self, opened: InferenceSession) -> Iterator[tuple[str, Pair]]:
        names = [port.name for port in opened.get_outputs()]
        fits = False
        for feed, expected in zip(self.feeds, self.expected, strict=True):
            if expected is None or not _takes(opened, feed):
                continue
            outputs = dict(zip(names, opened.run(names, feed), strict=True))
            fits = True
            for name in names:
                output, (shape, vectors) = outputs.pop(name), expected[name]
                if output.shape != shape:
                    raise ExportError(f"{name} has shape {output.shape} where the original's is {shape}")
                found = self._vectors(output, feed)
                del output  # logits of a text may be large
                yield name, (vectors, found)
                del found
        if not fits:
            raise ExportError("the graph takes none of the sizes it was tried with")

    def losses(self, opened: InferenceSession) -> None:  # noqa: ARG002
        return None

    def racers(self, opened: InferenceSession) -> tuple[Callable[[], Any], Callable[[], Any]]:
        feed = next(feed for feed in self.feeds if _takes(opened, feed))
        tensors = tensors_from(feed)

        def run_torch() -> None:
            with still():
                self.model(**tensors)

        return run_torch, lambda: opened.run(None, feed)

    def _expected(self, feed: Feed) -> dict[str, tuple[tuple[int, ...], Array]] | None:
        """Shape and vectors of what the original gives; None for a size that it does not take itself."""
        try:
            outputs = self.model(**tensors_from(feed))
        except (ValueError, RuntimeError, IndexError, AssertionError):
            return None
        found = {
            name: (tuple(value.shape), self._vectors(value.numpy(), feed))
            for name, value in tensors_of(outputs).items()
        }
        if self.pooling is not None:  # the graph's own pooling beside numpy's
            vectors = next(vectors for _, vectors in found.values())
            found[NAME] = (vectors.shape, vectors)
        return found

    def _vectors(self, output: Array, feed: Feed) -> Array:
        """The vectors that matter of an output: pooled, or of real tokens, or all."""
        mask = feed.get("attention_mask")
        if self.pooling is not None and mask is not None and output.ndim == 3:
            return self.pooling.apply(output, mask)
        if mask is not None and output.ndim == 3 and output.shape[:2] == mask.shape:
            return np.asarray(output[mask.astype(bool)])
        if mask is not None and output.shape == mask.shape:
            return np.where(mask, output, 0)
        return vectors_of(output)


class DecoderProbe:
    """A decoder over what it keeps between steps."""

    def __init__(self, checkpoint: Checkpoint, folder: Path, padding_side: str) -> None:
        self.model: Any = checkpoint.model
        self.padding_side = padding_side
        self.tokenizer = Tokenizer.load(folder)
        limit = position_limit(self.model)
        self.rows = [token_row(self.tokenizer, text, min(24, limit)) for text in (*SENTENCES[1:8], SENTENCES[17])]
        self.prose = token_row(self.tokenizer, PROSE, min(256, limit))
        self.expected = [self._logits(index) for index in range(len(self.rows))]
        self.prose_loss = self._prose_loss()

    def open(self, graphs: Graphs) -> Any:
        return open_sessions(graphs)[decoder_role(graphs)]

    def pairs(self, opened: Any) -> Iterator[tuple[str, Pair]]:
        for first in range(0, len(self.rows), 3):
            rows, expected = self.rows[first : first + 3], self.expected[first : first + 3]
            for pair in zip(expected, self._forced(opened, rows, STEPS), strict=True):
                yield "logits", pair

    def losses(self, opened: Any) -> tuple[float, float]:
        logits = self._forced(opened, [self.prose], 0)[0]
        return self.prose_loss, loss(logits, self.prose)

    def racers(self, opened: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
        opened, row, steps = writing(opened), self.rows[0], 8
        prompt = self._prompt(0)

        def run_torch() -> None:
            output, tokens = self.model(**prompt, use_cache=True), prompt["input_ids"]
            cache, _ = cache_of(self.model, output)
            for _ in range(steps):
                token = output.logits[:, -1:].argmax(-1)
                if cache:
                    output = self.model(input_ids=token, **{cache: output[cache]}, use_cache=True)
                else:
                    tokens = torch.cat([tokens, token], 1)
                    output = self.model(input_ids=tokens)

        def run_graph() -> None:
            logits, past = _step(opened, row[None], np.ones((1, len(row)), np.int64), no_past(opened, 1))
            for step in range(1, steps + 1):
                token = logits[:, -1:].argmax(-1)
                logits, past = _step(opened, token, np.ones((1, len(row) + step), np.int64), past)

        return run_torch, run_graph

    def _prompt(self, index: int) -> dict[str, torch.Tensor]:
        """What the original takes for a row."""
        return {"input_ids": torch.from_numpy(self.rows[index][None])}

    def _logits(self, index: int) -> Array:
        logits: Array = self.model(**self._prompt(index)).logits[0].numpy()
        return logits

    def _prose_loss(self) -> float:
        logits = self.model(input_ids=torch.from_numpy(self.prose[None])).logits[0]
        return loss(logits.numpy(), self.prose)

    def _forced(self, session: Session, rows: Sequence[Array], steps: int) -> list[Array]:
        """Logits at each position of each row: all but the last `steps` tokens as a prefill, those one at a time."""
        prefill = np.array([len(row) for row in rows]) - steps
        width, left = int(prefill.max()), self.padding_side == "left"
        places = [slice(width - count, width) if left else slice(0, count) for count in prefill]
        ids = np.zeros((len(rows), width), np.int64)
        for index, row in enumerate(rows):
            ids[index, places[index]] = row[: prefill[index]]

        def mask(step: int) -> Array:
            columns = np.arange(width + step)
            real = columns >= (width - prefill)[:, None] if left else columns < (prefill + step)[:, None]
            return np.asarray(real, dtype=np.int64)

        logits, past = _step(session, ids, mask(0), no_past(session, len(rows)))
        found = [[logits[index, places[index]]] for index in range(len(rows))]
        for step in range(steps):
            ids = np.array([[row[at + step]] for row, at in zip(rows, prefill, strict=True)])
            logits, past = _step(session, ids, mask(step + 1), past)
            for index in range(len(rows)):
                found[index].append(logits[index])
        return [np.concatenate(parts) for parts in found]


class EncoderDecoderProbe:
    """An encoder, and a decoder over its states and past_key_values."""

    def __init__(self, checkpoint: Checkpoint, folder: Path) -> None:
        self.model: Any = encoder_decoder_of(checkpoint.model)
        self.names = [name for name in input_names(self.model) if name in parameters_of(self.model.get_encoder())]
        if TASKS[checkpoint.task].text:
            tokenizer = Tokenizer.load(folder)
            texts = [SENTENCES[0:3], SENTENCES[3:4], SENTENCES[13:18]]
            self.feeds = [text_feed(self.model, tokenizer, list(batch), self.names) for batch in texts]
        else:
            self.feeds = [
                _arrays(random_inputs(self.model, self.names, batch=batch, scale=1, seed=batch)) for batch in (1, 2)
            ]
        answers = [self._greedy(feed, self._encoded(feed)) for feed in self.feeds]
        self.rows, self.expected = [rows for rows, _ in answers], [logits for _, logits in answers]

    def _encoded(self, feed: Feed) -> Any:
        """What the original's encoder gives."""
        return self.model.get_encoder()(**tensors_from(feed))

    def _greedy(self, feed: Feed, states: Any) -> tuple[Array, Array]:
        """The original's own first tokens, and its logits for them."""
        ids = torch.full((rows_of(self.model) * len(feed[self.names[0]]), 1), start_token(self.model))
        mask = {"attention_mask": torch.from_numpy(feed["attention_mask"])} if "attention_mask" in feed else {}
        tokens, logits, past = [], [], None
        for _ in range(5 + STEPS):
            output = self.model(
                encoder_outputs=states, decoder_input_ids=ids, past_key_values=past, use_cache=True, **mask
            )
            past = output.past_key_values
            tokens.append(ids)
            logits.append(output.logits)
            ids = output.logits[:, -1:].argmax(-1)
        return torch.cat(tokens, 1).numpy(), torch.cat(logits, 1).numpy()

    def open(self, graphs: Graphs) -> Opened:
        encoder, decoder = (open_session(graphs[role]) for role in ("encoder_model", "decoder_model_merged"))
        return lambda feed: np.asarray(encoder.run(None, feed)[0]), decoder

    def pairs(self, opened: Opened) -> Iterator[tuple[str, Pair]]:
        encode, decoder = opened
        for feed, rows, logits in zip(self.feeds, self.rows, self.expected, strict=True):
            states = encode(feed)
            steps = np.concatenate(list(self._steps(decoder, states, feed.get("attention_mask"), rows)), 1)
            size = logits.shape[-1]
            yield "logits", (logits.reshape(-1, size), steps.reshape(-1, size))

    def losses(self, opened: Opened) -> None:  # noqa: ARG002
        return None

    def racers(self, opened: Opened) -> tuple[Callable[[], Any], Callable[[], Any]]:
        encode, decoder = opened
        feed, rows = self.feeds[0], self.rows[0]
        ids = torch.from_numpy(rows)
        mask = {"attention_mask": torch.from_numpy(feed["attention_mask"])} if "attention_mask" in feed else {}

        def run_torch() -> None:
            states = self._encoded(feed)
            past = None
            for tokens in [ids[:, :-STEPS], *torch.split(ids[:, -STEPS:], 1, 1)]:
                past = self.model(
                    encoder_outputs=states, **mask, decoder_input_ids=tokens, past_key_values=past, use_cache=True
                ).past_key_values

        def run_graphs() -> None:
            for _ in self._steps(decoder, encode(feed), feed.get("attention_mask"), rows):
                pass

        return run_torch, run_graphs

    def _steps(self, decoder: Session, states: Array, mask: Array | None, rows: Array) -> Any:
        """Logits of a prefill of all but the last tokens, then of those one at a time."""
        ports = [port.name for port in decoder.get_inputs()]
        names = output_names(decoder)
        past = no_past(decoder, len(states))
        if mask is None:
            mask = np.ones(states.shape[:2], np.int64)
        parts = [rows[:, :-STEPS], *np.split(rows[:, -STEPS:], STEPS, 1)]
        for number, ids in enumerate(parts):
            feed = {
                "input_ids": ids,
                "encoder_hidden_states": states,
                "encoder_attention_mask": mask,
                "use_cache_branch": np.array([number > 0]),
                **past,
            }
            values = dict(zip(names, decoder.run(names, {k: v for k, v in feed.items() if k in ports}), strict=True))
            past = next_past(past, values, started=number > 0)
            yield values["logits"]


def vectors_of(output: Array) -> Array:
    """What maps (batch, channels, height, width) say of each place, and other outputs along their last axis."""
    if output.ndim == 4:
        output = np.moveaxis(output, 1, -1)
    return output.reshape(-1, output.shape[-1]) if output.ndim else output.reshape(1, 1)


def text_feed(
    model: Any, tokenizer: Tokenizer, texts: Sequence[str], names: Sequence[str], *, asks: bool = False
) -> Feed:
    """Texts as the inputs of a graph, padded to the longest; each behind the next one if it `asks` that."""
    limit = position_limit(model)
    limit = min(limit, tokenizer.model_max_length or limit, LONGEST)
    encoded = tokenizer.encode([*texts[1:], texts[0]] if asks else texts, texts if asks else None, max_length=limit)
    given = {
        "input_ids": encoded.input_ids,
        "attention_mask": encoded.attention_mask,
        "token_type_ids": encoded.token_type_ids,
    }
    return {name: given[name] for name in names}


def token_row(tokenizer: Tokenizer, text: str, length: int) -> Array:
    """Token ids of a text, cut to a length.

    A vocabulary that is not of words, such as of proteins, may have a token or two for all of it: any others follow.
    """
    row: Array = tokenizer.encode(text, max_length=length).input_ids[0]
    lacking = min(length, 2 * STEPS) - len(row)
    if lacking <= 0:
        return row
    return np.concatenate([row, np.random.default_rng(0).integers(tokenizer.vocab_size, size=lacking)])


def position_limit(model: Any) -> int:
    """The most tokens that a model takes, 512 where its configuration does not tell."""
    limit = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 0)
    if limit <= 0:
        return 512
    return limit - reserved_positions(model)


def open_session(path: Path) -> InferenceSession:
    """A bare session on the CPU, with the threads this process may use.

    It does not hold on to the memory of its runs, as sessions do by default, which on these inputs is no faster.
    """
    options = SessionOptions()
    options.enable_cpu_mem_arena = False
    options.intra_op_num_threads, options.log_severity_level = thread_count(), 4  # what fails is told once
    return InferenceSession(path, options, providers=["CPUExecutionProvider"])


def open_sessions(graphs: Graphs) -> dict[str, Session]:
    """A bare session of each graph, by role; a decoder whose prompts another graph reads is one with that."""
    sessions: dict[str, Session] = {role: open_session(path) for role, path in graphs.items()}
    if PREFILL in sessions:
        role = decoder_role(graphs)
        sessions[role] = Prefilled(sessions.pop(PREFILL), sessions[role], every=True)
    return sessions


def writing(session: Session) -> Session:
    """A decoder as it writes: where another graph reads prompts, it gives logits of their last token alone."""
    return Prefilled(session.prefill, session.decoder, every=False) if isinstance(session, Prefilled) else session


def decoder_role(graphs: Mapping[str, object]) -> str:
    """The role of a decoder that stands alone or sees images."""
    return "model" if "model" in graphs else "decoder_model_merged"


def output_names(session: Session) -> list[str]:
    """What a session gives, without the cross-attention, which is large and follows from the rest."""
    return [port.name for port in session.get_outputs() if not port.name.startswith("cross_attentions.")]


def no_past(session: Session, batch: int) -> Feed:
    """What a decoder keeps before its first token: keys and values of none, and states of zeros."""
    return {
        port.name: np.zeros(
            (batch, *(size if isinstance(size, int) else 0 for size in port.shape[1:])),
            np.float16 if "float16" in port.type else np.float32,
        )
        for port in session.get_inputs()
        if port.name.startswith("past_")
    }


def next_past(past: Feed, found: Feed, *, started: bool) -> Feed:
    """What a decoder keeps after a step; a merged one hands back nothing for what it has computed in its first."""
    return {
        name: value if started and ".encoder." in name else found[name.replace("past_key_values", "present", 1)]
        for name, value in past.items()
    }


def _step(session: Session, ids: Array, mask: Array, past: Feed) -> tuple[Array, Feed]:
    logits, *present = session.run(None, {"input_ids": ids, "attention_mask": mask, **past})
    return logits, dict(zip(past, present, strict=True))


def _takes(session: InferenceSession, feed: Feed) -> bool:
    """Whether the axes that a graph fixes have the sizes of these inputs."""
    return all(
        not isinstance(dim, int) or dim == size
        for port in session.get_inputs()
        for dim, size in zip(port.shape, feed[port.name].shape, strict=True)
    )


def _arrays(tensors: Mapping[str, torch.Tensor]) -> Feed:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def tensors_from(feed: Feed) -> dict[str, torch.Tensor]:
    """The same in torch."""
    return {name: torch.from_numpy(array) for name, array in feed.items()}


def loss(logits: Array, ids: Array) -> float:
    """Mean negative log-likelihood of each token given those before it."""
    losses = []
    for row, token in zip(logits[:-1], ids[1:], strict=True):  # one by one, for all at once are large in float64
        scores = row.astype(np.float64) - row.max()
        losses.append(np.log(np.exp(scores).sum()) - scores[token])
    return float(np.mean(losses))
