"""Run a template that nobody has vouched for, so that it neither reaches Python nor runs on without end.

Knows nothing of chats. Jinja's sandbox keeps templates from Python's internals; on top of it every loop turn,
call, filter, comparison and operator spends from a `Meter` before it runs. Work is counted, not timed, so a
template with the same input always ends the same way.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_context

from wherry_tokenization.errors import ChatTemplateError
from wherry_tokenization.filters import metered_filters, metered_tests, pay_for_method
from wherry_tokenization.meter import Meter, WorkExhausted
from wherry_tokenization.rewrite import GLANCE, TICK, WEIGH, PayingTransformer

_MOST_SOURCE = 262_144
_MOST_BITS = 4096
_MOST_DATE_FORMAT = 200
_FAILURES = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)


class LimitedTemplate:
    """A compiled template. `label` names it in errors."""

    def __init__(self, source: str, label: str) -> None:
        self._label = label
        if len(source) > _MOST_SOURCE:
            raise ChatTemplateError(f"{label} has {len(source)} characters; more than {_MOST_SOURCE} are refused")
        try:
            self._template = _ENVIRONMENT.from_string(source)
        except (TemplateError, SyntaxError, *_FAILURES) as exc:
            raise ChatTemplateError(f"{label} cannot be used: {_one_line(exc)}") from exc

    def render(self, variables: Mapping[str, Any], units: int) -> str:
        """The text, if writing it takes no more than `units` of work."""
        context = self._template.new_context(dict(variables))
        assert isinstance(context, MeteredContext)
        context.meter = Meter(units)
        try:
            return "".join(self._template.root_render_func(context))
        except WorkExhausted as exc:
            raise ChatTemplateError(
                f"{self._label} does more work than a prompt takes; it may never end, so it was stopped"
            ) from exc
        except TemplateError as exc:
            raise ChatTemplateError(f"{self._label} refuses this conversation: {_one_line(exc)}") from exc
        except _FAILURES as exc:
            reason = f"{type(exc).__name__}: {_one_line(exc)}"
            raise ChatTemplateError(f"{self._label} fails on this conversation: {reason}") from exc


class MeteredContext(Context):
    """What a render knows, its meter included."""

    meter: Meter


class _Environment(ImmutableSandboxedEnvironment):
    context_class = MeteredContext
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = PayingTransformer().visit(super()._parse(source, name, filename))
        assert isinstance(tree, nodes.Template)
        return tree

    def wrap_str_format(self, value: Any) -> None:
        """Leave str.format as it is, a method that `call` refuses."""

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        assert isinstance(context, MeteredContext)
        context.meter.spend(4)
        owner = getattr(obj, "__self__", None)
        if owner is not None:
            pay_for_method(context.meter, owner, obj.__name__, (*args, *kwargs.values()))
        result = super().call(context, obj, *args, **kwargs)
        context.meter.glance(result)
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        assert isinstance(context, MeteredContext)
        _pay_for_operator(context.meter, operator, left, right)
        return super().call_binop(context, operator, left, right)


class _Generation(Extension):
    """`{% generation %}` marks what the assistant said; here it only groups statements."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Namespace(Namespace):
    """A namespace whose names cannot reach Python's own attributes."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # a template may well name an attribute `self`
        self, *rest = args
        names = dict(*rest, **kwargs)
        for name in names:
            _refuse_private(name)
        Namespace.__init__(self, names)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace attribute named {name!r:.80} is not allowed")


def _pay_for_operator(meter: Meter, operator: str, left: Any, right: Any) -> None:
    if operator == "%" and isinstance(left, str):
        raise SecurityError("formatting text with % is not allowed")
    sized, count = (right, left) if isinstance(right, str | list | tuple) else (left, right)
    if operator == "+":
        meter.glance(left)
        meter.glance(right)
    elif operator == "*" and isinstance(sized, str | list | tuple) and isinstance(count, int):
        meter.spend(len(sized) * max(count, 0))
    elif isinstance(left, int) and isinstance(right, int) and operator in ("*", "**"):
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        if bits > _MOST_BITS:
            raise SecurityError(f"a number of {bits} bits is not allowed")


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(date_format: str) -> str:
    if len(date_format) > _MOST_DATE_FORMAT:
        raise SecurityError(f"a date format of {len(date_format)} characters is not allowed")
    return datetime.now().strftime(date_format)


def _make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


@pass_context
def _paid_output(context: MeteredContext, value: Any) -> Any:
    context.meter.weigh(value)
    return value


@pass_context
def _glance(context: MeteredContext, value: Any) -> Any:
    context.meter.glance(value)
    return value


@pass_context
def _tick(context: MeteredContext, units: int) -> bool:
    context.meter.spend(units)
    return True


def _one_line(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:300]


def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=(_Generation, "jinja2.ext.loopcontrols"),
        finalize=_paid_output,
    )
    environment.filters.clear()
    environment.filters.update({**metered_filters(), TICK: _tick, GLANCE: _glance, WEIGH: _paid_output})
    environment.tests.update(metered_tests())
    environment.globals = {
        "range": environment.globals["range"],
        "dict": _make_dict,
        "namespace": _Namespace,
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
    }
    return environment


_ENVIRONMENT = _environment()
