"""Chat templates render as transformers renders them, and hostile ones are stopped."""

import json
import time
from datetime import datetime

import pytest
from tokenizers import Tokenizer as Rust
from tokenizers import models
from transformers import AutoTokenizer

from tokenization.templates import PARTS, PLAIN, STYLES, TOOLS, WITH_TOOL_CALLS
from wherry_tokenization import ChatTemplateError, Tokenizer

HI = [{"role": "user", "content": "Hi"}]
SECONDS = 20
"""Of processor time: far more than any of these templates is allowed, far less than they would take."""

CONTINUED = [*HI, {"role": "assistant", "content": "The boat is"}]
DOCUMENTS = [
    {"title": "Boats & ships", "text": "A wherry is light.", "score": 0.5},
    {"text": "它很轻。\nIt floats.", "tags": {"b": [1, None], "a": "é"}},
]


@pytest.fixture
def chat_folder(tmp_path):
    """A folder of a tokenizer of three words, with the given chat templates."""

    def make(chat_template=None, files=None, **config):
        words = {"<s>": 0, "</s>": 1, "<unk>": 2}
        Rust(models.WordLevel(words, unk_token="<unk>")).save(str(tmp_path / "tokenizer.json"))
        names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **names, **config}
        if chat_template is not None:
            config["chat_template"] = chat_template
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        for path, content in (files or {}).items():
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_text(content, encoding="utf-8")
        return tmp_path

    return make


@pytest.fixture
def write(chat_folder):
    """Render with a template that is written on the spot."""

    def render(template, messages=HI, **settings):
        return Tokenizer.load(chat_folder(template)).apply_chat_template(messages, **settings)

    return render


def expected(reference, messages, template=None, **settings):
    """What transformers renders. A list of messages is one conversation, never a batch."""
    add_generation_prompt = settings.pop("add_generation_prompt", not settings.get("continue_final_message"))
    return reference.apply_chat_template(
        messages,
        tokenize=False,
        chat_template=template,
        add_generation_prompt=add_generation_prompt,
        **settings,
    )


def assert_renders_alike(folder, messages, template=None, **settings):
    prompt = Tokenizer.load(folder).apply_chat_template(messages, template=template, **settings)
    assert prompt == expected(AutoTokenizer.from_pretrained(folder), messages, template, **settings)
    return prompt


@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("conversation", PLAIN)
def test_smollm2s_own_template(load, load_reference, conversation, add_generation_prompt):
    messages = PLAIN[conversation]
    prompt = load("smollm2").apply_chat_template(messages, add_generation_prompt=add_generation_prompt)
    assert prompt == expected(load_reference("smollm2"), messages, add_generation_prompt=add_generation_prompt)
    assert prompt.count("<|im_start|>") >= len(messages)


def test_smollm2_continues_a_message(load, load_reference):
    prompt = load("smollm2").apply_chat_template(CONTINUED, continue_final_message=True)
    assert prompt == expected(load_reference("smollm2"), CONTINUED, continue_final_message=True)
    assert prompt.endswith("The boat is")


@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("conversation", PLAIN)
@pytest.mark.parametrize("style", STYLES)
def test_plain_conversations(chat_folder, style, conversation, add_generation_prompt):
    settings = {"add_generation_prompt": add_generation_prompt, "date_string": "1 May 2025"}
    assert_renders_alike(chat_folder(STYLES[style]), PLAIN[conversation], **settings)


@pytest.mark.parametrize("style", ["llama 3", "mistral", "qwen 2.5", "types by recursion"])
def test_tools(chat_folder, style):
    folder = chat_folder(STYLES[style])
    for messages in (HI, WITH_TOOL_CALLS):
        prompt = assert_renders_alike(folder, messages, tools=TOOLS, date_string="1 May 2025")
        assert "get_weather" in prompt
    assert_renders_alike(folder, HI, tools=[], date_string="1 May 2025")


