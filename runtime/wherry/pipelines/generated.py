"""Generated tokens as text: piece by piece while an engine runs, or whole. What every pipeline that writes shares."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from wherry.bundle import PREFILL, Bundle
from wherry.files import read_json
from wherry.generation import Decoder, Engine, GenerationConfig, Request, search
from wherry.session import Session
from wherry_tokenization import Tokenizer

DECODERS = (("decoder_model_merged",), ("decoder_with_past_model", "decoder_model"))
"""A decoder's graphs: one for every step, or one for later steps and another for the first."""


def decoder_roles(graphs: Collection[str]) -> tuple[str, ...]:
    """Those of a decoder's graphs that there are, or should be."""
    return next((roles for roles in DECODERS if set(roles) <= set(graphs)), DECODERS[0])


def open_decoder(sessions: Mapping[str, Session], padding_side: str | None, config: Mapping[str, Any]) -> Decoder:
    """The decoder that a pipeline's sessions are.

    Args:
        config: config.json's.
    """
    prefill = sessions.get(PREFILL)
    if "model" in sessions:
        return Decoder(sessions["model"], padding_side, prefill=prefill, head_size=config.get("head_dim"))
    session, *first = (sessions[role] for role in decoder_roles(sessions))
    embed = sessions.get("embed_tokens")
    return Decoder(session, padding_side, first=first[0] if first else None, prefill=prefill, embed=embed)


def defaults(bundle: Bundle) -> GenerationConfig:
    """The options that a bundle's files give."""
    path = bundle.folder / "generation_config.json"
    return GenerationConfig.from_files(bundle.config, read_json(path) if path.exists() else {})


def captioner_defaults(bundle: Bundle) -> GenerationConfig:
    """The same for what writes about images.

    BLIP begins with one token of its text model, and ends with another; GIT begins as a decoder of text does.
    """
    told = defaults(bundle)
    if bundle.config.get("model_type") == "git":
        return told.updated(decoder_start_token_id=bundle.config.get("bos_token_id", 101))
    if bundle.config.get("model_type") != "blip":
        return told
    text = bundle.config.get("text_config") or {}
    return told.updated(
        decoder_start_token_id=text.get("bos_token_id", 30522), eos_token_ids=(text.get("sep_token_id", 102),)
    )


def pieces(tokenizer: Tokenizer, engine: Engine, config: GenerationConfig) -> Iterator[tuple[Request, int, str]]:
    """(request, which of its sequences, piece of text) as they come; stop strings end a sequence."""
    ends = set(config.eos_token_ids)
    texts: dict[tuple[Request, int], _Text] = {}
    for event in engine.run():
        key = (event.request, event.index)
        text = texts.setdefault(key, _Text(tokenizer, config.stop_strings))
        if event.token is not None and event.token not in ends and (piece := text.add(event.token)):
            yield *key, piece
        if event.finish and (piece := text.finish()):
            yield *key, piece
        if text.stopped:
            event.request.cancel(event.index)


def whole(tokenizer: Tokenizer, tokens: Sequence[int], config: GenerationConfig) -> str:
    """The text of tokens, up to a stop string."""
    ends = set(config.eos_token_ids)
    text = _Text(tokenizer, config.stop_strings)
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
        searched = search(decoder, [start] * len(rows), config, rows, batch_size=batch_size)
        return [[whole(tokenizer, found.tokens, config) for found in each] for each in searched]
    engine = Engine(decoder, max_rows=max(batch_size, count))
    requests = {engine.submit(start, config, given): at for at, given in enumerate(rows)}
    texts = [[""] * count for _ in rows]
    for request, index, piece in pieces(tokenizer, engine, config):
        texts[requests[request]][index] += piece
    return texts


class _Text:
    """New text of one row: held back while it may be the beginning of a stop text."""

    def __init__(self, tokenizer: Tokenizer, stops: tuple[str, ...]) -> None:
        self.tokenizer, self.stops, self.held, self.stopped = tokenizer, stops, "", False
        self.stream = tokenizer.stream()

    def add(self, token: int) -> str:
        if self.stopped or self.tokenizer.id_to_token(token) is None:  # models have more logits than there are tokens
            return ""
        return self._release(self.stream.step(token))

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
