"""Chat templates with the features of those that models ship, written for these tests, and conversations to render by them. cli/test_chats.py looks at what mpilora makes of
them; interop/check_chats.py compares with transformers."""

import json
import os
import random
import subprocess
import sys

TOKENS = ["<|im_start|>", "<|im_end|>", "<|begin|>", "<|head|>", "<|/head|>", "<|eot|>", "<turn>", "</turn>", "[INST]", "[/INST]", "<s>", "</s>", "<|end|>", "<think>", "</think>",
          "<|channel|>", "<|message|>", "<|return|>", "<tool_call>", "</tool_call>"]

# A default system message, tools as JSON, calls and answers of tools, several of which share a turn.
CHATML = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "# Tools\\n" }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n<|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}{%- set tool_call = tool_call.function %}{%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' + tool_call.name + '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

MARKED = """{% for message in messages %}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' %}
{% generation %}{{ message.content }}<|im_end|>
{% endgeneration %}
{%- else %}
{{ message.content + '<|im_end|>\\n' }}
{%- endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

HEADERS = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system_message = "" %}{%- endif %}
{{- "<|head|>system<|/head|>\\n\\nToday Date: " + date_string + "\\n\\n" + system_message + "<|eot|>" }}
{%- for message in messages %}
    {{- '<|head|>' + message['role'] + '<|/head|>\\n\\n' + message['content'] | trim + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|head|>assistant<|/head|>\\n\\n' }}{%- endif %}
"""

# The thoughts of all but the last turn are left out.
THINKS = """{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string %}
        {%- set ns.multi_step_tool = false %}{%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}{%- else %}{%- set content = '' %}{%- endif %}
    {%- if message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}{%- set reasoning_content = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or (not loop.last and reasoning_content)) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}{{- '<|im_start|>' + message.role + '\\n' + content }}{%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- else %}{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
"""

# The system's text goes into the first turn; roles alternate, or the template refuses.
TURNS = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}{%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}{%- set first_user_prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}{%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}{%- set first_user_prefix = "" -%}{%- set loop_messages = messages -%}{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}{%- endif -%}
    {%- if (message['role'] == 'assistant') -%}{%- set role = "model" -%}{%- else -%}{%- set role = message['role'] -%}{%- endif -%}
    {{ '<turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}{{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}{%- if item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}{%- endfor -%}
    {%- else -%}{{ raise_exception("Invalid content type") }}{%- endif -%}
    {{ '</turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{'<turn>model\\n'}}{%- endif -%}
"""

# The system's text goes into the last message where that is the user's, else nowhere.
INSTRUCTS = """{%- if messages[0]["role"] == "system" %}{%- set system_message = messages[0]["content"] %}{%- set loop_messages = messages[1:] %}
{%- else %}{%- set loop_messages = messages %}{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}{{- "[INST]" + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}{{- "[INST]" + message["content"] + "[/INST]" }}{%- endif %}
    {%- elif message["role"] == "assistant" %}{{- message["content"] + eos_token }}
    {%- else %}{{- raise_exception("Only user and assistant roles are supported, with the exception of an initial optional system message!") }}{%- endif %}
{%- endfor %}
"""

# The end of text stands behind the last message, and is gone when more follows.
ENDS = """{% for message in messages %}{% if message['role'] == 'system' %}{{'<|head|>system\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'user' %}{{'<|head|>user\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'assistant' %}{{'<|head|>assistant\\n' + message['content'] + '<|end|>\\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|head|>assistant\\n' }}{% else %}{{ eos_token }}{% endif %}"""

# The prompt of an answer has what the answer itself has not; thoughts are left out.
REASONS = """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=false, system_prompt='') %}{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}{%- if message['role'] == 'user' %}{{'[INST]' + message['content']}}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] is not none %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{'[/INST]' + content + '</s>'}}{%- endif %}{%- endfor -%}{% if add_generation_prompt %}{{'[/INST]<think>\\n'}}{% endif %}"""

# Channels; the last answer ends with another token than earlier ones; macros, dictsort, break.
CHANNELS = """{%- for key, value in {'b': 1.5, 'a': [true, none, 1e16]} | dictsort %}{%- if loop.index > 1 %}{% break %}{% endif %}{{ key ~ value }}{% endfor -%}
{%- macro turn(role, text, end) -%}<|im_start|>{{ role }}<|message|>{{ text }}{{ end }}{%- endmacro -%}
{%- for message in messages -%}
    {%- if message.role == 'assistant' -%}
        {%- if message.thinking is defined and loop.last %}{{ "<|im_start|>assistant<|channel|>analysis<|message|>" + message.thinking + "<|end|>" }}{% endif -%}
        {{- "<|im_start|>assistant<|channel|>final<|message|>" + message.content }}{% if loop.last and not add_generation_prompt %}<|return|>{% else %}<|end|>{% endif -%}
    {%- else -%}{{ turn(message.role, message.content, '<|end|>') }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant{%- endif -%}"""

TEMPLATES = {"chatml": CHATML, "marked": MARKED, "headers": HEADERS, "thinks": THINKS, "turns": TURNS, "instructs": INSTRUCTS, "ends": ENDS, "reasons": REASONS, "channels": CHANNELS}
CONFIG = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": {"content": "<|endoftext|>", "__type": "AddedToken"}, "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 10**30}


def need_jinja2():
    """Ends the test as skipped where the Python that is to render templates has no jinja2."""
    os.environ.setdefault("MPILORA_PYTHON", sys.executable)  # mpiexec puts its own folder before PATH, where another Python may be
    if subprocess.run([os.environ["MPILORA_PYTHON"], "-c", "import jinja2"], capture_output=True).returncode:
        print("jinja2 is not here: skipped")
        sys.exit(77)


def make_tokenizer(source, folder, template=None):
    """The golden byte-level BPE with the special tokens of these templates; returns how many tokens it has."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(source, "tests", "golden", "tokenizer", "gpt2", "tokenizer.json")) as file:
        tokenizer = json.load(file)
    first = 1 + max(token["id"] for token in tokenizer["added_tokens"])
    like = tokenizer["added_tokens"][0]
    tokenizer["added_tokens"] += [{**like, "id": first + i, "content": text} for i, text in enumerate(TOKENS)]
    with open(os.path.join(folder, "tokenizer.json"), "w") as file:
        json.dump(tokenizer, file)
    write_config(os.path.join(folder, "tokenizer_config.json"), template)
    return first + len(TOKENS)


def write_config(path, template):
    with open(path, "w") as file:
        json.dump({**CONFIG, **({"chat_template": template} if template else {})}, file)


WORDS = ["river", "the sea", "Runs ", "\n\n", "  two blanks", "été", "日本", "🙂", '"quoted"', "{{ braces }}", "</p>", "a\tb", "1,234.5", "\\n", "'s", "end.\n"]


def make_text(draw):
    text = " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, 6))).strip("\n")
    return text if text.strip() else "x"


def make_conversation(draw, name):
    """Of the kind that a template accepts: system or not, one to four turns, sometimes thoughts, tools, parts."""
    messages = [{"role": "system", "content": make_text(draw)}] if draw.random() < 0.4 else []
    for _ in range(draw.randint(1, 4)):
        content = make_text(draw)
        if name == "turns" and draw.random() < 0.3:
            content = [{"type": "text", "text": content}]
        messages.append({"role": "user", "content": content})
        answer = {"role": "assistant", "content": make_text(draw)}
        if name in ("thinks", "reasons") and draw.random() < 0.4:
            answer["content"] = f"<think>\n{make_text(draw)}\n</think>\n\n{answer['content']}"
        if name in ("thinks", "channels") and draw.random() < 0.2:
            answer["reasoning"] = make_text(draw)
        if name == "chatml" and draw.random() < 0.3:
            call = {"type": "function", "function": {"name": "look", "arguments": {"at": make_text(draw), "n": draw.choice([1, 2.5, 1e16, None, True])}}}
            messages.append({"role": "assistant", "content": draw.choice([None, "", "so:"]), "tool_calls": [call]})
            messages += [{"role": "tool", "content": make_text(draw)} for _ in range(draw.randint(1, 2))]
        messages.append(answer)
    whole = {"messages": messages}
    if name == "chatml" and draw.random() < 0.4:
        whole["tools"] = [{"type": "function", "function": {"name": "look", "description": "Sees <what> & where", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}}]
    return whole


def make_conversations(name, count, seed=1):
    draw = random.Random(f"{seed} {name}")
    return [make_conversation(draw, name) for _ in range(count)]
