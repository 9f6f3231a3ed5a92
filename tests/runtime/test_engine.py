"""Generation over a real model's cache gives transformers' tokens, alone or together, however requests come and go."""

import ctypes
import shutil
import time
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModelForCausalLM

from wherry.errors import InputError, SessionError
from wherry.generation import Assistant, Decoder, Engine, GenerationConfig, PrefixCache, generate, search
from wherry.generation.cache import bytes_per_token
from wherry.generation.growing import GrowingBatch
from wherry.generation.speculation import lookup
from wherry.session import Session
from wherry_exporter.probe import PROSE
from wherry_exporter.samples import sample
from wherry_tokenization import Tokenizer

END = 2  # SmolLM2's <|im_end|>


class Growing(Decoder):
    """Takes the graph for one that gives its whole cache in each step, as graphs made by others do."""

    def batch(self, rows, capacity):  # noqa: ARG002
        return GrowingBatch(self)


@pytest.fixture(scope="module")
def folder(bundle):
    return bundle("smollm2-gguf").folder


@pytest.fixture(scope="module")
def session(folder):
    return Session(folder / "onnx/model.onnx", device="cpu")


@pytest.fixture(scope="module")
def decoder(session):
    return Decoder(session)


@pytest.fixture(scope="module")
def prose(folder):
    return Tokenizer.load(folder).encode(PROSE).input_ids[0].tolist()


@pytest.fixture(scope="module")
def prompts(prose):
    return [prose[:16], prose[20:27], prose[40:110], prose[50:66], prose[3:4]]


@cache
def original():
    return AutoModelForCausalLM.from_pretrained(sample("smollm2"))


def by_torch(prompt, count, **options):
    ids = torch.tensor([prompt])
    options = {"do_sample": False, "eos_token_id": END, "pad_token_id": END} | options
    found = original().generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, **options)
    return [up_to_end(row) for row in found[:, len(prompt) :].tolist()]


def up_to_end(row):
    return row[: row.index(END) + 1] if END in row else row


def config(count, **options):
    return GenerationConfig(max_new_tokens=count, eos_token_ids=(END,), **options)


def finished(engine):
    """Run to the end; the events, and the tokens of each sequence."""
    events = list(engine.run())
    tokens: dict[tuple[object, int], list[int]] = {}
    for event in events:
        tokens.setdefault((event.request, event.index), []).extend([] if event.token is None else [event.token])
    return events, tokens


def sequence(request, index=0):
    return request.choosers[index].ids[len(request.prompt) :].tolist()


class Moves:
    """CUDA's copies, within the CPU's memory."""

    def move(self, target, target_pitch, source, source_pitch, width, height):
        for at in range(height):
            ctypes.memmove(int(target) + at * target_pitch, int(source) + at * source_pitch, int(width))

    def clear(self, target, size):
        ctypes.memset(target, 0, size)

    def wait(self):
        pass


def test_the_way_of_a_gpu_gives_the_same_tokens(folder, decoder, prompts):
    session = Session(folder / "onnx/model.onnx", device="cpu")
    session.on_gpu = True  # its memory is the CPU's all the same
    there = Decoder(session)
    there.__dict__["copies"] = Moves()
    for config in (GenerationConfig(max_new_tokens=6), GenerationConfig(max_new_tokens=3, logprobs=True)):
        assert generate(there, prompts, config) == generate(decoder, prompts, config)
    ((cache, known),) = there.spare  # that of the first run, used again
    assert cache.capacity == 256
    assert set(known) == {len(prompts)}
    config = GenerationConfig(max_new_tokens=4, num_beams=3)
    one, other = (search(each, prompts[1:2], config)[0] for each in (there, decoder))
    assert [found.tokens for found in one] == [found.tokens for found in other]


@pytest.mark.parametrize("kind", [Decoder, Growing])
def test_a_batch_of_unlike_prompts_has_the_tokens_of_transformers(kind, session, prompts):
    expected = [by_torch(prompt, 24)[0] for prompt in prompts]
    assert generate(kind(session), prompts, config(24)) == expected


@pytest.mark.parametrize(
    ("options", "end"),
    [
        ({"num_beams": 4}, END),
        ({"num_beams": 4}, 30),  # a full stop: hypotheses end early
        ({"num_beams": 3, "num_return_sequences": 3, "early_stopping": True}, 30),
        ({"num_beams": 4, "length_penalty": 0.3, "early_stopping": "never"}, 30),
        ({"num_beams": 2, "length_penalty": 2.0}, 30),
        ({"num_beams": 4, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2}, END),
    ],
)
def test_beam_search_is_that_of_transformers(options, end, decoder, prompts):
    """Prompts of one length run together, and end one after another."""
    same = [*prompts[:2], prompts[0][::-1]]
    every = search(decoder, same, GenerationConfig(max_new_tokens=14, eos_token_ids=(end,), **options), batch_size=2)
    for prompt, found in zip(same, every, strict=True):
        expected = by_torch(prompt, 14, eos_token_id=end, pad_token_id=0, **options)
        rows = [row[: row.index(end) + 1] if end in row else row for row in expected]
        assert [list(each.tokens) for each in found] == rows
        assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)


