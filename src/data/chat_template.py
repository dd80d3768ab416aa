"""Renders chat templates for mpilora, as transformers' apply_chat_template (5.24) renders them.

mpilora starts this text once for a whole input (python3 -c) and talks to it over one socket, standard input: frames of four bytes of length, big-endian, and so
many bytes of JSON. The first frame is the set-up, each one after it a conversation; each is answered by one frame, {"error": ...} where it fails. A template is
foreign code: it runs in jinja2's immutable sandbox without a loader, in a process that can write no file, with bounds on memory and output for good and on
processor time for each conversation. Past that the template ends with an error, which names its line; where no error reaches it, the kernel ends the process.
"""

import sys

sys.path = [folder for folder in sys.path if folder]  # no module comes from the working directory

import contextlib
import datetime
import json
import os
import re
import resource
import signal
import struct
import traceback

try:
    import jinja2
    import jinja2.ext
    import jinja2.sandbox
except ImportError as error:
    jinja2, missing = None, error

LATER = 2  # seconds after which the kernel ends what an error has not ended
TRIAL = 1  # seconds for a part of a conversation that was too slow, and for the set-up's example
REASONING = ("reasoning_content", "thinking", "reasoning")  # names of one thing; the first is what templates read


def receive():
    """The next frame, or None at the end."""

    def read(count):
        data = b""
        while len(data) < count:
            part = os.read(0, min(count - len(data), 1 << 20))
            if not part:
                return None
            data += part
        return data

    head = read(4)
    body = read(struct.unpack(">I", head)[0]) if head else None
    return json.loads(body) if body is not None else None


def send(answer):
    body = json.dumps(answer, ensure_ascii=False).encode("utf-8", "surrogatepass")
    data = memoryview(struct.pack(">I", len(body)) + body)
    while data:
        data = data[os.write(0, data) :]


def bound(setup):
    """For good: memory, files, core dumps. Processor time is bounded anew for each conversation."""
    resource.setrlimit(resource.RLIMIT_AS, (setup["memory_bytes"],) * 2)
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (0, 0))


class TooSlow(Exception):
    """The template has used up its processor time."""


def allow_seconds(seconds):
    """So much processor time from now on, then TooSlow; a single call that takes longer hears nothing of it, and the kernel ends the process. 0: no bound any more."""

    def tell(number, frame):
        raise TooSlow(f"it needs more than {seconds} s of processor time")

    signal.signal(signal.SIGVTALRM, tell)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    signal.setitimer(signal.ITIMER_PROF, seconds and seconds + LATER)  # SIGPROF ends what does not heed it


class Template:
    """A compiled template with transformers' environment around it."""

    def __init__(self, text, setup):
        self.blocks, self.spans, self.most = [], [], setup["output_bytes"]
        self.now = datetime.datetime.fromisoformat(setup["now"])
        self.dated = False
        self.marks = re.search(r"\{\%-?\s*generation\s*-?\%\}", text) is not None
        self.compiled = self.environment().from_string(text)

    def environment(self):
        template = self

        class Generation(jinja2.ext.Extension):
            """{% generation %}...{% endgeneration %}: what the assistant says, by characters of the text so far."""

            tags = {"generation"}

            def parse(self, parser):
                line = next(parser.stream).lineno
                body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
                return jinja2.nodes.CallBlock(self.call_method("mark"), [], [], body).set_lineno(line)

            def mark(self, caller):
                text = caller()
                start = len("".join(template.blocks))
                template.spans.append((start, start + len(text)))
                return text

        def raise_exception(message):
            raise jinja2.exceptions.TemplateError(message)

        def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
            return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

        def strftime_now(form):
            template.dated = True
            return template.now.strftime(form)

        class Dict:
            def __call__(self, *args, **kwargs):
                return dict(*args, **kwargs)

            def fromkeys(self, *args, **kwargs):
                return dict.fromkeys(*args, **kwargs)

        class Namespace(jinja2.utils.Namespace):
            def __init__(*args, **kwargs):
                self, args = args[0], args[1:]
                values = dict(*args, **kwargs)
                for name in values:
                    Namespace.check(name)
                jinja2.utils.Namespace.__init__(self, values)

            def __setitem__(self, name, value):
                Namespace.check(name)
                jinja2.utils.Namespace.__setitem__(self, name, value)

            @staticmethod
            def check(name):
                if isinstance(name, str) and name.startswith("_"):
                    raise jinja2.exceptions.SecurityError(f"a namespace has no attribute {name!r}: none begins with an underscore")

        made = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
        made.filters["tojson"] = tojson
        made.globals.update(raise_exception=raise_exception, strftime_now=strftime_now, dict=Dict(), namespace=Namespace)
        return made

    def render(self, variables):
        """The text; self.spans has what {% generation %} marked."""
        self.blocks.clear()
        self.spans.clear()
        size = 0
        for block in self.compiled.generate(**variables):
            self.blocks.append(block)
            size += len(block)
            if size > self.most:
                raise ValueError(f"more than {self.most} characters of text come out of the template")
        return "".join(self.blocks)