def test_documents(chat_folder):
    prompt = assert_renders_alike(chat_folder(STYLES["documents"]), HI, documents=DOCUMENTS)
    assert "Document: 1 of 2" in prompt


def test_content_in_parts(chat_folder):
    assert "<start_of_image>" in assert_renders_alike(chat_folder(STYLES["gemma"]), PARTS)


@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("enable_thinking", [True, False, None])
def test_variables_reach_the_template(chat_folder, enable_thinking, add_generation_prompt):
    settings = {"enable_thinking": enable_thinking, "add_generation_prompt": add_generation_prompt}
    assert_renders_alike(chat_folder(STYLES["reasoning"]), PLAIN["several turns"], **settings)
    prompt = assert_renders_alike(
        chat_folder("{{ nested.list[1].name }} {{ eos_token }}"), HI, nested={"list": [1, {"name": "x"}]}
    )
    assert prompt == "x </s>"


def test_variables_win_over_special_tokens(chat_folder):
    folder = chat_folder("{{ bos_token }}{{ image_token }}{{ sep_token }}", image_token="<image>")
    assert assert_renders_alike(folder, HI) == "<s><image>"
    assert assert_renders_alike(folder, HI, bos_token="[BOS]") == "[BOS]<image>"


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_under_any_name(chat_folder, key):
    messages = [*HI, {"role": "assistant", "content": "Yes.", key: "Let me think."}]
    for template in (STYLES["reasoning"], "{{ messages[-1].thinking }}", "{{ messages[-1] | tojson }}"):
        assert "Let me think." in assert_renders_alike(chat_folder(template), messages)


def test_the_date(chat_folder, monkeypatch):
    class LeapDay(datetime):
        @classmethod
        def now(cls):
            return cls(2028, 2, 29, 23, 59, 58)

    monkeypatch.setattr("wherry_tokenization.sandbox.datetime", LeapDay)
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", LeapDay)
    folder = chat_folder(STYLES["llama 3"])
    assert "Today Date: 29 Feb 2028" in assert_renders_alike(folder, HI)
    assert assert_renders_alike(chat_folder("{{ strftime_now('%Y-%m-%d %H:%M:%S') }}"), HI) == "2028-02-29 23:59:58"


@pytest.mark.parametrize("style", ["chatml", "llama 3", "gemma", "qwen 2.5", "reasoning", "generation tags", "mistral"])
@pytest.mark.parametrize("text", ["The boat is", " spaces around  ", "line\n", "a [INST] b", "", "CONTINUE"])
def test_continuing_the_final_message(chat_folder, style, text):
    messages = [*HI, {"role": "assistant", "content": text}]
    prompt = assert_renders_alike(
        chat_folder(STYLES[style]), messages, continue_final_message=True, date_string="1 May 2025"
    )
    assert prompt.rstrip().endswith(text.strip())


def test_continuing_a_part(chat_folder):
    assert assert_renders_alike(chat_folder(STYLES["gemma"]), PARTS, continue_final_message=True).endswith("A boat.")


NAMED = {
    "default": "default {{ messages[0].content }}",
    "tool_use": "tools {{ tools | length }}",
    "rag": "documents {{ documents | length }}",
}


@pytest.mark.parametrize("place", ["list in the config", "files", "files and an ignored config"])
def test_named_templates(chat_folder, place):
    listed = [{"name": name, "template": template} for name, template in NAMED.items()]
    files = {"chat_template.jinja": NAMED["default"]} | {
        f"additional_chat_templates/{name}.jinja": NAMED[name] for name in ("tool_use", "rag")
    }
    folder = {
        "list in the config": lambda: chat_folder(listed),
        "files": lambda: chat_folder(files=files),
        "files and an ignored config": lambda: chat_folder("ignored", files),
    }[place]()
    assert Tokenizer.load(folder).chat_template_names == ("default", "rag", "tool_use")
    assert assert_renders_alike(folder, HI) == "default Hi"
    assert assert_renders_alike(folder, HI, tools=TOOLS) == "tools 2"
    assert assert_renders_alike(folder, HI, tools=[]) == "tools 0"
    assert assert_renders_alike(folder, HI, "rag", documents=DOCUMENTS) == "documents 2"
    assert assert_renders_alike(folder, HI, "default", tools=TOOLS) == "default Hi"
    with pytest.raises(
        ChatTemplateError, match="no chat template named 'other'; choose one of: default, rag, tool_use"
    ):
        Tokenizer.load(folder).apply_chat_template(HI, template="other")