def test_beam_search_over_a_growing_cache(session, prompts):
    options = {"num_beams": 3, "num_return_sequences": 2}
    same = [prompts[1], prompts[1][::-1]]
    for prompt, found in zip(same, search(Growing(session), same, config(12, **options)), strict=True):
        assert [list(each.tokens) for each in found] == by_torch(prompt, 12, **options)


@pytest.mark.parametrize("kind", [Decoder, Growing])
def test_requests_join_and_leave_while_others_run(kind, session, prompts):
    """Each has its own length and settings, and the tokens that it has alone; the last finds all others gone."""
    counts = [5, 21, 9, 14, 30]
    engine = Engine(kind(session), max_rows=3)
    requests = [engine.submit(prompts[0], config(counts[0]))]
    for number in range(1, 5):
        engine.step(), engine.step(), engine.step()
        requests.append(engine.submit(prompts[number], config(counts[number])))
    events, _ = finished(engine)
    last = engine.submit(prompts[1], config(6))
    finished(engine)
    for request, prompt, count in zip([*requests, last], [*prompts, prompts[1]], [*counts, 6], strict=True):
        assert sequence(request) == by_torch(prompt, count)[0]
    assert {event.finish for event in events} <= {None, "length", "stop"}


def test_sampled_sequences_do_not_depend_on_the_rest_of_the_batch(decoder, prompts):
    options = {"do_sample": True, "temperature": 1.3, "seed": 5, "num_return_sequences": 3}
    alone = generate(decoder, [prompts[1]], config(10, **options))
    assert len({tuple(row) for row in alone}) == 3
    engine = Engine(decoder)
    engine.submit(prompts[0], config(17))
    request = engine.submit(prompts[1], config(10, **options))
    engine.submit(prompts[2], config(4, do_sample=True, seed=1))
    finished(engine)
    assert [sequence(request, index) for index in range(3)] == alone


def test_a_long_prompt_holds_nobody_up(decoder, prose):
    engine = Engine(decoder)
    short = engine.submit(prose[:8], config(40))
    engine.step()
    long = engine.submit((prose * 12)[:1200], config(2))
    steps = []
    while not long.choosers:
        steps.append({event.request for event in engine.step()})
    assert len(steps) >= 5  # three parts, and a token of the other between them
    assert sum(short in each for each in steps) >= 2
    finished(engine)
    assert sequence(short) == by_torch(prose[:8], 40)[0]
    assert sequence(long) == by_torch((prose * 12)[:1200], 2)[0]


def test_a_cancelled_request_leaves_before_the_next_step(decoder, prompts):
    engine = Engine(decoder)
    gone, stays = engine.submit(prompts[0], config(30)), engine.submit(prompts[1], config(12))
    waiting = engine.submit(prompts[2], config(5))
    waiting.cancel()
    for _ in range(5):
        engine.step()
    before = len(sequence(gone))
    gone.cancel()
    events = engine.step()
    assert [event.finish for event in events if event.request is gone] == ["cancelled"]
    finished(engine)
    assert len(sequence(gone)) == before
    assert not waiting.choosers
    assert sequence(stays) == by_torch(prompts[1], 12)[0]


def test_a_request_ends_with_its_time(decoder, prompts):
    engine = Engine(decoder)
    late, other = engine.submit(prompts[0], config(200, max_time=0.3)), engine.submit(prompts[1], config(6))
    start = time.monotonic()
    events, _ = finished(engine)
    assert [event.finish for event in events if event.request is late][-1] == "deadline"
    assert time.monotonic() - start < 3
    assert sequence(other) == by_torch(prompts[1], 6)[0]


def test_a_known_beginning_is_not_read_again(decoder, prose):
    system = prose[:120]
    asked = [system + prose[130:140], system + prose[150:163], system]
    prefixes = PrefixCache(2**28)
    for number, prompt in enumerate(asked):
        engine = Engine(decoder, prefixes=prefixes)
        request = engine.submit(prompt, config(8))
        engine.step()
        if number:
            assert engine.read > 100  # what it began with was known
        finished(engine)
        assert sequence(request) == by_torch(prompt, 8)[0]


