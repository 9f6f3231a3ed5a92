"""Texts keep to the form that they must have, greedily and however they are drawn."""

import json
import re

import numpy as np
import pytest

from wherry import pipeline
from wherry.errors import InputError
from wherry.generation.grammar import Grammar, Vocabulary
from wherry_tokenization import Tokenizer

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
DATE = r"[12][0-9]{3}-[01][0-9]-[0-3][0-9]"
SUM = 'start: NUMBER (("+" | "-") NUMBER){1,3}\nNUMBER: /[0-9]{1,3}/'


@pytest.fixture(scope="module")
def generate(bundle):
    return pipeline("text-generation", bundle("smollm2-gguf").folder, precision="int4")


def texts(generate, prompt, **options):
    options = {"return_full_text": False, "max_new_tokens": 48} | options
    return [each["generated_text"] for each in generate(prompt, **options)]


def is_person(text):
    found = json.loads(text)
    return set(found) == {"name", "age"} and isinstance(found["age"], int) and len(found["name"]) <= 12


@pytest.mark.parametrize(
    ("form", "fits"),
    [
        ({"json_schema": PERSON}, is_person),
        ({"json_schema": json.dumps(PERSON)}, is_person),
        ({"regex": DATE}, lambda text: re.fullmatch(DATE, text)),
        ({"lark": SUM}, lambda text: re.fullmatch(r"[0-9]{1,3}([+-][0-9]{1,3}){1,3}", text)),
        ({"choices": ["yes", "no", "maybe (ask)"]}, lambda text: text in ("yes", "no", "maybe (ask)")),
    ],
)
def test_every_text_has_its_form(form, fits, generate):
    prompt = "The first day of the year, and who was born on it:"
    assert fits(texts(generate, prompt, do_sample=False, **form)[0])
    drawn = texts(generate, prompt, temperature=1.5, top_k=0, seed=1, num_return_sequences=3, **form)
    assert all(fits(text) for text in drawn)
    assert len(set(drawn)) > 1
    assert fits("".join(generate.stream(prompt, max_new_tokens=60, do_sample=False, **form)))


def test_prompts_of_a_batch_keep_to_it_each_for_itself(bundle):
    generate = pipeline("text-generation", bundle("smollm2-gguf").folder, precision="int8")  # exact in any batch
    options = {"max_new_tokens": 30, "do_sample": False, "return_full_text": False, "regex": DATE}
    prompts = ["Born on ", "The war ended on ", "Yesterday was "]
    together = generate(prompts, **options)
    assert together == [generate(prompt, **options) for prompt in prompts]
    assert all(re.fullmatch(DATE, result[0]["generated_text"]) for result in together)


def test_guessed_tokens_keep_to_the_form_too(generate):
    plain = texts(generate, "ages: 1, 2, 3, 1, 2, 3,", regex="( [0-9],){8}", do_sample=False)
    assert plain == texts(
        generate, "ages: 1, 2, 3, 1, 2, 3,", regex="( [0-9],){8}", do_sample=False, prompt_lookup_num_tokens=5
    )
    assert re.fullmatch("( [0-9],){8}", plain[0])


def test_only_tokens_that_keep_to_the_form_are_left(generate):
    tokenizer = Tokenizer.load(generate.bundle.folder)
    vocabulary = Vocabulary(tokenizer, 49152, (2,))
    constraint = Grammar(vocabulary, regex="[ab]{2}").start()
    scores = np.zeros(49152, np.float32)
    constraint.allow(scores)
    left = {tokenizer.decode([token]) for token in np.flatnonzero(np.isfinite(scores))}
    assert left == {"a", "b", "ab", "aa", "bb", "ba"} & left
    assert {"a", "b", "ab"} <= left
    constraint.accept(tokenizer.token_to_id("ab"))
    scores[:] = 0
    constraint.allow(scores)
    assert np.flatnonzero(np.isfinite(scores)).tolist() == [2]  # nothing but the end
    with pytest.raises(InputError, match="the form cannot be kept to"):
        constraint.accept(tokenizer.token_to_id("b"))


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"regex": "("}, "regex does not compile"),
        ({"lark": "start: nothing"}, "lark does not compile"),
        ({"json_schema": "{"}, "json_schema does not compile"),
        ({"json_schema": {"type": "boat"}}, "json_schema does not compile"),
        ({"choices": []}, "choices are a list of texts"),
        ({"choices": "yes"}, "choices are a list of texts"),
        ({"regex": "a", "choices": ["a"]}, "a text has one form"),
        ({"regex": "a", "num_beams": 2}, "beam search keeps to no form"),
    ],
)
def test_forms_that_are_refused(form, message, generate):
    with pytest.raises(InputError, match=message) as caught:
        generate("The river", max_new_tokens=4, **form)
    assert "\n" not in str(caught.value)