def test_a_file_wins_over_the_config(chat_folder):
    folder = chat_folder("from the config", {"chat_template.jinja": "from the file: é\n{{ messages[0].role }}\n"})
    assert assert_renders_alike(folder, HI) == "from the file: é\nuser"


def test_without_a_template(chat_folder):
    tokenizer = Tokenizer.load(chat_folder())
    assert tokenizer.chat_template_names == ()
    with pytest.raises(ChatTemplateError, match="has no chat template; pass plain text instead of messages"):
        tokenizer.apply_chat_template(HI)


def test_without_a_default_the_name_must_be_given(chat_folder):
    tokenizer = Tokenizer.load(chat_folder([{"name": "rag", "template": "text"}]))
    with pytest.raises(ChatTemplateError, match="no chat template named 'default'; choose one of: rag"):
        tokenizer.apply_chat_template(HI)


def test_messages_are_left_as_they_are(chat_folder):
    messages = [*HI, {"role": "assistant", "content": [{"type": "text", "text": "A"}], "name": None}]
    before = json.dumps(messages)
    tokenizer = Tokenizer.load(chat_folder("{{ messages[-1].content[0].text }}"))
    assert tokenizer.apply_chat_template(messages, continue_final_message=True) == "A"
    assert json.dumps(messages) == before


def test_long_conversations_are_not_stopped(chat_folder):
    """A template that looks at every earlier message again, on a long conversation with long messages."""
    chat = [{"role": ("user", "assistant")[i % 2], "content": f"{i} " + "word " * 400} for i in range(301)]
    for style in ("chatml", "mistral", "reasoning", "qwen 2.5"):
        assert_renders_alike(chat_folder(STYLES[style]), chat)
    assert_renders_alike(chat_folder(STYLES["chatml"]), [{"role": "user", "content": "长" * 2_000_000}])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (STYLES["llama 2"], "refuses this conversation: Conversation roles must alternate"),
        ("{{ raise_exception('one\nline\n\nonly') }}", "refuses this conversation: one line only"),
        ("{{ missing.attribute }}", "refuses this conversation: 'missing' is undefined"),
        ("{{ messages[0].content + 1 }}", "fails on this conversation: TypeError: "),
        ("{{ 1 / 0 }}", "fails on this conversation: ZeroDivisionError: "),
        ("{{ messages | tojson(indent='x'.join) }}", "on this conversation: "),
        ("{% for %}", "cannot be used: "),
        ("{{ 'a' | no_such_filter }}", "cannot be used: No filter named 'no_such_filter'"),
        ("{{ 'a' is no_such_test }}", "cannot be used: No test named 'no_such_test'"),
        ("{% include 'other' %}", r"cannot be used: the statement include is not allowed \(line 1\)"),
        ("{% extends 'other' %}", "cannot be used: the statement extends is not allowed"),
        ("\n{% import 'other' as other %}", r"cannot be used: the statement import is not allowed \(line 2\)"),
        ("{{ '" + "(" * 5000 + "' }}" + "{{" + "(" * 5000, "cannot be used: "),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "cannot be used: "),
        ("{% if 1 %}" * 3000 + "{% endif %}" * 3000, "cannot be used: "),
        ("x" * 300_000, "has 300000 characters; more than 262144 are refused"),
    ],
)
def test_what_a_template_cannot_do_is_one_line(write, template, message):
    conversation = [*HI, *HI]
    with pytest.raises(ChatTemplateError, match=message) as caught:
        write(template, conversation)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


