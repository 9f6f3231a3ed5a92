"""question-answering: a question and a text of any length in; the part of the text that answers it out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wherry.errors import InputError
from wherry.pipelines.base import Array, TextPipeline, as_texts, feeds, softmax, window_batches
from wherry.pipelines.scores import checked_count
from wherry_tokenization import Windows

NEVER = -10_000.0
"""The logit of a token that cannot begin or end an answer, as transformers has it."""


@dataclass(frozen=True)
class Search:
    """What counts as an answer; see the pipeline's call."""

    top_k: int
    max_answer_len: int
    handle_impossible_answer: bool
    align_to_words: bool


class QuestionAnsweringPipeline(TextPipeline):
    """`pipe(question="...", context="...")` is `{"score", "start", "end", "answer"}`, as in transformers 4.

    `top_k` above 1 gives a list of those, best first. Lists of questions and contexts, or a list of
    `{"question", "context"}`, give a list. Start and end count characters of the context.
    """

    task = "question-answering"

    def __call__(
        self,
        inputs: Any = None,
        *,
        question: str | Sequence[str] | None = None,
        context: str | Sequence[str] | None = None,
        top_k: int = 1,
        doc_stride: int | None = None,
        max_seq_len: int | None = None,
        max_answer_len: int = 15,
        handle_impossible_answer: bool = False,
        align_to_words: bool = True,
        batch_size: int | None = None,
    ) -> Any:
        """Answer a question, or each of several.

        Args:
            inputs: a `{"question", "context"}` mapping or a list of those, instead of `question` and `context`.
            question: what is asked; one for several contexts counts for each.
            context: where the answer is looked for; one for several questions counts for each.
            top_k: how many answers to give at most. The scores of equal texts, wherever they are, are added.
            doc_stride: how many tokens the windows over a long context share; by default 128, or half a window.
            max_seq_len: the most tokens of a window, question included; by default 384, or what the model takes.
            max_answer_len: the most tokens of an answer.
            handle_impossible_answer: whether the empty answer is one, which says that the context holds none.
            align_to_words: make answers begin and end with whole words.
            batch_size: how many windows run together at most.

        Raises:
            InputError: no question or context, or an option that is out of range.
            TokenizerError: a question that leaves no room for the context.
        """
        asked = _asked(inputs, question, context)
        checked_count(top_k)
        if max_answer_len < 1:
            raise InputError(f"max_answer_len must be at least 1, not {max_answer_len}")
        if doc_stride is not None and doc_stride < 0:
            raise InputError(f"doc_stride must be at least 0, not {doc_stride}")
        longest = max_seq_len or min(self.max_length or 384, 384)
        shared = min(longest // 2, 128) if doc_stride is None else doc_stride
        search = Search(top_k, max_answer_len, handle_impossible_answer, align_to_words)
        results = [self._answered(*each, longest, shared, batch_size, search) for each in asked]
        several = len(asked) > 1 or isinstance(inputs, tuple)  # a list of one gives no list in transformers either
        return results if several or not asked else results[0]

    def _answered(
        self, question: str, context: str, longest: int, shared: int, batch_size: int | None, search: Search
    ) -> Any:
        """The best answer, or the list of them, for one question."""
        if self.tokenizer.padding_side == "right":
            windows = self.tokenizer.windows(question, context, max_length=longest, stride=shared, whole="text")
        else:
            windows = self.tokenizer.windows(context, question, max_length=longest, stride=shared, whole="pair")
        answers: dict[str, dict[str, Any]] = {}
        nothing = 1_000_000.0
        for row, starts, ends in self._likely(windows, batch_size):
            nothing = min(nothing, float(starts[0] * ends[0]))
            for first, last, score in _spans(starts, ends, windows, row, search):
                start, end = _characters(windows, row, first, last, search.align_to_words)
                answer = context[start:end]
                known = answers.setdefault(answer.lower(), {"score": 0.0, "start": start, "end": end, "answer": answer})
                known["score"] += score
        found = list(answers.values())
        if search.handle_impossible_answer:
            found.append({"score": nothing, "start": 0, "end": 0, "answer": ""})
        found = sorted(found, key=lambda answer: -float(answer["score"]))[: search.top_k]
        return found[0] if len(found) == 1 else found

    def _likely(self, windows: Windows, batch_size: int | None) -> Iterator[tuple[int, Array, Array]]:
        """For each window how likely each token begins and ends the answer."""
        row = 0
        for encoding in window_batches(windows, batch_size):
            found = self.session.run(feeds(encoding), ["start_logits", "end_logits"])
            nowhere = (encoding.input_ids == self.tokenizer.cls_token_id) & (encoding.attention_mask == 1)
            able = windows.inside[row : row + len(encoding)] | nowhere
            starts = softmax(np.where(able, found["start_logits"], NEVER))
            ends = softmax(np.where(able, found["end_logits"], NEVER))
            yield from zip(range(row, row + len(encoding)), starts, ends, strict=True)
            row += len(encoding)


def _spans(starts: Array, ends: Array, windows: Windows, row: int, search: Search) -> Iterator[tuple[int, int, float]]:
    """The likeliest (first token, last token, score) of a window, some more than wanted where words merge them."""
    wanted = 2 * search.top_k + 10 if search.align_to_words else search.top_k
    own = np.flatnonzero(windows.inside[row])
    scores = np.tril(np.triu(np.outer(starts[own], ends[own])), search.max_answer_len - 1).ravel()
    best = np.argpartition(-scores, wanted)[:wanted] if wanted < len(scores) else np.arange(len(scores))
    for place in best[np.argsort(-scores[best], kind="stable")].tolist():
        first, last = divmod(place, len(own))
        if first <= last < first + search.max_answer_len:
            yield int(own[first]), int(own[last]), float(scores[place])


def _characters(windows: Windows, row: int, first: int, last: int, align: bool) -> tuple[int, int]:
    """Where tokens, or the words that they are of, begin and end in the context."""
    offsets, words = windows.encoding.offsets, windows.words[row]
    assert offsets is not None
    if align and words[first] >= 0 and words[last] >= 0:
        own = windows.inside[row]
        first = int(np.flatnonzero(own & (words == words[first]))[0])
        last = int(np.flatnonzero(own & (words == words[last]))[-1])
    return int(offsets[row, first, 0]), int(offsets[row, last, 1])


def _asked(inputs: Any, question: Any, context: Any) -> list[tuple[str, str]]:
    """The questions, each with its context."""
    if inputs is not None:
        items = [inputs] if isinstance(inputs, Mapping) else inputs
        if not isinstance(items, list | tuple) or not all(
            isinstance(item, Mapping) and {"question", "context"} <= set(item) for item in items
        ):
            raise InputError("inputs must be a {'question', 'context'} mapping or a list of those")
        question, context = [item["question"] for item in items], [item["context"] for item in items]
    if question is None or context is None:
        raise InputError("a question and a context are needed: pass question= and context=")
    questions, one_question = as_texts(question, what="question")
    contexts, one_context = as_texts(context, what="context")
    if one_question:
        questions *= len(contexts)
    elif one_context:
        contexts *= len(questions)
    if len(questions) != len(contexts):
        raise InputError(f"{len(questions)} questions but {len(contexts)} contexts: give one for each")
    for number, text in enumerate(questions):
        if not text.strip():
            raise InputError(f"question {number} is empty")
    for number, text in enumerate(contexts):
        if not text.strip():
            raise InputError(f"context {number} is empty")
    return list(zip(questions, contexts, strict=True))


PIPELINE = QuestionAnsweringPipeline
