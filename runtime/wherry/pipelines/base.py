"""What every pipeline shares: opening a bundle, and running an encoder over many texts in well-filled batches."""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from itertools import islice
from typing import Any, ClassVar, Literal

import numpy as np

from wherry.bundle import Bundle, Variant
from wherry.devices import ProviderOptions
from wherry.errors import BundleError, InputError
from wherry.session import Session
from wherry_tokenization import Encoding, Tokenizer, Windows

Array = np.ndarray[Any, Any]

TOKEN_BUDGET = 1024
"""Padded tokens in a batch: measured to be the best trade of speed for memory on CPUs."""

TOKEN_BUDGET_ON_DEVICE = 16384
"""The same on GPUs, by `benchmarks/gpu.py`'s model: more tokens gain little more."""

WINDOW = 1024
"""Texts that are tokenized, and sorted by length, together."""

READ_AHEAD = 32
"""Inputs that are taken from an iterator at a time, where a pipeline has no batch size of its own."""


def _as_asked(call: Callable[..., Any]) -> Callable[..., Any]:
    """A pipeline's call with the options given to `pipeline`, and an iterator's results for an iterator."""
    parameter = inspect.signature(call).parameters.get("batch_size")
    usual = 1 if parameter is None else parameter.default or READ_AHEAD

    @wraps(call)
    def called(self: "Pipeline", *inputs: Any, **options: Any) -> Any:
        options = {**self.options, **options}
        if not (inputs and isinstance(inputs[0], Iterator)):
            return call(self, *inputs, **options)
        size = options.get("batch_size") or usual
        return (
            result
            for part in iter(lambda: tuple(islice(inputs[0], size)), ())
            for result in call(self, part, *inputs[1:], **options)
        )

    return called


class Pipeline:
    """A bundle's variant, checked and loaded.

    Every pipeline's call takes an iterator too, and then gives one: it reads `batch_size` inputs at a time, when it is
    asked for the first of their results.

    Attributes:
        options: of every call that does not give them itself.
        bundle: the model folder.
        variant: the precision that runs.
        sessions: its graphs, by role.
        session: the first of them.
    """

    task: ClassVar[str]
    """Its name in the table of tasks."""

    roles: ClassVar[tuple[str, ...]] = ("model",)
    """The graphs that the pipeline runs."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "auto",
        precision: str | None = None,
        threads: int | None = None,
        provider_options: ProviderOptions | None = None,
        allow_fallback: bool = False,
    ) -> None:
        self.bundle = bundle
        self.variant: Variant = bundle.variant(precision)
        bundle.check(self.variant)
        roles = self.needed()
        missing = [role for role in roles if role not in self.variant.graphs]
        if missing:
            raise BundleError(
                f"{bundle.folder} lacks the graph {', '.join(missing)}; it has {', '.join(self.variant.graphs)}"
            )
        self.sessions = {
            role: Session(
                bundle.folder / self.variant.graphs[role],
                device=device,
                threads=threads,
                provider_options=provider_options,
                recommended=self.variant.provider_options.get(role),
                allow_fallback=allow_fallback,
            )
            for role in roles
        }
        self.session = self.sessions[roles[0]]
        self.options: Mapping[str, Any] = {}

    def __init_subclass__(cls) -> None:
        if "__call__" in vars(cls):
            cls.__call__ = _as_asked(cls.__call__)  # type: ignore[method-assign]

    def needed(self) -> Sequence[str]:
        """The graphs to run of those that the variant has."""
        return self.roles

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Run the task; each pipeline says what it takes and gives."""
        raise NotImplementedError


class TextPipeline(Pipeline):
    """A pipeline that reads or writes text.

    Attributes:
        tokenizer: text to ids and back.
    """

    def __init__(self, bundle: Bundle, **options: Any) -> None:
        super().__init__(bundle, **options)
        self.tokenizer = Tokenizer.load(bundle.folder)

    @property
    def max_length(self) -> int | None:
        """The most tokens that the model takes, where its configuration tells."""
        limits = [self.tokenizer.model_max_length, self.bundle.config.get("max_position_embeddings")]
        known = [int(limit) for limit in limits if limit]
        return min(known) if known else None