ENDLESS = {
    "repeated text": "{{ 'a' * 10**9 }}",
    "repeated list": "{% set x = [0] * 10**9 %}{{ x | length }}",
    "repetition from the right": "{{ 10**9 * 'a' }}",
    "repetition step by step": "{% set x = 'a' * 1000 %}{% set x = x * 1000 %}{% set x = x * 1000 %}{{ x }}",
    "nested ranges": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "nested ranges with conditions": "{% for a in range(99999) if range(99999) | sum > 0 %}{% endfor %}",
    "loops that filter": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "doubling text": "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "doubling text by ~": "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "doubling lists": "{% set n = namespace(x=[0]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "lists of themselves": (
        "{% set n = namespace(x=[0]) %}{% for i in range(64) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}"
    ),
    "lists of themselves as JSON": (
        "{% set n = namespace(x=[0]) %}{% for i in range(64) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | tojson }}"
    ),
    "lists of themselves compared": (
        "{% set n = namespace(x=[0], y=[0]) %}{% for i in range(64) %}{% set n.x = [n.x, n.x] %}"
        "{% set n.y = [n.y, n.y] %}{% endfor %}{{ n.x == n.y }}"
    ),
    "recursion macro": "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "recursion macro of bounded depth": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
    ),
    "recursive loop": (
        "{% for x in [range(60)] recursive %}{% if loop.depth < 60 %}{{ loop([x, x]) }}{% endif %}{% endfor %}"
    ),
    "call blocks": "{% macro f(n) %}{{ caller() }}{{ caller() }}{% endmacro %}"
    + "{% call f(1) %}" * 40
    + "a"
    + "{% endcall %}" * 40,
    "replace bomb": "{% set x = 'a' * 1000 %}{{ x.replace('', x).replace('', x).replace('', x) }}",
    "replace filter bomb": "{% set x = 'a' * 1000 %}{{ x | replace('a', x) | replace('a', x) | replace('a', x) }}",
    "join bomb": "{% set x = 'a' * 10000 %}{% set l = [x] * 10000 %}{{ l | join(x) | length }}",
    "join method bomb": "{% set x = 'a' * 10000 %}{{ x.join(x).join(x) | length }}",
    "join of a range": "{{ range(99999) | join('a' * 99999) | length }}",
    "join of a map": "{% set x = 'a' * 99999 %}{{ range(99999) | map('replace', '', x) | join | length }}",
    "indent bomb": "{% set x = '\n' * 100000 %}{{ (x | indent(99, blank=true) | indent(99, blank=true)) | length }}",
    "many sorts": "{% set x = range(99999) | list %}{% for i in range(99999) %}{{ (x | sort)[0] }}{% endfor %}",
    "many searches": (
        "{% set x = 'a' * 500000 + 'b' %}{% for i in range(99999) %}{{ x.find('ab') }}{{ 'c' in x }}{% endfor %}"
    ),
    "many slices": "{% set x = 'a' * 500000 %}{% for i in range(99999) %}{% set y = x[::-1] %}{% endfor %}",
    "quadratic counting": "{% set x = 'a' * 900000 %}{{ x.count(x[:450000] + 'b') }}",
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_endless_templates_are_stopped_soon(write, kind):
    start = time.process_time()
    with pytest.raises(ChatTemplateError) as caught:
        write(ENDLESS[kind])
    assert time.process_time() - start < SECONDS
    assert "\n" not in str(caught.value)


