"""The filters, tests and methods that chat templates use, each paying for its work before it runs.

Knows nothing of compiling or rendering. What is not named here, a template cannot use.
"""

import json
from collections.abc import Callable, Sized
from types import GeneratorType
from typing import Any, Protocol, cast

from jinja2 import Environment
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS, do_indent, make_attrgetter
from jinja2.nodes import EvalContext
from jinja2.runtime import LoopContext
from jinja2.tests import TESTS
from jinja2.utils import pass_context

from wherry_tokenization.meter import Meter

_GLANCING_FILTERS = (
    "count", "d", "default", "first", "items", "last", "length", "map", "reject", "rejectattr", "reverse",
    "select", "selectattr",
)  # fmt: skip
_READING_FILTERS = (
    "abs", "capitalize", "dictsort", "e", "escape", "float", "forceescape", "groupby", "int", "list", "lower",
    "max", "min", "safe", "sort", "string", "title", "trim", "unique", "upper",
)  # fmt: skip
_READING_TESTS = (
    "==", "eq", "equalto", "!=", "ne", ">", "gt", "greaterthan", ">=", "ge", "<", "lt", "lessthan", "<=",
    "le", "in", "lower", "upper",
)  # fmt: skip
_METHODS: dict[type, tuple[str, ...]] = {
    str: (
        "capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii",
        "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "join", "lower",
        "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition",
        "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title", "upper",
    ),
    dict: ("get", "items", "keys", "values"),
    list: ("count", "index"),
    tuple: ("count", "index"),
    LoopContext: ("changed", "cycle"),
}  # fmt: skip
_MOST_INDENT = 100


class MeteredContext(Protocol):
    """What a filter is told of the render it belongs to."""

    meter: Meter
    environment: Environment
    eval_ctx: EvalContext


def pay_for_method(meter: Meter, owner: Any, name: str, args: tuple[Any, ...]) -> None:
    """Refuse a method that no template needs; spend for any other."""
    kind = next((kind for kind in _METHODS if isinstance(owner, kind)), None)
    if kind is None or name not in _METHODS[kind]:
        raise SecurityError(f"the method {name} of {type(owner).__name__} is not allowed")
    asked = sum(meter.weigh(arg) for arg in args)
    if kind in (str, list, tuple):
        meter.spend(meter.weigh(owner) * asked)
    if name == "replace" and len(args) > 1:
        _pay_for_replace(meter, owner, str(args[0]), str(args[1]))
    elif name == "join" and isinstance(args[0], Sized):
        meter.write(len(owner) * len(args[0]))
    elif name in ("split", "rsplit", "splitlines"):
        meter.spend(owner.count(args[0]) if args and isinstance(args[0], str) and args[0] else len(owner) // 8)


def metered_filters() -> dict[str, Callable[..., Any]]:
    """The filters by name."""
    own: dict[str, Callable[..., Any]] = {
        "indent": _indent,
        "join": _join,
        "replace": _replace,
        "tojson": _tojson,
    }
    glancing = {name: _metered_filter(FILTERS[name], Meter.glance) for name in _GLANCING_FILTERS}
    reading = {name: _metered_filter(FILTERS[name], Meter.weigh) for name in _READING_FILTERS}
    return glancing | reading | own


def metered_tests() -> dict[str, Callable[..., Any]]:
    """The tests by name that read their values; the others look at the type alone."""
    return {name: _metered_test(cast(Callable[..., Any], TESTS[name])) for name in _READING_TESTS}


def _metered_filter(function: Callable[..., Any], pay: Callable[[Meter, Any], int]) -> Callable[..., Any]:
    passed = getattr(function, "jinja_pass_arg", None)
    kind = None if passed is None else passed.name

    def run(context: MeteredContext, value: Any, *args: Any, **kwargs: Any) -> Any:
        meter = context.meter
        meter.spend(pay(meter, value) * sum(pay(meter, option) for option in (*args, *kwargs.values())))
        told: dict[str | None, tuple[Any, ...]] = {
            None: (),
            "context": (context,),
            "eval_context": (context.eval_ctx,),
            "environment": (context.environment,),
        }
        result = function(*told[kind], value, *args, **kwargs)
        return meter.counted(result) if isinstance(result, GeneratorType) else result

    return pass_context(run)


def _metered_test(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(context: MeteredContext, *values: Any) -> Any:
        for value in values:
            context.meter.weigh(value)
        return function(*values)

    return pass_context(run)


@pass_context
def _indent(context: MeteredContext, value: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    if isinstance(width, int) and width > _MOST_INDENT:
        raise SecurityError(f"an indent of {width} is not allowed")
    context.meter.weigh(value)
    lines = value.count("\n") + 1
    context.meter.write(lines * (len(width) if isinstance(width, str) else width))
    return do_indent(value, width, first, blank)


@pass_context
def _join(context: MeteredContext, value: Any, d: str = "", attribute: str | int | None = None) -> str:
    items = list(value)
    if attribute is not None:
        items = list(map(make_attrgetter(context.environment, attribute), items))
    context.meter.weigh(items)
    context.meter.write(len(items) * len(str(d)))
    return str(d).join(map(str, items))


@pass_context
def _replace(context: MeteredContext, value: Any, old: str, new: str, count: int = -1) -> str:
    context.meter.weigh(value)
    text = str(value)
    _pay_for_replace(context.meter, text, str(old), str(new))
    return text.replace(str(old), str(new), count)


@pass_context
def _tojson(
    context: MeteredContext,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers has it: without the escapes for HTML that Jinja's own adds."""
    if indent is not None and indent > _MOST_INDENT:
        raise SecurityError(f"an indent of {indent} is not allowed")
    units = context.meter.weigh(value)
    around = (indent or 0) * _depth(value) + sum(map(len, separators or ()))
    context.meter.write(units * around)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _pay_for_replace(meter: Meter, text: str, old: str, new: str) -> None:
    meter.weigh(old)
    meter.write(len(text) + text.count(old) * len(new))


def _depth(value: Any) -> int:
    """How deep lists and objects lie in one another."""
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list | tuple):
        return 1 + max(map(_depth, value), default=0)
    return 0
