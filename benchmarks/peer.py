"""Another runtime in a process and an environment of its own: python peer.py KIND MODEL THREADS

A request is a line of JSON, {"do": name of a method, its arguments}; its answer is what the method gives. All is greedy
or by beams, token ids in and out, and goes on for exactly as many tokens as asked.
"""

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOM = 4200
"""Tokens that a sequence may come to."""


class LlamaCpp:
    """A GGUF file, by llama.cpp's own interface: what its Python package adds is left out."""

    def __init__(self, model: str, threads: int) -> None:
        import llama_cpp

        self.api = llama_cpp
        llama_cpp.llama_log_set(_SILENT, ctypes.c_void_p())
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(model.encode(), llama_cpp.llama_model_default_params())
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max, settings.n_batch, settings.kv_unified = 8 * ROOM, 8, 4096, True
        settings.n_threads = settings.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(4096, 0, 1)
        self.filled: list[int] = []

    def generate(self, rows: list[list[int]], steps: int) -> list[list[int]]:
        self.api.llama_memory_clear(self.memory, False)
        self.filled = []
        every = [(row, at, token, at == len(ids) - 1) for row, ids in enumerate(rows) for at, token in enumerate(ids)]
        return self._go_on(self._decode(every), [len(ids) for ids in rows], steps)

    def go_on(self, row: list[int], steps: int) -> list[list[int]]:
        """Continue a row, all but whose last token is read the first time alone."""
        length = len(row)
        if self.filled != row:
            self._fill(row)
        self.api.llama_memory_seq_rm(self.memory, 0, length - 1, -1)
        return self._go_on(self._decode([(0, length - 1, row[-1], True)]), [length], steps)

    def _fill(self, row: list[int]) -> None:
        self.api.llama_memory_clear(self.memory, False)
        for start in range(0, len(row) - 1, 2048):
            part = row[:-1][start : start + 2048]
            self._decode([(0, start + at, token, False) for at, token in enumerate(part)])
        self.filled = row

    def _go_on(self, last: list[int], lengths: list[int], steps: int) -> list[list[int]]:
        made = [[token] for token in last]
        for step in range(steps - 1):
            last = self._decode([(row, lengths[row] + step, token, True) for row, token in enumerate(last)])
            for row, token in zip(made, last, strict=True):
                row.append(token)
        return made

    def _decode(self, tokens: list[tuple[int, int, int, bool]]) -> list[int]:
        """Read (sequence, position, token, whether its logits are wanted); gives the likeliest tokens behind them."""
        batch = self.batch
        batch.n_tokens = len(tokens)
        for at, (row, position, token, wanted) in enumerate(tokens):
            batch.token[at], batch.pos[at], batch.logits[at] = token, position, wanted
            batch.n_seq_id[at], batch.seq_id[at][0] = 1, row
        if self.api.llama_decode(self.context, batch):
            raise SystemExit("llama_decode failed")
        found = []
        for at, (*_, wanted) in enumerate(tokens):
            if wanted:
                logits = self.api.llama_get_logits_ith(self.context, at)
                found.append(int(np.ctypeslib.as_array(logits, (self.size,)).argmax()))
        return found


class Genai:
    """A folder with genai_config.json, by onnxruntime-genai."""

    def __init__(self, model: str, threads: int) -> None:
        import onnxruntime_genai

        self.api = onnxruntime_genai
        config = onnxruntime_genai.Config(model)
        options = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self.model = onnxruntime_genai.Model(config)
        self.filled: tuple[list[int], Any] = ([], None)

    def generate(self, rows: list[list[int]], steps: int) -> list[list[int]]:
        generator = self._begin(rows, len(rows[0]) + steps)
        return self._go_on(generator, len(rows), steps)

    def go_on(self, row: list[int], steps: int) -> list[list[int]]:
        """Continue a row, all but whose last token is read the first time alone."""
        if self.filled[0] != row:
            self.filled = (row, self._begin([row[:-1]], ROOM))
        generator = self.filled[1]
        generator.rewind_to(len(row) - 1)
        generator.append_tokens(np.array([row[-1:]], np.int32))
        return self._go_on(generator, 1, steps)

    def _begin(self, rows: list[list[int]], room: int) -> Any:
        settings = self.api.GeneratorParams(self.model)
        settings.set_search_options(
            do_sample=False, max_length=room, min_length=room, batch_size=len(rows), num_beams=1
        )
        generator = self.api.Generator(self.model, settings)
        generator.append_tokens(np.array(rows, np.int32))
        return generator

    def _go_on(self, generator: Any, rows: int, steps: int) -> list[list[int]]:
        made: list[list[int]] = [[] for _ in range(rows)]
        for _ in range(steps):
            generator.generate_next_token()
            for row, token in zip(made, generator.get_next_tokens(), strict=True):
                row.append(int(token))
        return made


class CTranslate2:
    """A folder that its converter wrote, of a decoder or of an encoder with a decoder."""

    def __init__(self, model: str, threads: int) -> None:
        import ctranslate2

        self.names = json.loads(Path(model, "vocabulary.json").read_text(encoding="utf-8"))
        options = {"device": "cpu", "inter_threads": 1, "intra_threads": threads}
        self.model = ctranslate2.Generator(model, **options)

    def generate(self, rows: list[list[int]], steps: int) -> list[list[int]]:
        found = self.model.generate_batch(
            [[self.names[token] for token in row] for row in rows],
            max_length=steps,
            min_length=steps,
            sampling_topk=1,
            include_prompt_in_result=False,
        )
        return [each.sequences_ids[0] for each in found]


class CTranslate2Pair:
    """An encoder with a decoder of text."""

    def __init__(self, model: str, threads: int) -> None:
        import ctranslate2

        options = {"device": "cpu", "inter_threads": 1, "intra_threads": threads}
        self.model = ctranslate2.Translator(model, **options)

    def translate(self, rows: list[list[str]], steps: int, beams: int) -> list[list[str]]:
        found = self.model.translate_batch(
            rows, beam_size=beams, max_decoding_length=steps, min_decoding_length=steps, max_input_length=0
        )
        return [each.hypotheses[0] for each in found]


class CTranslate2Whisper:
    """Whisper, by its features."""

    def __init__(self, model: str, threads: int) -> None:
        import ctranslate2

        self.api = ctranslate2
        options = {"device": "cpu", "inter_threads": 1, "intra_threads": threads}
        self.model = ctranslate2.models.Whisper(model, **options)

    def hear(self, features: str, prompt: list[int], steps: int, beams: int) -> list[list[int]]:
        """Features lie in an .npy file, (rows, mel bins, frames) float32."""
        sounds = np.load(features)
        found = self.model.generate(
            self.api.StorageView.from_array(sounds),
            [prompt] * len(sounds),
            beam_size=beams,
            max_length=len(prompt) + steps,
            suppress_blank=False,
            suppress_tokens=[],
        )
        return [each.sequences_ids[0] for each in found]


KINDS = {
    "llama.cpp": LlamaCpp,
    "genai": Genai,
    "CTranslate2": CTranslate2,
    "CTranslate2 pair": CTranslate2Pair,
    "CTranslate2 Whisper": CTranslate2Whisper,
}
_SILENT = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)


def main() -> None:
    kind, model, threads = sys.argv[1:]
    runtime = KINDS[kind](model, int(threads))
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(runtime, request.pop("do"))(**request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
