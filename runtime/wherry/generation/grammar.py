"""Text that must have a form: JSON of a schema, a regular expression, a grammar or one of some choices.

llguidance tells before each token which ones keep to the form, so that what comes out always does.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wherry.errors import InputError
from wherry_tokenization import Tokenizer

Array = np.ndarray[Any, Any]
FORMS = ("json_schema", "regex", "lark", "choices")


class Vocabulary:
    """A model's tokens as a grammar sees them; made once, for it takes a moment."""

    def __init__(self, tokenizer: Tokenizer, size: int, ends: Sequence[int]) -> None:
        """Look at the tokens.

        Args:
            size: how many logits the model gives.
            ends: tokens that end a text.

        Raises:
            InputError: llguidance is not installed, or the model tells no token that ends a text.
        """
        try:
            import llguidance
        except ImportError as error:
            raise InputError("a form for the text needs llguidance: pip install 'wherry[cpu,grammar]'") from error
        if not ends:
            raise InputError("a form for the text needs a token that ends it, which this model does not tell")
        self.size, self.matcher = size, llguidance.LLMatcher
        self.tokens = llguidance.LLTokenizer(tokenizer.to_json(), n_vocab=size, eos_token=list(ends))


class Grammar:
    """A form that texts must have."""

    def __init__(self, vocabulary: Vocabulary, **form: Any) -> None:
        """Compile it.

        Args:
            form: one of `json_schema` (a mapping, or its JSON), `regex`, `lark` (a grammar in llguidance's variant of
                Lark's language) and `choices` (a list of texts).

        Raises:
            InputError: none or several of them, or one that does not compile.
        """
        if len(form) != 1 or set(form) - set(FORMS):
            raise InputError(f"a text has one form: give one of {', '.join(FORMS)}")
        (name, value), self.vocabulary = form.popitem(), vocabulary
        matcher = vocabulary.matcher
        try:
            if name == "json_schema":
                schema = value if isinstance(value, str) else json.dumps(value)
                # without white space that could go on for ever
                self.text = matcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False})
            elif name == "lark":
                self.text = matcher.grammar_from_lark(value)
            else:
                self.text = matcher.grammar_from_regex(_choices(value) if name == "choices" else value)
            problem = matcher.validate_grammar(self.text, vocabulary.tokens)
        except (TypeError, ValueError) as error:
            problem = str(error)
        if problem:
            raise InputError(f"{name} does not compile: {' '.join(problem.split())[:200]}")

    def start(self) -> "Constraint":
        """Begin a text."""
        return Constraint(self.vocabulary, self.text)


class Constraint:
    """What may come next in one text."""

    def __init__(self, vocabulary: Vocabulary, grammar: str) -> None:
        self.matcher = vocabulary.matcher(vocabulary.tokens, grammar)
        self.size = vocabulary.size

    def allow(self, scores: Array) -> None:
        """Rule out, in place, the tokens that would break the form: float32 (vocabulary,)."""
        bits = np.frombuffer(self.matcher.compute_bitmask(), np.uint8)
        scores[np.unpackbits(bits, bitorder="little")[: len(scores)] == 0] = -np.inf

    def accept(self, token: int) -> None:
        """Go on with a token.

        Raises:
            InputError: the grammar asks for more work than llguidance does.
        """
        if not self.matcher.consume_token(token):
            raise InputError(f"the form cannot be kept to: {' '.join(self.matcher.get_error().split())[:200]}")

    @property
    def complete(self) -> bool:
        """Whether nothing may follow."""
        return bool(self.matcher.is_stopped())


def _choices(value: Any) -> str:
    if isinstance(value, str | Mapping) or not value or not all(isinstance(each, str) and each for each in value):
        raise TypeError("choices are a list of texts that are not empty")
    return "|".join(re.escape(each) for each in value)