def test_kept_beginnings_are_bounded(decoder, prose):
    one = bytes_per_token(decoder.past) * 40
    prefixes = PrefixCache(2 * one + 1000)
    for first in range(0, 160, 32):
        engine = Engine(decoder, prefixes=prefixes)
        engine.submit(prose[first : first + 32], config(4))
        finished(engine)
        assert prefixes.bytes <= prefixes.max_bytes
        assert prefixes.bytes == sum(array.nbytes for _, arrays in prefixes.entries.values() for array in arrays)
    assert len(prefixes.entries) == 2
    assert prefixes.find(np.array(prose[:32])) is None  # what was not asked for longest is gone
    assert prefixes.find(np.array(prose[128:160])) is not None


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 3, "temperature": 0.7}])
def test_guessed_tokens_change_nothing_but_the_number_of_steps(options, decoder, prose):
    prompt = prose[:40] + prose[:30]
    plain = generate(decoder, [prompt], config(40, **options))[0]
    engine = Engine(decoder)
    request = engine.submit(prompt, config(40, prompt_lookup_num_tokens=6, **options))
    steps = 0
    while engine.busy:
        engine.step()
        steps += 1
    assert sequence(request) == plain
    assert steps < len(plain) + 1


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 3, "temperature": 0.7}])
def test_an_assistant_changes_nothing_but_the_number_of_steps(options, folder, decoder, prompts):
    """The same model in 4 bits guesses; one assistant for text after text."""
    assistant = Assistant(Decoder(Session(folder / "onnx/model_q4.onnx", device="cpu")))
    for prompt in (prompts[2], prompts[0], prompts[2] + prompts[0]):
        plain = generate(decoder, [prompt], config(30, **options))[0]
        engine = Engine(decoder, assistant=assistant)
        request = engine.submit(prompt, config(30, assistant_confidence_threshold=0.1, **options))
        steps = 0
        while engine.busy:
            engine.step()
            steps += 1
        assert sequence(request) == plain
        assert steps < 0.8 * len(plain)


def test_an_assistant_keeps_to_its_context_and_to_likely_tokens(decoder, prompts):
    guesser = Assistant(decoder, context=len(prompts[0]) + 3)
    ids = np.array(prompts[0])
    assert guesser.guess(ids, 10, 0.0).tolist() == by_torch(prompts[0], 3)[0]
    assert guesser.guess(np.array(prompts[2]), 10, 0.0).tolist() == []
    assert guesser.guess(ids[:-1], 10, 1.0).tolist() == []


def test_an_assistant_whose_cache_cannot_be_cut_is_refused(session):
    with pytest.raises(InputError, match="keeps a cache that cannot be cut: it needs GroupQueryAttention"):
        Assistant(Growing(session))


def test_a_graph_that_does_not_tell_the_size_of_its_heads(folder, prompts, tmp_path):
    """As onnxruntime-genai's builder writes them."""
    graph = onnx.load(folder / "onnx/model_q4.onnx", load_external_data=False)
    for port in [*graph.graph.input, *graph.graph.output]:
        if "." in port.name:
            port.type.tensor_type.shape.dim[3].dim_param = "kv_cache_dim"
    onnx.save(graph, tmp_path / "model_q4.onnx")
    shutil.copy(folder / "onnx/model_q4.onnx_data", tmp_path)
    told, untold = (Session(path / "model_q4.onnx", device="cpu") for path in (folder / "onnx", tmp_path))
    expected = generate(Decoder(told), prompts[:2], config(6))
    assert generate(Decoder(untold, head_size=64), prompts[:2], config(6)) == expected
    with pytest.raises(SessionError, match=r"neither the graph's past_key_values.0.key nor the configuration tells"):
        Decoder(untold)


def test_what_followed_the_same_tokens_is_looked_up():
    ids = np.array([5, 1, 2, 3, 9, 8, 1, 2, 3])
    assert lookup(ids, 2).tolist() == [9, 8]
    assert lookup(ids, 10).tolist() == [9, 8, 1, 2, 3]
    assert lookup(np.array([1, 2, 7, 3, 2]), 3).tolist() == [7, 3, 2]
    assert lookup(np.array([1, 2, 3]), 3).tolist() == []
    assert lookup(np.array([4]), 3).tolist() == []


def test_more_than_the_memory_allowed_is_refused_and_less_waits(decoder, prompts):
    per_token = bytes_per_token(decoder.past)
    engine = Engine(decoder, max_bytes=60 * per_token)
    with pytest.raises(InputError, match=r"a prompt of 70 tokens and 10 new ones need \d+ MB of cache, and \d+ MB are"):
        engine.submit(prompts[2], config(10))
    with pytest.raises(InputError, match="num_return_sequences is 40, and 32 sequences may run at once"):
        engine.submit(prompts[1], config(2, do_sample=True, num_return_sequences=40))
    requests = [engine.submit(prompts[0], config(20)) for _ in range(3)]  # one at a time fits
    running = []
    while engine.busy:
        engine.step()
        running.append(len(engine.rows))
    assert max(running) == 1
    assert [sequence(request) for request in requests] == [by_torch(prompts[0], 20)[0]] * 3


def test_sixty_four_at_once(decoder, prose):
    prompts = [prose[at : at + 3 + at % 5] for at in range(64)]
    found = generate(decoder, prompts, config(4))
    for at in (0, 13, 40, 63):
        assert found[at] == by_torch(prompts[at], 4)[0]


def test_log_probabilities_are_those_of_the_original(decoder, prompts):
    engine = Engine(decoder)
    request = engine.submit(prompts[0], config(6, logprobs=True, top_logprobs=3))
    finished(engine)
    ids = torch.tensor([prompts[0] + sequence(request)])
    with torch.no_grad():
        logs = original()(ids).logits[0, len(prompts[0]) - 1 : -1].log_softmax(-1)
    for told, expected in zip(request.choosers[0].logprobs, logs, strict=True):
        assert told.logprob == pytest.approx(float(expected[told.token]), abs=1e-3)
        best = expected.topk(3)
        assert [token for token, _ in told.top] == best.indices.tolist()