def as_texts(inputs: Any, *, what: str = "text") -> tuple[list[str], bool]:
    """The texts of an input, and whether it was a single one.

    Raises:
        InputError: something else than a str or an iterable of str.
    """
    if isinstance(inputs, str):
        return [inputs], True
    try:
        texts = list(inputs)
    except TypeError as error:
        raise InputError(f"{what} must be a str or a list of str, not {type(inputs).__name__}") from error
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"{what} {index} is a {type(text).__name__}, not a str")
    return texts, False


def encode_batches(
    pipeline: TextPipeline,
    texts: Sequence[str],
    *,
    pairs: Sequence[str] | None = None,
    max_length: int | None = None,
    truncation: bool | Literal["only_first"] = True,
    offsets: bool = False,
    batch_size: int | None = None,
) -> Iterator[tuple[Array, Encoding]]:
    """Batches of texts of like length: (positions in `texts`, encoding padded to the longest of the batch).

    A text longer than `max_length` is cut with a warning, or refused with `truncation=False`. A batch has some thousand
    tokens, and no more than `batch_size` texts where that is given.
    """
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch_size must be at least 1, not {batch_size}")
    limit = max_length or pipeline.max_length
    rows = iter(range(len(texts)))
    while window := list(islice(rows, WINDOW)):
        encoding = pipeline.tokenizer.encode(
            [texts[row] for row in window],
            None if pairs is None else [pairs[row] for row in window],
            max_length=limit,
            truncation=truncation,
            padding_side="right",
            offsets=offsets,
        )
        if encoding.truncated.any():
            first = window[int(encoding.truncated.argmax())]
            count = int(encoding.truncated.sum())
            warnings.warn(
                f"{count} of {len(window)} texts cut to the model's {limit} tokens (the first: number {first})",
                stacklevel=4,
            )
        order = np.argsort(encoding.lengths, kind="stable")
        budget = TOKEN_BUDGET_ON_DEVICE if pipeline.session.on_gpu else TOKEN_BUDGET
        for chosen in _fill(order, encoding.lengths, budget, batch_size):
            longest = max(1, int(encoding.lengths[chosen].max()))
            yield np.asarray(window)[chosen], encoding.take(chosen, longest)


def _fill(order: Array, lengths: Array, budget: int, most: int | None) -> Iterator[Array]:
    """Split rows, sorted by length, so that rows times longest stays within the budget."""
    start = 0
    for end in range(1, len(order) + 1):
        full = end == len(order) or end - start == most
        if full or (end + 1 - start) * int(lengths[order[end]]) > budget:
            yield order[start:end]
            start = end


def window_batches(windows: Windows, batch_size: int | None) -> Iterator[Encoding]:
    """The windows over a text in order, in batches of some thousand tokens and no more than `batch_size` windows."""
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch_size must be at least 1, not {batch_size}")
    width = max(1, windows.encoding.input_ids.shape[1])
    size = max(1, min(batch_size or TOKEN_BUDGET, TOKEN_BUDGET // width))
    for start in range(0, len(windows), size):
        yield windows.encoding.take(np.arange(start, min(start + size, len(windows))), width)


def feeds(encoding: Encoding) -> dict[str, Array]:
    """An encoding under the names that graphs have for it."""
    return {
        "input_ids": encoding.input_ids,
        "attention_mask": encoding.attention_mask,
        "token_type_ids": encoding.token_type_ids,
    }


def labels(bundle: Bundle, count: int) -> list[str]:
    """The names of a classifier's outputs, `LABEL_i` where the configuration has none."""
    names = bundle.config.get("id2label") or {}
    return [str(names.get(str(index), f"LABEL_{index}")) for index in range(count)]


def softmax(logits: Array) -> Array:
    """Probabilities over the last axis."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True))


def sigmoid(logits: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)))
