"""visual-question-answering: an image and a question in; answers and scores out, or an answer that is written."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from wherry.bundle import Bundle
from wherry.errors import InputError
from wherry.pipelines.base import Pipeline, TextPipeline, as_texts, feeds, sigmoid
from wherry.pipelines.generated import written
from wherry.pipelines.image_to_text import ImageWriterPipeline
from wherry.pipelines.images import ImagePipeline, pixels
from wherry.pipelines.scores import checked_count, ranked
from wherry.vision.processor import Prepared
from wherry_tokenization import Encoding


class VisualQuestionAnsweringPipeline(ImagePipeline, TextPipeline):
    """`pipe(image, "What is on the water?")` is `[{"score", "answer"}]`, best first, as in transformers 4.

    Each image of a list is asked each question of a list; a list of `{"image", "question"}` tells which is asked which.
    """

    task = "visual-question-answering"

    def __call__(
        self,
        image: Any,
        question: str | Sequence[str] | None = None,
        *,
        top_k: int | None = 5,
        truncation: bool = False,
        batch_size: int = 1,
    ) -> Any:
        """Ask about an image, each of a list, or an iterator's images as they come.

        Args:
            image: one, a list, or `{"image", "question"}` or a list of those.
            question: what is asked, unless each image comes with its question.
            top_k: how many answers a question; None for all.
            truncation: cut a question that is longer than the model takes, where it would be refused.
            batch_size: how many images run together.

        Raises:
            InputError: no image that can be read, or no question.
            TokenizerError: a question longer than the model takes.
        """
        count = checked_count(top_k)
        images, questions = _asked(image, question)
        waiting = iter(questions)

        def run(prepared: Sequence[Prepared]) -> Iterator[list[dict[str, Any]]]:
            encoding = _encoded(self, islice(waiting, len(prepared)), truncation)
            logits = self.session.run({**feeds(encoding), **pixels(prepared)}, ["logits"])["logits"]
            for scores in sigmoid(logits):
                best = ranked(self.bundle, scores, count)
                yield [{"score": answer["score"], "answer": answer["label"]} for answer in best]

        return self.mapped(images, batch_size, run)


class WrittenAnswersPipeline(ImageWriterPipeline):
    """`pipe(image, "What is on the water?")` is `[{"answer"}]`, as in transformers 4, of a model that writes, BLIP's.

    Images and questions come as where answers are chosen.
    """

    task = "visual-question-answering"

    def __call__(
        self,
        image: Any,
        question: str | Sequence[str] | None = None,
        *,
        truncation: bool = False,
        batch_size: int = 1,
        **options: Any,
    ) -> Any:
        """Ask about an image, each of a list, or an iterator's images as they come.

        Args:
            image: one, a list, or `{"image", "question"}` or a list of those.
            question: what is asked, unless each image comes with its question.
            truncation: cut a question that is longer than the model takes, where it would be refused.
            batch_size: how many images run together.
            options: fields of `GenerationConfig`.

        Raises:
            InputError: no image that can be read, no question, or an unknown option.
            TokenizerError: a question longer than the model takes.
        """
        config = self.configured(options)
        images, questions = _asked(image, question)
        waiting = iter(questions)

        def run(prepared: Sequence[Prepared]) -> Iterator[list[dict[str, Any]]]:
            encoding = _encoded(self, islice(waiting, len(prepared)), truncation)
            given = {**feeds(encoding), **pixels(prepared)}
            seen = {
                "encoder_hidden_states": self.session.run(given, ["last_hidden_state"])["last_hidden_state"],
                "encoder_attention_mask": encoding.attention_mask,
            }
            rows = [{name: values[row : row + 1] for name, values in seen.items()} for row in range(len(prepared))]
            made = written(self.tokenizer, self.decoder, rows, config, batch_size)
            return ([{"answer": text.strip()} for text in texts] for texts in made)

        return self.mapped(images, batch_size, run)


def _encoded(pipe: TextPipeline, questions: Iterable[str], truncation: bool) -> Encoding:
    return pipe.tokenizer.encode(
        list(questions), max_length=pipe.max_length, truncation=truncation, padding_side="right"
    )


def _asked(image: Any, question: Any) -> tuple[Any, list[str]]:
    """Images as `mapped` takes them, and a question for each."""
    several = isinstance(image, list | tuple)
    items = image if several else [image]
    if question is None:
        if not all(isinstance(item, Mapping) and {"image", "question"} <= set(item) for item in items):
            raise InputError("a question is needed: pass question=, or {'image', 'question'} for each image")
        images, asked = [item["image"] for item in items], [item["question"] for item in items]
        questions, _ = as_texts(asked, what="question")
    else:
        texts, one = as_texts(question, what="question")
        several = several or not one
        images, questions = [item for item in items for _ in texts], texts * len(items)
    for number, text in enumerate(questions):
        if not text.strip():
            raise InputError(f"question {number} is empty")
    return (images if several else images[0]), questions


def open_pipeline(bundle: Bundle, **options: Any) -> Pipeline:
    """The pipeline that fits: what writes its answers has two graphs, what chooses them has one."""
    writes = "encoder_model" in bundle.variant(options.get("precision")).graphs
    return (WrittenAnswersPipeline if writes else VisualQuestionAnsweringPipeline)(bundle, **options)


PIPELINE = open_pipeline