def tidy(message):
    """A message as apply_chat_template hands it on: no key whose value is null, reasoning under all of its names."""
    message = {key: value for key, value in message.items() if value is not None}
    reasoning = next((message[key] for key in REASONING if message.get(key) is not None), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def describe(error):
    """One line: the template's line where it is known, and what went wrong."""
    line = getattr(error, "lineno", None)
    for frame, at in traceback.walk_tb(error.__traceback__):
        line = at if frame.f_code.co_filename == "<template>" else line
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, jinja2.exceptions.SecurityError):
        text = "the sandbox forbids it: " + text
    elif isinstance(error, MemoryError):
        text = "it needs more memory than it is allowed"
    return f"line {line} of the template: {text}" if line else text


def takes_parts(template, variables):
    """Whether the template reads a content that is a list of parts; one that does not is given their joined text."""
    words = "the text of a part"
    message = {"role": "user", "content": [{"type": "text", "text": words}]}
    allow_seconds(TRIAL)
    with contextlib.suppress(Exception):
        text = template.render({**variables, "messages": [message], "tools": None, "documents": None, "add_generation_prompt": False})
        return words in text and "'text'" not in text and '"text"' not in text
    return False


def join_parts(message):
    content = message.get("content")
    if isinstance(content, list):
        message = {**message, "content": "".join(part["text"] for part in content)}
    return message


def find_message(template, variables, messages):
    """Where the template begins to fail: the number of the first message with which it does."""
    low, high = 1, len(messages)
    while low < high:
        middle = (low + high) // 2
        allow_seconds(TRIAL)
        try:
            template.render({**variables, "messages": messages[:middle], "add_generation_prompt": False})
            low = middle + 1
        except Exception:
            high = middle
    return low


def to_bytes(text, spans):
    return [[len(text[:at].encode("utf-8", "surrogatepass")) for at in span] for span in spans]


def render_all(template, tokens, request, parts):
    """The text of a conversation, what of it is marked, and its beginnings: each by a number of messages and whether the prompt of an answer follows; null for
    one that fails."""
    messages = [tidy(message) for message in request["messages"]]
    if not parts:
        messages = [join_parts(message) for message in messages]
    variables = {**tokens, "documents": None, **request["variables"], "tools": request["tools"]}
    template.dated = False
    try:
        text = template.render({**variables, "messages": messages, "add_generation_prompt": request["prompt"]})
    except Exception as error:
        return {"error": describe(error), "message": find_message(template, variables, messages)}
    answer = {"text": text, "marks": template.marks, "spans": to_bytes(text, template.spans), "beginnings": []}
    for count, prompt in request["beginnings"][: 1 if template.marks else None]:
        beginning = None
        try:
            beginning = template.render({**variables, "messages": messages[:count], "add_generation_prompt": prompt})
        except TooSlow as error:
            return {"error": describe(error), "message": max(1, count)}
        except Exception:  # the template refuses it
            pass
        answer["beginnings"].append(beginning)
    answer["dated"] = template.dated
    return answer


def answer_of(template, setup, request, parts):
    """Within the time that a conversation has."""
    try:
        allow_seconds(setup["cpu_seconds"])
        answer = render_all(template, setup["tokens"], request, parts)
        allow_seconds(0)
        return answer
    except TooSlow as error:  # between two renderings
        return {"error": describe(error), "message": len(request["messages"])}


def main():
    setup = receive()
    if setup is None:
        return
    if jinja2 is None:
        send({"error": f"{sys.executable} has no jinja2, which renders chat templates ({missing}); install python3-jinja2"})
        return
    try:
        allow_seconds(setup["cpu_seconds"])
        bound(setup)
        plain = Template(setup["template"], setup)
        with_tools = Template(setup["tool_template"], setup) if "tool_template" in setup else plain
    except Exception as error:
        send({"error": describe(error)})
        return
    parts = {template: takes_parts(template, setup["tokens"]) for template in (plain, with_tools)}
    allow_seconds(0)
    send({})
    while (request := receive()) is not None:
        template = with_tools if request["tools"] is not None else plain
        send(answer_of(template, setup, request, parts[template]))


main()
