"""The original and its graphs on a user's own rows: how alike they answer, how right, and whether for all groups alike.

Knows nothing of how a graph was made.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from wherry.generation.frames import Frame, FrameSearch
from wherry.pooling import Pooling
from wherry_exporter.calibration import greedy
from wherry_exporter.data import Row
from wherry_exporter.errors import ParityError, UsageError
from wherry_exporter.front import LONGEST, Front, batches
from wherry_exporter.metrics import METRICS, Metric, entities, entity_counts, surprise, word_errors
from wherry_exporter.probes import vectors_of
from wherry_exporter.prompts import Prompt, PromptFront
from wherry_exporter.quiet import quiet
from wherry_exporter.runners import Feed, Runner
from wherry_exporter.tasks import TASKS
from wherry_exporter.verify import Parity, Tally

Array = np.ndarray[Any, Any]
BATCH = 4
SPOKEN = 120
"""Tokens of a transcript at most."""
SINGLY = ("decoder", "vision-language", "audio-language", "transducer")
"""Shapes of models whose rows are asked one after the other."""
UNLABELLED = ("zero-shot", "audio-frame")
"""What tasks of classification begin with whose rows have no label of their own."""
WRITTEN = 32
"""Tokens at most of an answer about an image that no label gives."""


@dataclass(frozen=True)
class Report:
    """Figures of one variant on given rows.

    Attributes:
        rows: how many.
        parity: how alike the answers are.
        metric: the name of the task's metric, where rows have labels or the task needs none.
        value: of the variant.
        reference: of the original.
        groups: by group, `rows`, `cosine`, `top1` and the metric's figures, as far as there are.
        gap: the largest difference between groups in what quantization cost them; None with fewer than two groups.
        gap_of: in which figure.
    """

    rows: int
    parity: Parity
    metric: str | None
    value: float | None
    reference: float | None
    groups: Mapping[str, Mapping[str, float]]
    gap: float | None
    gap_of: str

    @property
    def loss(self) -> float:
        """What quantization cost: of the metric, else of top-1 agreement, else of cosine similarity."""
        if self.metric is not None and self.value is not None and self.reference is not None:
            return METRICS[self.metric].worsened(self.reference, self.value)
        return 1 - (self.parity.cosine if self.parity.top1 is None else self.parity.top1)

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        figures = self.parity.as_dict()
        if self.metric is not None:
            values = {self.metric: self.value, f"{self.metric}_torch": self.reference}
            figures |= {name: _rounded(value) for name, value in values.items() if value is not None}
        found: dict[str, Any] = {"rows": self.rows, "figures": figures}
        if self.groups:
            groups = {
                group: {name: _rounded(value) for name, value in each.items()} for group, each in self.groups.items()
            }
            found |= {"groups": groups, "group_gap_of": self.gap_of}
        if self.gap is not None:
            found["group_gap"] = _rounded(self.gap)
        return found


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def refuse_rows(task: str, shape: str) -> None:
    """Raise where a model takes what rows of text, images and sounds do not hold.

    Raises:
        UsageError: it does.
    """
    without = ("audio-to-audio", "image-matting", "mask-generation", "multiple-choice", "video-classification")
    if shape in ("speech", "music") or task in without:
        raise UsageError(f"{task} cannot be examined on rows yet: leave --calibration and --verify-data out")


class Examiner:
    """Asks the original and variants about the same rows."""

    def __init__(
        self, rows: Sequence[Row], front: Front, original: Runner, task: str, shape: str, config: Mapping[str, Any]
    ) -> None:
        """Look at the rows.

        Args:
            rows: at least one.
            front: makes inputs of them.
            original: what answers rightly.
            task: a key of `TASKS`.
            shape: as `tasks.shape_of` gives it.
            config: what `configuration` gives.

        Raises:
            UsageError: rows that do not fit the model or the task.
        """
        self.rows, self.front, self.original, self.task, self.shape, self.config = (
            rows,
            front,
            original,
            task,
            shape,
            config,
        )
        refuse_rows(task, shape)
        self.metric = METRICS.get(self._metric_name())
        self.pooling = Pooling.load(front.folder) if task == "sentence-embeddings" else None
        self.labels = [self._label(row) for row in rows]

    def _metric_name(self) -> str:
        labelled = all(row.label is not None for row in self.rows)
        if self.task == "text-generation":
            return "perplexity"
        if not labelled:
            return ""
        if self.task == "automatic-speech-recognition":
            return "wer"
        if self.task == "token-classification":
            return "f1"
        if self.shape in ("encoder-decoder", "vision-language", "audio-language"):
            return "perplexity"
        return "accuracy" if self.task.endswith("classification") and not self.task.startswith(UNLABELLED) else ""

    def _label(self, row: Row) -> Any:
        label = row.label
        if self.metric is None:
            return None
        if self.metric.name == "accuracy":
            known = self.config["label2id"]
            if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(known):
                return label
            if not isinstance(label, str) or label not in known:
                raise UsageError(
                    f"{row.place}: label {label!r} is none of the model's: {', '.join(list(known)[:8])} ..."
                )
            return int(known[label])
        if self.metric.name == "f1":
            spans = isinstance(label, list) and all(
                isinstance(span, dict) and {"start", "end", "label"} <= set(span) for span in label
            )
            if not spans:
                raise UsageError(f"{row.place}: label is no list of spans, each with start, end and label")
        elif label is not None and not isinstance(label, str):
            raise UsageError(f"{row.place}: label is no text")
        return label

    def measure(self, runner: Runner) -> Report:
        """Figures of a variant beside the original's.

        Raises:
            UsageError: a row that the original has no answer to.
        """
        writes = self.shape != "model"
        whole = Tally(writes=writes)
        tallies: dict[str, Tally] = {}
        counts: dict[str, list[tuple[Array, Array]]] = {}
        number = 0
        for expected, found in self._asked(runner):
            for (outputs, right), (others, count) in zip(expected, found, strict=True):
                group = self.rows[number].group
                for name in outputs:
                    if np.isnan(outputs[name]).any():
                        raise UsageError(f"{self.rows[number].place}: the original gives NaN for it: leave it out")
                    whole.add(name, outputs[name], others[name])
                    if group is not None:
                        tally = tallies.setdefault(group, Tally(writes=writes))
                        tally.add(name, outputs[name], others[name])
                if right is not None and count is not None:
                    for key in ("", *(() if group is None else (group,))):
                        counts.setdefault(key, []).append((right, count))
                number += 1
        value, reference = self._figures(counts.get("", []))
        groups = {group: self._group(group, tally, counts.get(group, [])) for group, tally in sorted(tallies.items())}
        gap, gap_of = self._gap(groups)
        name = self.metric.name if self.metric and reference is not None else None
        perplexity = name == "perplexity"
        parity = whole.parity(reference if perplexity else None, value if perplexity else None)
        return Report(len(self.rows), parity, name, value, reference, groups, gap, gap_of)

    def work(self, runner: Runner) -> Callable[[], Any]:
        """The first rows' inputs through a runner, to be timed."""
        if self.shape == "decoder":
            ids = self._ids(self.rows[0].text, self.rows[0])
            return lambda: runner.logits(ids)
        if isinstance(self.front, PromptFront):
            seen = self.front.prompt(self.rows[0])
            return lambda: greedy(runner.reading(seen), seen.start, 12)
        if self.shape == "transducer":
            sound = self.front.feed(self.rows[:1])
            return lambda: self._frames(runner, runner.encode(sound)[0])
        feed = self.front.feed(self.rows[:BATCH])
        if self.shape == "model":
            return lambda: runner.run(feed)
        prompt = np.full((min(BATCH, len(self.rows)), 1), int(self.config["start"]))
        return lambda: greedy(runner.decoding(runner.encode(feed), feed.get("attention_mask")), prompt, 12)

    def _figures(self, counts: Sequence[tuple[Array, Array]]) -> tuple[float | None, float | None]:
        if self.metric is None or not counts:
            return None, None
        return tuple(self.metric.value(np.sum([each[at] for each in counts], 0)) for at in (1, 0))  # type: ignore[return-value]

    def _group(self, group: str, tally: Tally, counts: Sequence[tuple[Array, Array]]) -> dict[str, float]:
        parity = tally.parity(None, None)
        figures: dict[str, float] = {"rows": sum(row.group == group for row in self.rows), "cosine": parity.cosine}
        if parity.top1 is not None:
            figures["top1"] = parity.top1
        value, reference = self._figures(counts)
        if self.metric is not None and value is not None and reference is not None:
            figures |= {self.metric.name: value, f"{self.metric.name}_torch": reference}
        return figures

    def _gap(self, groups: Mapping[str, Mapping[str, float]]) -> tuple[float | None, str]:
        """How unlike the losses of the groups are."""
        figure = (
            self.metric.name if self.metric else "top1" if all("top1" in each for each in groups.values()) else "cosine"
        )
        if len(groups) < 2:
            return None, figure
        losses = [_loss(self.metric, figure, each) for each in groups.values()]
        return max(losses) - min(losses), figure

    def _asked(self, runner: Runner) -> Iterator[tuple[list[Any], list[Any]]]:
        """For each batch, each row's outputs and counts: the original's and the variant's."""
        place = 0
        sounds = {"input_features", "input_values"} & set(self.front.names)  # whose graphs take no mask
        size = 1 if self.shape in SINGLY or (sounds and self.shape == "model") else BATCH
        for batch in batches(self.rows, size):
            numbers = range(place, place + len(batch))
            place += len(batch)
            if self.shape == "decoder":
                ids = self._ids(batch[0].text, batch[0])
                yield [self._decoded(self.original, ids)], [self._decoded(runner, ids)]
            elif isinstance(self.front, PromptFront):
                prompt, answer = self._prompt(self.front, batch[0])
                yield [self._written(self.original, prompt, answer)], [self._written(runner, prompt, answer)]
            elif self.shape == "transducer":
                feed = self.front.feed(batch)
                frames = self._frames(self.original, self.original.encode(feed)[0])
                yield tuple([self._framed(each, feed, frames, numbers[0])] for each in (self.original, runner))  # type: ignore[misc]
            elif self.shape == "encoder-decoder":
                feed = self.front.feed(batch)
                tokens, spoken = self._tokens(feed, batch)
                yield tuple(self._followed(each, feed, tokens, spoken, numbers) for each in (self.original, runner))  # type: ignore[misc]
            else:
                feed = self.front.feed(batch)
                yield tuple(self._answered(each, feed, numbers) for each in (self.original, runner))  # type: ignore[misc]

    def _ids(self, text: str | None, row: Row) -> Array:
        if text is None:
            raise UsageError(f"{row.place}: no text, which this model takes")
        ids: Array = self.front.tokenizer.encode(text, max_length=min(self.front.limit, LONGEST)).input_ids
        if ids.shape[1] < 2:
            raise UsageError(f"{row.place}: a text of one token has no perplexity; give longer ones")
        return ids

    def _decoded(self, runner: Runner, ids: Array) -> tuple[dict[str, Array], Array]:
        logits = runner.logits(ids)[0]
        return {"logits": logits}, surprise(logits[:-1], ids[0, 1:])

    def _prompt(self, front: PromptFront, row: Row) -> tuple[Prompt, Array]:
        """A row, and what follows it: its label, else what the original writes."""
        prompt = front.prompt(row)
        if self.metric is not None:
            return prompt, front.answer(row)
        return prompt, greedy(self.original.reading(prompt), prompt.start, WRITTEN, self.config["end"])

    def _written(self, runner: Runner, prompt: Prompt, answer: Array) -> tuple[dict[str, Array], Array | None]:
        step = runner.reading(prompt)
        logits = step(prompt.start)[0, -1:]
        if answer.shape[1] > 1:
            logits = np.concatenate([logits, step(answer[:, :-1])[0]])
        return {"logits": logits}, None if self.metric is None else surprise(logits, answer[0])

    def _answered(self, runner: Runner, feed: Mapping[str, Array], numbers: Sequence[int]) -> list[Any]:
        outputs, mask = runner.run(feed), feed.get("attention_mask")
        names = [name for name in TASKS[self.task].outputs if name in outputs] or list(outputs)
        answers = []
        for index, number in enumerate(numbers):
            row: dict[str, Array] = {}
            for name in names:
                output = outputs[name]
                if self.pooling is not None and mask is not None and output.ndim == 3:
                    row[name] = self.pooling.apply(output[index : index + 1], mask[index : index + 1])
                elif mask is not None and output.ndim >= 2 and output.shape[:2] == mask.shape:
                    kept = output[index][mask[index].astype(bool)]
                    row[name] = kept if kept.ndim == 2 else kept[None]
                else:
                    row[name] = vectors_of(output[index : index + 1])
            answers.append((row, self._count(number, row)))
        return answers

    def _count(self, number: int, outputs: Mapping[str, Array]) -> Array | None:
        row, label = self.rows[number], self.labels[number]
        if self.metric is None:
            return None
        best = outputs["logits"].argmax(-1)
        if self.metric.name == "accuracy":
            return np.array([best[0] == label, 1])
        if self.metric.name == "wer":
            return word_errors(label, self._spoken(best))
        text = str(row.text)
        encoded = self.front.tokenizer.encode(text, max_length=min(self.front.limit, LONGEST), offsets=True)
        assert encoded.offsets is not None
        offsets = np.where(encoded.special_tokens_mask[0][:, None], 0, encoded.offsets[0])
        names = [str(self.config["id2label"][int(each)]) for each in best]
        return entity_counts(label, entities(text, offsets, names))

    def _tokens(self, feed: Mapping[str, Array], batch: Sequence[Row]) -> tuple[Array, bool]:
        """What a decoder behind an encoder is fed, and whether that is the labels themselves."""
        start = int(self.config["start"])
        rows = len(batch)
        if self.metric is not None and self.metric.name == "perplexity":
            ids = self.front.tokenizer.encode([str(row.label) for row in batch], max_length=LONGEST)
            self._real = ids.attention_mask.astype(bool)
            return np.concatenate([np.full((rows, 1), start), ids.input_ids], 1), False
        states = self.original.encode(feed)
        step = self.original.decoding(states, feed.get("attention_mask"))
        tokens = greedy(step, np.full((rows, 1), start), SPOKEN, self.config["end"])
        ends = tokens == self.config["end"]
        self._real = np.cumsum(ends, 1) - ends == 0  # all up to the first end
        return np.concatenate([np.full((rows, 1), start), tokens], 1), True

    def _followed(
        self, runner: Runner, feed: Mapping[str, Array], tokens: Array, spoken: bool, numbers: Sequence[int]
    ) -> list[Any]:
        states, mask = runner.encode(feed), feed.get("attention_mask")
        logits = runner.decoding(states, mask)(tokens[:, :-1])
        answers: list[Any] = []
        own = tokens[:, 1:] if runner is self.original else None
        if spoken and self.metric is not None and own is None:
            own = greedy(runner.decoding(states, mask), tokens[:, :1], SPOKEN, self.config["end"])
        for index, number in enumerate(numbers):
            real = self._real[index]
            count = None
            if self.metric is not None and not spoken:
                count = surprise(logits[index][real], tokens[index, 1:][real])
            elif self.metric is not None and own is not None:
                count = word_errors(self.labels[number], self._spoken(own[index]))
            answers.append(({"logits": logits[index][real]}, count))
        return answers

    def _frames(self, runner: Runner, states: Array) -> list[Frame]:
        """What a transducer writes of a sound's states, (frames, size)."""
        return list(self._search.run(runner.joining(states, self._search.blank), len(states)))

    def _framed(self, runner: Runner, feed: Feed, frames: Sequence[Frame], number: int) -> Any:
        """What a transducer says along the original's way through the frames of one sound."""
        states, vocabulary = runner.encode(feed)[0], self._search.vocabulary
        joint = runner.joining(states, self._search.blank)
        written = [None, *(frame.token for frame in frames)]
        scores = np.stack([joint(frame.at, token) for frame, token in zip(frames, written, strict=False)])
        row = {"logits": scores[:, :vocabulary]}
        if scores.shape[1] > vocabulary:
            row["duration_logits"] = scores[:, vocabulary:]
        if self.metric is None:
            return row, None
        own = frames if runner is self.original else self._frames(runner, states)
        tokens = np.array([frame.token for frame in own if frame.token is not None], np.int64)
        return row, word_errors(self.labels[number], self._spoken(tokens, group_tokens=False))

    @cached_property
    def _search(self) -> FrameSearch:
        return FrameSearch.of(self.config, self.front.folder / "config.json")

    def _spoken(self, tokens: Array, **options: Any) -> str:
        return str(self._decoder.decode(tokens.tolist(), skip_special_tokens=True, **options))

    @cached_property
    def _decoder(self) -> Any:
        from transformers import AutoTokenizer

        with quiet():
            return AutoTokenizer.from_pretrained(self.front.folder)