FORBIDDEN = {
    "class of a text": "{{ ''.__class__ }}{{ ''.__class__.__mro__ }}",
    "class of a list by subscript": "{{ [].__class__['__base__'] }}{{ []['__class__'] }}",
    "class by the attr filter": "{{ '' | attr('__class__') }}",
    "class by map": "{{ (['a'] | map(attribute='__class__') | first).__mro__ }}",
    "globals of a function": "{{ raise_exception.__globals__ }}{{ raise_exception.__globals__.os }}",
    "globals of a macro": "{% macro f() %}{% endmacro %}{{ f.__call__.__globals__ }}{{ f._func.__globals__ }}",
    "initializer of a namespace": "{{ namespace.__init__ }}{{ namespace.__init__.__globals__ }}",
    "attribute of a namespace": "{% set n = namespace(__class__='x') %}{{ n.x }}",
    "attribute set on a namespace": "{% set n = namespace() %}{% set n.__class__ = dict %}{{ n.x }}",
    "self": "{{ self.__init__ }}{{ self._TemplateReference__context }}{{ self.x.y }}",
    "str.format": "{{ '{0.__class__}'.format(1) }}",
    "str.format wide": "{{ '{:>1000000000}'.format(1) }}",
    "str.format_map": "{{ '{a:>1000000000}'.format_map({'a': 1}) }}",
    "str.format by map": "{{ ['{0.__class__}'] | map('format', 1) | list }}",
    "format filter": "{{ '%1000000000d' | format(1) }}",
    "format operator": "{{ '%1000000000d' % 1 }}",
    "ljust": "{{ 'a'.ljust(1000000000) }}",
    "center": "{{ 'a'.center(1000000000) }}{{ 'a' | center(1000000000) }}",
    "zfill": "{{ 'a'.zfill(1000000000) }}",
    "expandtabs": "{{ '\t'.expandtabs(1000000000) }}",
    "translate": "{{ 'a'.translate({97: 'b'}) }}",
    "encode": "{{ 'a'.encode() }}",
    "big range": "{{ range(10**9) | list }}",
    "big powers": "{{ 10 ** (10 ** 10) }}",
    "big powers step by step": "{% set x = 2 ** 4000 %}{{ x * x * x }}",
    "powers of negative numbers": "{{ (-10) ** (10 ** 9) }}",
    "shifts by a method": "{{ (1).__lshift__(10**9) }}",
    "list.append": "{{ messages.append(1) }}",
    "dict.update": "{{ messages[0].update(x=1) }}",
    "dict.pop": "{{ messages[0].pop('role') }}",
    "lipsum": "{{ lipsum(1000000) }}",
    "cycler": "{{ cycler.__init__.__globals__.os }}",
    "pprint": "{{ messages | pprint }}",
    "wordwrap": "{{ 'a' | wordwrap(1) }}",
    "date of any length": "{{ strftime_now('%c' * 1000000) }}",
    "wide JSON": "{{ messages | tojson(indent=1000000000) }}",
    "wide indent": "{{ 'a\nb' | indent(1000000000) }}",
    "debugging": "{% debug %}",
}


@pytest.mark.parametrize("kind", FORBIDDEN)
def test_what_no_template_needs_is_refused(write, kind):
    start = time.process_time()
    with pytest.raises(ChatTemplateError) as caught:
        write(FORBIDDEN[kind])
    assert time.process_time() - start < SECONDS
    assert "\n" not in str(caught.value)


def test_python_attributes_print_as_nothing(chat_folder):
    """As every unknown attribute does; using one further is an error."""
    template = "{{ ''.__class__ }}{{ [].append }}{{ messages.__class__ }}{{ namespace.__init__ }}"
    assert assert_renders_alike(chat_folder(template), HI) == ""
    listed = "{{ ['a'] | map(attribute='__class__') | list }}"
    assert assert_renders_alike(chat_folder(listed), HI) == "[Undefined]"


def test_content_is_never_a_template(write):
    content = "{{ 'a' * 10**9 }}{% raw %}\\{{ ''.__class__ }}{0.__class__}%s"
    message = [{"role": "user", "content": content}]
    assert write("{{ messages[0].content }}", message) == content
    assert write("{{ messages[0]['content'] | upper }}", message) == content.upper()


def test_keys_of_messages_do_not_shadow_methods(chat_folder):
    messages = [{"role": "user", "content": "Hi", "items": "x", "get": "y", "__class__": "z"}]
    for template in ("{{ messages[0]['items'] }}{{ messages[0].role }}", "{{ messages[0]['__class__'] }}"):
        assert_renders_alike(chat_folder(template), messages)


