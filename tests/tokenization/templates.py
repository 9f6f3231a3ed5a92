"""Chat templates in the styles of well-known model families, and conversations that each of them can write.

None is taken from a model: each uses the constructs that its family's templates use.
"""

from typing import Any

CHATML = """\
{%- for message in messages -%}
    {%- if loop.first and message['role'] != 'system' -%}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
    {%- endif -%}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

LLAMA_2 = """\
{% if messages[0]['role'] == 'system' %}
{% set loop_messages = messages[1:] %}
{% set system_message = messages[0]['content'] %}
{% else %}
{% set loop_messages = messages %}
{% set system_message = false %}
{% endif %}
{% for message in loop_messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{% endif %}
{% if loop.index0 == 0 and system_message != false %}
{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}
{% else %}
{% set content = message['content'] %}
{% endif %}
{% if message['role'] == 'user' %}
{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
{% elif message['role'] == 'assistant' %}
{{ ' '  + content.strip() + ' ' + eos_token }}
{% endif %}
{% endfor %}
"""

LLAMA_3 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {{- "You have access to the following functions.\\n\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim }}
        {{- '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, roles must alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id|length != 9 %}
                {{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}
            {%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
            {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" + eos_token }}{%- endif %}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- elif message["role"] == "tool" %}
        {%- if message.content is defined and message.content.content is defined %}
            {%- set content = message.content.content %}
        {%- else %}
            {%- set content = message.content %}
        {%- endif %}
        {{- '[TOOL_RESULTS] {"content": ' + content|string + ", " }}
        {{- '"call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported!") }}
    {%- endif %}
{%- endfor %}
"""

GEMMA = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\\n'}}
{%- endif -%}
"""

QWEN_2_5 = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are a helpful assistant.' }}
    {%- endif %}
    {{- "\\n\\n# Tools\\n\\nYou may call one or more functions.\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first)
            or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

REASONING = """\
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user"
            and not (message.content.startswith('<r>') and message.content.endswith('</r>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content or '' %}
    {%- if message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is defined and message.reasoning_content is not none %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index or loop.last %}
            {{- '<|assistant|>\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' }}
            {{- content.lstrip('\\n') }}
        {%- else %}
            {{- '<|assistant|>\\n' + content }}
        {%- endif %}
        {{- eos_token }}
    {%- else %}
        {{- '<|%s|>\\n'|replace('%s', message.role) ~ content ~ eos_token }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

GENERATION_TAGS = """\
{%- for message in messages %}
{%- if message.role == 'assistant' %}
<|assistant|>
{% generation %}
{{ message.content }}{{ eos_token }}
{% set inside = 'written inside' %}
{% endgeneration %}
{%- else %}
<|{{ message.role }}|>
{{ message.content }}
{% endif %}
{%- endfor %}
{{ inside is defined }}
{% if add_generation_prompt %}
<|assistant|>
{%- generation -%}
{%- endgeneration -%}
{% endif %}"""

DOCUMENTS = """\
{{ bos_token }}{% if documents %}{{ '<results>' }}
{% for document in documents %}
Document: {{ loop.index0 }} of {{ documents | count }}
{% for key, value in document.items() | sort %}
{{ key | capitalize }}: {{ value if value is string else value | tojson(sort_keys=true, separators=(',', ':')) }}
{% endfor %}
{% if not loop.last %}

{% endif %}
{% endfor %}{{ '</results>' }}
{% endif %}
{%- for message in messages %}{{ message.role | upper }}: {{ message.content }}
{% endfor %}
{%- if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"""

TYPES_BY_RECURSION = """\
{%- macro type_of(spec, depth=0) -%}
    {%- if spec.enum is defined -%}
        {{ spec.enum | map('tojson') | join(' | ') }}
    {%- elif spec.type == 'object' -%}
        { {%- for name, inner in (spec.properties or {}).items() %}
{{ '  ' * (depth + 1) }}{{ name }}{{ '' if name in (spec.required or []) else '?' }}: {{ type_of(inner, depth + 1) }},
        {%- endfor %}
{{ '  ' * depth }}}
    {%- elif spec.type == 'array' -%}
        {{ type_of(spec['items'], depth) }}[]
    {%- elif spec.type is sequence and spec.type is not string -%}
        {{ spec.type | join(' | ') }}
    {%- else -%}
        {{ spec.type | default('any') }}
    {%- endif -%}
{%- endmacro -%}
{%- macro framed(role) -%}
<|start|>{{ role }}<|message|>{{ caller() | indent(2) }}<|end|>
{% endmacro -%}
{%- if tools -%}
namespace functions {
{% for tool in tools %}
{% set function = tool.function %}
// {{ function.description | default('no description', true) }}
type {{ function.name }} = (_: {{ type_of(function.parameters) }}) => any;
{% endfor %}
}
{% endif -%}
{%- for message in messages -%}
    {%- if message.role == 'tool' %}{% continue %}{% endif -%}
    {%- call framed(message.role) -%}
        {{ message.content or message.tool_calls | map(attribute='function.name') | join(', ') }}
    {%- endcall -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}"""

CORNERS = """\
{#- A comment, blocks, filters and loop variables. -#}
{% set heading %}
{{ messages | length }} messages, {{ messages | map(attribute='role') | unique | list }}
{% endset %}
{{ heading | trim }}
{% for message in messages %}
    {% if loop.index > 3 %}{% break %}{% endif %}
{{ loop.index }}/{{ loop.length }} {{ loop.revindex0 }} {{ loop.cycle('odd', 'even') }} {{ loop.changed(message.role) }}
{{ loop.previtem.role if loop.previtem is defined else 'start' }}
{{ loop.nextitem.role if loop.nextitem is defined else 'end' }}
{{ message.role.title() }}: {{ message.content[:40] | replace('\\n', ' ') | default('nothing', true) }}
{{ message.items() | list | tojson }}
{{ (message.content ~ 1 ~ none ~ true ~ 2.5)[-12:] }}
{% else %}
none
{% endfor %}
{% filter upper %}{{ messages[-1].role }} ends{% endfilter %}

{{ messages | selectattr('role', 'in', ['user', 'tool']) | rejectattr('tool_calls', 'defined') | list | length }}
{{ messages | groupby('role') | map('first') | join(',') }}
{{ range(1, 10, 3) | list }} {{ (7 // 2, 7 / 2, 7 % 4, 2 ** 5, -3 | abs) }} {{ [1, 2] + [3] }} {{ 3 * [0] }}
{{ dict(a=1, **{'b': 'ä<&>"'}) | tojson }} {{ {'b': 1, 'a': 2} | dictsort }} {{ 'x' in {'x': 1} }}
{{ undefined_name }}{{ undefined_name is defined }} {{ messages[0].nothing is none }}
{{ 'no' if not messages[0].nothing }}
{% if 1 < messages | length <= 4 and 'user' == messages[0].role %}short{% endif %}
{% set ns = namespace(total=0, words=[]) %}
{% for message in messages if message.content is string and message.content %}
{% set ns.total = ns.total + message.content | length %}
{% set ns.words = ns.words + [message.content.split() | first] %}
{% endfor %}
{{ ns.total }} {{ ns.words | join('+') }} {{ ns.words | last }}"""

STYLES = {
    "chatml": CHATML,
    "llama 2": LLAMA_2,
    "llama 3": LLAMA_3,
    "mistral": MISTRAL,
    "gemma": GEMMA,
    "qwen 2.5": QWEN_2_5,
    "reasoning": REASONING,
    "generation tags": GENERATION_TAGS,
    "documents": DOCUMENTS,
    "types by recursion": TYPES_BY_RECURSION,
    "corners": CORNERS,
}

Messages = list[dict[str, Any]]

PLAIN: dict[str, Messages] = {
    "one question": [{"role": "user", "content": "What is a wherry?"}],
    "several turns": [
        {"role": "user", "content": "  Hi, “there”!\n"},
        {"role": "assistant", "content": "Hello <b>& welcome</b>.\n\n"},
        {"role": "user", "content": "我是一个人工智能模型 🚣\t{{ not }} {% a template %}"},
        {"role": "assistant", "content": "<think>\nReally?\n</think>\n\nYes."},
        {"role": "user", "content": "Und nun?"},
    ],
    "system first": [
        {"role": "system", "content": " Be brief. \n"},
        {"role": "user", "content": "Why <|im_end|> is 'it' \"so\"?"},
        {"role": "assistant", "content": "It is."},
        {"role": "user", "content": ""},
    ],
    "values that are None": [
        {"role": "user", "content": "Hi", "name": None, "tool_calls": None},
        {"role": "assistant", "content": "Hello", "tool_calls": None},
    ],
}

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city, e.g. “Zürich”.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Its name"},
                    "unit": {"enum": ["celsius", "fahrenheit"]},
                    "days": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer"}}}},
                    "limit": {"type": ["number", "null"]},
                },
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]

WITH_TOOL_CALLS: Messages = [
    {"role": "user", "content": "How warm is it in Zürich?"},
    {
        "role": "assistant",
        "tool_calls": [
            {
                "id": "abcDEF123",
                "type": "function",
                "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": [1, 2.5, True, None]}},
            }
        ],
    },
    {"role": "tool", "name": "get_weather", "tool_call_id": "abcDEF123", "content": '{"warm": "<21°>"}'},
    {"role": "assistant", "content": "21 degrees."},
    {"role": "user", "content": "Thanks!"},
]

PARTS: Messages = [
    {"role": "system", "content": [{"type": "text", "text": "You see."}]},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " What is this? "}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A boat."}]},
]