def _loss(metric: Metric | None, figure: str, each: Mapping[str, float]) -> float:
    return metric.worsened(each[f"{figure}_torch"], each[figure]) if metric else 1 - each[figure]


def refuse(precision: str, report: Report, max_accuracy_loss: float | None, max_group_gap: float | None) -> None:
    """Refuse a variant that costs too much, or some groups more than others.

    Raises:
        ParityError: names the figure and the limit.
    """
    figure = report.metric or ("cosine" if report.parity.top1 is None else "top1")
    if max_accuracy_loss is not None and report.loss > max_accuracy_loss:
        raise ParityError(
            f"{precision} loses {report.loss:.4f} of {figure} on the given rows, limit {max_accuracy_loss}"
        )
    if max_group_gap is not None and report.gap is not None and report.gap > max_group_gap:
        losses = {
            group: _loss(METRICS.get(report.gap_of), report.gap_of, each) for group, each in report.groups.items()
        }
        worst, best = max(losses, key=lambda group: losses[group]), min(losses, key=lambda group: losses[group])
        raise ParityError(
            f"{precision} hurts group '{worst}' more than '{best}': they lose {losses[worst]:.4f} and "
            f"{losses[best]:.4f} of {report.gap_of}, a gap of {report.gap:.4f}, limit {max_group_gap}"
        )


def configuration(config: Mapping[str, Any], start: int, end: Any) -> dict[str, Any]:
    """What an examiner needs of a model's configuration.

    Returns:
        `label2id`, `id2label`; `start` and `end`, tokens of a decoder behind an encoder; what tells of a `FrameSearch`.
    """
    names = {int(number): str(label) for number, label in (config.get("id2label") or {}).items()}
    ends = end if isinstance(end, list) else [end]
    return {
        **{name: config.get(name) for name in ("vocab_size", "blank_token_id", "max_symbols_per_step", "durations")},
        "id2label": names,
        "label2id": {label: number for number, label in names.items()},
        "start": start,
        "end": ends[0],
    }