class Rich(str):
    def secret(self):
        return "reached"


def test_objects_are_stripped_to_plain_values(write):
    message = [{"role": "user", "content": Rich("Hi")}]
    assert write("{{ messages[0].content }}", message) == "Hi"
    assert write("{{ messages[0].content.secret is defined }}", message) == "False"


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def circular():
    value = {}
    value["again"] = value
    return value


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (None, "messages is of type NoneType; pass a list such as"),
        ("Hi", "messages is of type str; pass a list such as"),
        (b"Hi", "messages is of type bytes"),
        (HI[0], "messages is of type dict"),
        (7, "messages is of type int"),
        (iter(HI), "messages is of type list_iterator"),
        ([], "messages is empty; pass at least one message"),
        (["Hi"], r"messages\[0\] is of type str; pass a dict with 'role' and 'content'"),
        ([*HI, None], r"messages\[1\] is of type NoneType"),
        ([HI], r"messages\[0\] is of type list"),
        ([{}], r"messages\[0\]\['role'\] is missing; pass a str such as 'user'"),
        ([{"content": "Hi"}], r"messages\[0\]\['role'\] is missing"),
        ([{"role": None, "content": "Hi"}], r"messages\[0\]\['role'\] is missing"),
        ([{"role": 3, "content": "Hi"}], r"messages\[0\]\['role'\] is of type int"),
        ([{"role": "user"}], r"messages\[0\]\['content'\] is missing; pass a str or a list of parts"),
        ([{"role": "user", "content": None}], r"messages\[0\]\['content'\] is missing"),
        ([*HI, {"role": "user", "content": 5}], r"messages\[1\]\['content'\] is of type int"),
        ([{"role": "user", "content": {"text": "Hi"}}], r"messages\[0\]\['content'\] is of type dict"),
        ([{"role": "user", "content": ["Hi"]}], r"messages\[0\]\['content'\]\[0\] is of type str; pass a dict"),
        ([{"role": "user", "content": b"Hi"}], r"messages\[0\]\['content'\] holds a bytes; pass only"),
        ([{"role": "user", "content": "Hi", "at": object()}], r"messages\[0\]\['at'\] holds a object"),
        ([{"role": "user", "content": "Hi", "at": nested(10**5)}], r"\['at'\] is nested too deeply"),
        ([{"role": "user", "content": "Hi", "at": circular()}], r"\['at'\] is nested too deeply, or holds itself"),
    ],
)
def test_bad_messages_are_named_in_one_line(write, messages, message):
    with pytest.raises(ChatTemplateError, match=message) as caught:
        write("{{ messages[0].content }}", messages)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tools": [print]}, "the arguments holds a builtin_function_or_method"),
        ({"documents": [object()]}, "the arguments holds a object"),
        ({"anything": {1, 2}}, "the arguments holds a set"),
        ({"anything": circular()}, "the arguments is nested too deeply, or holds itself"),
    ],
)
def test_bad_arguments_are_named_in_one_line(write, settings, message):
    with pytest.raises(ChatTemplateError, match=message) as caught:
        write("{{ anything }}", **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "messages", "message"),
    [
        ("{{ messages[0].content }}", CONTINUED, "changes the final message, so it cannot be continued"),
        ("{{ messages[-1].content | upper }}", CONTINUED, "changes the final message"),
        ("{{ messages[-1].content }}", [{"role": "user", "content": [{"type": "image"}]}], "no text to continue"),
        ("{{ messages[-1].content }}", [{"role": "user", "tool_calls": []}], "no text to continue"),
    ],
)
def test_what_cannot_be_continued(write, template, messages, message):
    with pytest.raises(ChatTemplateError, match=message):
        write(template, messages, continue_final_message=True)


@pytest.mark.parametrize("tail", ["\ud83d", "ok \udce9"])
def test_lone_surrogates_pass_through_the_template(write, tail):
    assert write("{{ messages[0].content }}", [{"role": "user", "content": tail}]) == tail
