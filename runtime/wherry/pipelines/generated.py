"""Generated tokens as text: piece by piece while an engine runs, or whole. What every pipeline that writes shares."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wherry.bundle import Bundle
from wherry.files import read_json
from wherry.generation import Decoder, Engine, GenerationConfig, Request, search
from wherry_tokenization import Tokenizer, TokenStream


def defaults(bundle: Bundle) -> GenerationConfig:
    """The options that a bundle's files give."""
    path = bundle.folder / "generation_config.json"
    return GenerationConfig.from_files(bundle.config, read_json(path) if path.exists() else {})


def pieces(tokenizer: Tokenizer, engine: Engine, config: GenerationConfig) -> Iterator[tuple[Request, int, str]]:
    """(request, which of its sequences, piece of text) as they come; stop strings end a sequence."""
    ends = set(config.eos_token_ids)
    texts: dict[tuple[Request, int], _Text] = {}
    for event in engine.run():
        key = (event.request, event.index)
        text = texts.setdefault(key, _Text(tokenizer.stream(), config.stop_strings))
        if event.token is not None and event.token not in ends and (piece := text.add(event.token)):
            yield *key, piece
        if event.finish and (piece := text.finish()):
            yield *key, piece
        if text.stopped:
            event.request.cancel(event.index)


def whole(tokenizer: Tokenizer, tokens: Sequence[int], config: GenerationConfig) -> str:
    """The text of tokens, up to a stop string."""
    ends = set(config.eos_token_ids)
    text = _Text(tokenizer.stream(), config.stop_strings)
    return "".join([*(text.add(token) for token in tokens if token not in ends), text.finish()])


def written(
    tokenizer: Tokenizer,
    decoder: Decoder,
    rows: Sequence[Mapping[str, Any]],
    config: GenerationConfig,
    batch_size: int,
) -> list[list[str]]:
    """The texts that a decoder behind an encoder writes for each row, which is what it takes of the encoder."""
    start, count = [int(config.decoder_start_token_id or 0)], config.num_return_sequences
    if config.num_beams > 1:
        return [
            [whole(tokenizer, found.tokens, config) for found in search(decoder, start, config, given)]
            for given in rows
        ]
    engine = Engine(decoder, max_rows=max(batch_size, count))
    requests = {engine.submit(start, config, given): at for at, given in enumerate(rows)}
    texts = [[""] * count for _ in rows]
    for request, index, piece in pieces(tokenizer, engine, config):
        texts[requests[request]][index] += piece
    return texts


class _Text:
    """New text of one row: held back while it may be the beginning of a stop text."""

    def __init__(self, stream: TokenStream, stops: tuple[str, ...]) -> None:
        self.stream, self.stops, self.held, self.stopped = stream, stops, "", False

    def add(self, token: int) -> str:
        return "" if self.stopped else self._release(self.stream.step(token))

    def finish(self) -> str:
        return "" if self.stopped else self._release(self.stream.finish(), last=True)

    def _release(self, piece: str, *, last: bool = False) -> str:
        self.held += piece
        found = [at for stop in self.stops if stop and (at := self.held.find(stop)) >= 0]
        if found:
            self.stopped = True
            piece, self.held = self.held[: min(found)], ""
            return piece
        keep = 0 if last else max((_overlap(self.held, stop) for stop in self.stops), default=0)
        piece, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return piece


def _overlap(text: str, stop: str) -> int:
    """How many of the last characters of `text` begin `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
