"""Conversations: what the templates of chat_cases.py make of them and which tokens carry loss; every shape that a line may have; templates that fail, loop, or reach for what
the sandbox forbids."""

import json
import math
import os
import random
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import chat_cases
from harness import PROGRAM, SOURCE, Checks, mpilora, start, write_config, write_safetensors

MODEL = "family: llama\nlayers: 1\nwidth: 16\nmlp_width: 32\nheads: 2\nkv_heads: 1\nhead_dim: 8\nvocab: {}\ncontext: 4096\n"
SIZE = 421  # tokens
TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Hi "}, {"role": "assistant", "content": "One"}, {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nTwo"}]
# What is printed of TALK, its targets marked, and whether its last answer alone is one.
EXPECTED = {
    "chatml": ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\n⟦One<|im_end|>\n⟧<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n"
               "⟦<think>\nhm\n</think>\n\nTwo<|im_end|>\n⟧", False),
    "marked": ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\n⟦One<|im_end|>\n⟧<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n"
               "⟦<think>\nhm\n</think>\n\nTwo<|im_end|>\n⟧", False),
    "headers": ("<s><|head|>system<|/head|>\n\nToday Date: 02 Jan 2026\n\nBe brief.<|eot|><|head|>user<|/head|>\n\nHi<|eot|><|head|>assistant<|/head|>\n\n⟦One<|eot|>⟧<|head|>user<|/head|>\n\n"
                "And?<|eot|><|head|>assistant<|/head|>\n\n⟦<think>\nhm\n</think>\n\nTwo<|eot|>⟧", False),
    "thinks": ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\nOne<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n"
               "⟦<think>\nhm\n</think>\n\nTwo<|im_end|>\n⟧", True),
    "turns": ("<s><turn>user\nBe brief.\n\nHi</turn>\n<turn>model\n⟦One</turn>\n⟧<turn>user\nAnd?</turn>\n<turn>model\n⟦<think>\nhm\n</think>\n\nTwo</turn>\n⟧", False),
    "instructs": ("<s>[INST] Hi [/INST]One</s>[INST]And?[/INST]⟦<think>\nhm\n</think>\n\nTwo</s>⟧", True),
    "ends": ("<|head|>system\nBe brief.<|end|>\n<|head|>user\n Hi <|end|>\n<|head|>assistant\nOne<|end|>\n<|head|>user\nAnd?<|end|>\n<|head|>assistant\n"
             "⟦<think>\nhm\n</think>\n\nTwo<|end|>\n</s>⟧", True),
    "reasons": ("<s>Be brief.[INST] Hi [/INST]One</s>[INST]And?[/INST]⟦\n\nTwo</s>⟧", True),
    "channels": ("a[True, None, 1e+16]<|im_start|>system<|message|>Be brief.<|end|><|im_start|>user<|message|> Hi <|end|><|im_start|>assistant<|channel|>final<|message|>One<|end|>"
                 "<|im_start|>user<|message|>And?<|end|><|im_start|>assistant⟦<|channel|>final<|message|><think>\nhm\n</think>\n\nTwo<|return|>⟧", True),
}

check = Checks()


def make_model(folder):
    """A Hugging Face directory of a tiny Llama around the tokenizer that lies there."""
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
              "num_key_value_heads": 1, "head_dim": 8, "vocab_size": SIZE, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True}
    with open(f"{folder}/config.json", "w") as file:
        json.dump(config, file)
    layer = {"self_attn.q_proj": (16, 16), "self_attn.k_proj": (8, 16), "self_attn.v_proj": (8, 16), "self_attn.o_proj": (16, 16), "mlp.gate_proj": (32, 16), "mlp.up_proj": (32, 16),
             "mlp.down_proj": (16, 32), "input_layernorm": (16,), "post_attention_layernorm": (16,)}
    shapes = {"embed_tokens": (SIZE, 16), "norm": (16,), **{f"layers.0.{name}": shape for name, shape in layer.items()}}
    draw = random.Random(1)
    tensors = {f"model.{name}.weight": (shape, struct.pack(f"<{math.prod(shape)}f", *(draw.gauss(0, 0.2) for _ in range(math.prod(shape))))) for name, shape in shapes.items()}
    write_safetensors(f"{folder}/model.safetensors", tensors)


def tokenize(line, template="chatml.json", *options, code=0, says="", env=None, base="base.h5"):
    """A file of one line, or of a list of them: its report. On another exit code, or without `says` in what it says, a fault."""
    lines = line if isinstance(line, list) else [line]
    with open("in.jsonl", "w") as file:
        file.writelines(json.dumps(each) + "\n" for each in lines)
    words = ["tokenize", "--base", base, *(["--chat-template", template] if template else []), "--date", "2026-01-02", *options, "in.jsonl", "out.h5"]
    done = subprocess.run([PROGRAM, *words], text=True, capture_output=True, timeout=120, env={**os.environ, **(env or {})})
    about = f"{template} {json.dumps(line)[:200]}"
    check.that(done.returncode == code, f"{about}: exit code {done.returncode}, expected {code}: {done.stderr}")
    check.that(says in done.stdout + done.stderr, f"{about}: says nothing of {says!r}: {done.stdout}{done.stderr}")
    check.that(not code or done.stderr.count("\n") == 1, f"{about}: not one line of error: {done.stderr}")
    return done.stdout + done.stderr


def example(report):
    """The conversation that the report shows."""
    text = report.split("its targets between ⟦ and ⟧:\n", 1)[-1]
    return text.split("\nwarning:")[0].split("warning:")[0].removesuffix("\n")


def inspect(path):
    return json.loads(subprocess.run([PROGRAM, "inspect", path, "--json"], text=True, capture_output=True, timeout=120, check=True).stdout)


def content():
    with open("out.h5", "rb") as file:
        return file.read()


def test_templates():
    for name, (text, last_only) in EXPECTED.items():
        report = tokenize({"messages": TALK}, f"{name}.json")
        check.that(example(report) == text, f"{name}: {example(report)!r}, expected {text!r}")
        check.that(("their last answer alone" in report) == last_only, f"{name}: the last answer alone: not {last_only}: {report}")
        tokenize({"messages": TALK}, f"{name}.json", "--loss", "all", **({"code": 3, "says": "line 1: message 3 (assistant)"} if last_only else {}))
    report = tokenize({"messages": TALK}, "chatml.json", "--loss", "last")
    check.that(example(report).count("⟦") == 1 and "⟦<think>" in report, f"--loss last: {report}")
    tokenize({"messages": TALK}, "headers.json", says="writes the date: 2026-01-02")
    check.that(inspect("out.h5").get("chat_date") == "2026-01-02T00:00:00", f"a data set with a date: {inspect('out.h5')}")
    tokenize({"messages": TALK}, "chatml.json")
    check.that("chat_date" not in inspect("out.h5"), f"a data set without a date: {inspect('out.h5')}")
    tokenize({"messages": TALK}, "instructs.json", says="the first: line 1, message 1 (system)")
    tokenize({"messages": TALK}, "plain.jinja", says="1 of 1 conversations have no token that ends an answer")


def test_shapes():
    plain = TALK[:4] + [{"role": "assistant", "content": "Two"}]
    tokenize({"messages": plain})
    expected = content()
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    same = {
        "ShareGPT": {"conversations": [{"from": names[each["role"]], "value": each["content"]} for each in plain]},
        "parts": {"messages": [{**each, "content": [{"type": "text", "text": each["content"][:2]}, {"type": "text", "text": each["content"][2:]}]} for each in plain]},
        "null keys": {"messages": [{**each, "tool_calls": None, "name": None} for each in plain]},
        "no tools": {"messages": plain, "tools": None, "chat_template_kwargs": None, "system": "", "documents": None},
    }
    for name, line in same.items():
        tokenize(line)
        check.that(content() == expected, f"{name}: another data set than that of messages")
    report = tokenize({"prompt": plain[:4], "completion": plain[4:]})
    check.that(example(report).count("⟦") == 1 and "⟦Two<|im_end|>" in report, f"prompt and completion: {report}")
    report = tokenize({"prompt": plain[:4], "completion": plain[4:]}, "marked.json")
    check.that(example(report).count("⟦") == 1 and "⟦Two<|im_end|>" in report, f"prompt and completion, blocks: {report}")
    tools = [{"type": "function", "function": {"name": "look"}}]
    tokenize({"messages": plain, "tools": tools}, says='{"type": "function", "function": {"name": "look"}}\n<|im_end|>')
    expected = content()
    tokenize({"messages": plain, "tools": json.dumps(tools)})
    check.that(content() == expected, "tools as a text: another data set than as a list")
    tokenize({"messages": plain, "tools": tools}, "plain.jinja", says="1 conversations have tools that the template leaves out; the first: line 1")
    call = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {}}}]}
    tokenize({"messages": [*plain, TALK[1], call]}, "plain.jinja", says="the first: line 1, message 7 (assistant)")
    check.that("leaves out" not in tokenize({"messages": [*plain, TALK[1], call], "tools": tools}), "a template that writes tools and calls is said to leave them out")
    tokenize({"messages": plain, "tools": tools}, "named.json", says="with tools")
    tokenize({"messages": plain}, "named.json", says="<|im_start|>")
    tokenize({"messages": TALK, "chat_template_kwargs": {"date_string": "a day"}}, "headers.json", says="Today Date: a day")
    tokenize({"messages": TALK, "chat_template_kwargs": {"documents": [{"text": "The sea."}]}}, "plain.jinja", says="### The sea.")
    mixed = tokenize([{"prompt": "the river", "completion": " runs"}, {"messages": plain}, {"text": "to the sea"}])
    check.that("3 sequences" in mixed and "1 conversations" in mixed, f"mixed lines: {mixed}")


def test_share_gpt():
    """What LLaMA-Factory's sets have beside ShareGPT's turns: a column of what the system says, tools as a text, functions that are called and named without an object around them."""
    plain = [{"from": {"user": "human", "assistant": "gpt"}[each["role"]], "value": each["content"]} for each in TALK[1:4]] + [{"from": "gpt", "value": "Two"}]
    turns = [*TALK[1:4], {"role": "assistant", "content": "Two"}]
    look = {"name": "look", "description": "Sees", "parameters": {"type": "object", "properties": {}}}
    calls = [{"name": "look", "arguments": {"at": "the sea", "n": 1}}, {"name": "look", "arguments": {}}]
    functions = [{"type": "function", "function": call} for call in calls]
    called = [plain[0], {"from": "function_call", "value": json.dumps(calls[0])}, {"from": "observation", "value": "It is."}, {"from": "function_call", "value": json.dumps(calls)}, *plain[2:]]
    expected = [turns[0], {"role": "assistant", "tool_calls": functions[:1]}, {"role": "tool", "content": "It is."}, {"role": "assistant", "tool_calls": functions}, *turns[2:]]
    tools = [{"type": "function", "function": look}]
    for what, line, other in (
        ("system", {"conversations": plain, "system": "Be brief."}, {"messages": [TALK[0], *turns]}),
        ("system that says nothing", {"conversations": plain, "system": "", "tools": ""}, {"messages": turns}),
        ("system null", {"conversations": plain, "system": None, "tools": None}, {"messages": turns}),
        ("null beside a system message", {"conversations": [{"from": "system", "value": "Be brief."}, *plain], "system": None}, {"messages": [TALK[0], *turns]}),
        ("tools as a text", {"conversations": plain, "tools": json.dumps([look]), "system": "Be brief."}, {"messages": [TALK[0], *turns], "tools": tools}),
        ("tools with an object around", {"conversations": plain, "tools": json.dumps(tools)}, {"messages": turns, "tools": tools}),
        ("no tools", {"conversations": plain, "tools": "[]"}, {"messages": turns, "tools": []}),
        ("the first question once more", {"prompt": turns[0]["content"], "prompt_id": "7", "messages": [TALK[0], *turns]}, {"messages": [TALK[0], *turns]}),
        ("calls", {"conversations": called, "tools": [look]}, {"messages": expected, "tools": tools}),
        ("a call without weight", {"conversations": [{**each, "weight": 0} if each["from"] == "function_call" else each for each in called]}, {"messages": [{**each, "weight": 0} if "tool_calls" in each else each for each in expected]}),
    ):  # fmt: skip
        for threads in ("1", "3"):
            tokenize([other] * 5, env={"OMP_NUM_THREADS": threads})
            wanted = content()
            tokenize([line] * 5, env={"OMP_NUM_THREADS": threads})
            check.that(content() == wanted, f"ShareGPT, {what}, {threads} threads: another data set than that of messages")
    report = tokenize({"messages": turns, "tools": [look]})  # which transformers would hand on as they are
    check.that('\n{"name": "look", "description"' in report, f"tools of messages: {report}")
    for line, says in (
        ({"conversations": [{"from": "system", "value": "Be long."}, *plain], "system": "Be brief."}, '"system" stands beside message 1'),
        ({"conversations": [*plain[:2], {"from": "system", "value": "Be long."}, *plain[2:]], "system": "Be brief."}, '"system" stands beside message 3'),
        ({"conversations": plain, "system": ["Be brief."]}, '"system" is not a text'),
        ({"messages": turns, "system": "Be brief."}, "the system prompt as the first message"),
        ({"prompt": turns[:3], "completion": turns[3:], "system": "Be brief."}, '"system" changes what is trained'),
        ({"conversations": plain, "tools": "look"}, "tools"),
        ({"conversations": plain, "tools": '{"name": "look"}'}, '"tools" is not a list of objects'),
        ({"conversations": [plain[0], {"from": "function_call", "value": "look!"}]}, 'message 2: "value" of a function_call is no JSON'),
        ({"conversations": [plain[0], {"from": "function_call", "value": "[]"}]}, 'message 2: "value" of a function_call is no JSON'),
        ({"conversations": [plain[0], {"from": "function_call", "value": '{"arguments": {}}'}]}, 'message 2: "value" of a function_call is no JSON'),
        ({"conversations": plain, "chosen": "a", "rejected": "b"}, '"conversations" changes what is trained'),
    ):
        check.that("in.jsonl: line 2: " in tokenize([{"messages": TALK}, line], code=3, says=says), f"{line}: refused without its line")
    chat = ["generate", "--base", "base.h5", "--chat", "--chat-template", "chatml.json", "--precision", "fp32", "--json", "--max-new", "1", "--prompts", "share.jsonl"]
    for line, ending in (({"conversations": plain[:1], "system": "Be brief."}, "<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\n"), ({"prompt": "Hi", "system": "Be brief."}, None)):
        with open("share.jsonl", "w") as file:
            file.write(json.dumps(line) + "\n")
        for ranks in (0, 2):
            done = start(*chat, ranks=ranks)
            if ending:
                check.that(done.returncode == 0 and not done.stderr and json.loads(done.stdout)["prompt"] == "<|im_start|>system\nBe brief.<|im_end|>\n" + ending, f"generate with system, {ranks} ranks: {done.stdout}{done.stderr}")
            else:
                check.that(done.returncode == 3 and 'share.jsonl:1: "system" changes' in done.stderr, f"generate of a text with system, {ranks} ranks: {done.stdout}{done.stderr}")


def make_blanks_base(name, words, merges):
    """A base around a vocabulary whose words begin with their blank, whose decoder takes the first one away, and which spells by bytes what it lacks, as Llama 2's."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "\u2581", *words]
    added = [{"id": len(pieces) + i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} for i, text in enumerate(chat_cases.TOKENS[:2])]
    tokenizer = {
        "version": "1.0", "added_tokens": added, "pre_tokenizer": None, "post_processor": None,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "vocab": {piece: i for i, piece in enumerate(pieces)}, "merges": merges},
    }  # fmt: skip
    os.mkdir(name)
    with open(f"{name}/tokenizer.json", "w") as file:
        json.dump(tokenizer, file)
    with open(f"{name}.yaml", "w") as file:
        file.write(MODEL.format(len(pieces) + 2))
    mpilora("import", "--init", "random", "--config", f"{name}.yaml", "--tokenizer", name, f"{name}.h5")


def test_blanks():
    """A blank that begins an answer is a target, and the report has all blanks."""
    make_blanks_base("blanks", [], [])
    with open("answer.jinja", "w") as file:
        file.write("<|im_start|>{{ messages[0].content }}<|im_end|>{% if messages|length > 1 %}{{ messages[1].content }}<|im_end|>{% endif %}")
    for answer, targets in ((" a b", 6), ("a", 3), ("\nb", 4)):  # and the blank that the vocabulary puts before every text between special tokens
        shown = example(tokenize({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": answer}]}, "answer.jinja", base="blanks.h5", says=f"{targets} of "))
        check.that(shown == f"<|im_start|> Hi<|im_end|>⟦ {answer}<|im_end|>⟧", f"blanks: {shown!r}")


def test_borders():
    """A token that lies across the border of an answer is a target where characters are spelt by bytes, too; a blank of its own belongs to the side where it stands. As transformers' assistant_masks."""
    make_blanks_base("borders", ["a", "\u2581a"], [["\u2581", "a"]])
    with open("border.jinja", "w") as file:
        file.write("<|im_start|>{{ messages[0].content }}: {% generation %}{{ messages[1].content }}{% endgeneration %}<|im_end|>")
    for answer, shown, targets in (("a", "⟦ a⟧", 1), (" a", " ⟦ a⟧", 1), ("é\n", " ⟦é\n⟧", 3), (" é", " ⟦ é⟧", 3)):
        line = {"messages": [{"role": "user", "content": "é你"}, {"role": "assistant", "content": answer}]}
        got = example(tokenize(line, "border.jinja", base="borders.h5", says=f"{targets} of "))
        check.that(got == f"<|im_start|> é你:{shown}<|im_end|>", f"borders: {got!r}")


def test_weights():
    """An answer of weight 0 is context: the text is the same, its loss is not taken."""
    def weighed(first, second):
        return {"messages": [TALK[0], TALK[1], {**TALK[2], "weight": first}, TALK[3], {"role": "assistant", "content": "Two", "weight": second}]}

    for template in ("chatml.json", "marked.json", "headers.json"):
        for weights, options, marked in (((1, 1), (), ["One", "Two"]), ((None, 1.0), (), ["One", "Two"]), ((0, 1), (), ["Two"]), ((1, 0), (), ["One"]), ((1, 0), ("--loss", "last"), ["One"]), ((0, 1), ("--loss", "all"), ["Two"])):
            shown = example(tokenize(weighed(*weights), template, *options))
            found = [word for word in ("One", "Two") if "⟦" + word in shown]
            check.that(found == marked and "One" in shown and "Two" in shown, f"{template}, weights {weights} {options}: {shown}")
        tokenize(weighed(0, 0), template, code=3, says="but such of weight 0")
    shown = example(tokenize(weighed(0, 1), "thinks.json"))
    check.that(shown.count("⟦") == 1 and shown.index("One") < shown.index("⟦") < shown.index("Two"), f"a template that rewrites, the first of weight 0: {shown}")
    for wrong in (0.5, -1, "0", True):
        tokenize(weighed(1, wrong), "chatml.json", code=3, says='message 5: its "weight" is neither 0 nor 1')


def test_base():
    """The template that a base keeps, by a file of its own or in the configuration; --chat-template goes before it."""
    for name, config, jinja in (("kept", chat_cases.TURNS, None), ("own", chat_cases.MARKED, chat_cases.TURNS)):
        chat_cases.make_tokenizer(SOURCE, f"model-{name}", config)
        if jinja:
            with open(f"model-{name}/chat_template.jinja", "w") as file:
                file.write(jinja)
        make_model(f"model-{name}")
        mpilora("import", f"model-{name}", f"{name}.h5")
        check.that(inspect(f"{name}.h5").get("chat_template") == chat_cases.TURNS, f"{name}.h5: inspect shows {inspect(f'{name}.h5').get('chat_template')}")
        for template, case in ((None, "turns"), ("chatml.json", "chatml")):
            check.that(example(tokenize({"messages": TALK}, template, base=f"{name}.h5")) == EXPECTED[case][0], f"{name}.h5, --chat-template {template}: not the template {case}")
    os.mkdir("model-own/additional_chat_templates")  # where transformers saves templates with names
    with open("model-own/additional_chat_templates/tool_use.jinja", "w") as file:
        file.write(chat_cases.CHATML)
    mpilora("import", "model-own", "named.h5")
    tools = [{"type": "function", "function": {"name": "look"}}]
    shown = inspect("named.h5")
    check.that((shown.get("chat_template"), shown.get("chat_template_tool_use")) == (chat_cases.TURNS, chat_cases.CHATML), f"named.h5: inspect shows {shown}")
    check.that(example(tokenize({"messages": TALK}, None, base="named.h5")) == EXPECTED["turns"][0], "named.h5: without tools not its template")
    with_tools = example(tokenize({"messages": TALK, "tools": tools}, None, base="named.h5"))
    check.that(with_tools == example(tokenize({"messages": TALK, "tools": tools}, "chatml.json")) and '{"name": "look"}' in with_tools, f"named.h5: with tools not its template for them: {with_tools}")
    tokenize({"messages": TALK, "tools": tools}, "turns.json", base="named.h5", says="leaves out")  # --chat-template goes before both
    test_named_templates(tools)
    with open("bos.jinja", "w") as file:
        file.write("{{ bos_token }}|{{ pad_token }}|{% for m in messages %}{{ m.content }}{% endfor %}{{ eos_token }}")
    tokenize({"messages": TALK}, "bos.jinja", base="kept.h5", says="<s>|<|endoftext|>|Be brief.")


def test_named_templates(tools):
    """The forms of chat_template that transformers loads say the same: a list, as it writes them itself, and an object; what it cannot read is refused, by a line that says what is wrong, once a
    conversation needs it."""
    texts = {"default": chat_cases.TURNS, "tool_use": chat_cases.CHATML, "rag": 3}
    lists = [{"name": name, "template": text} for name, text in texts.items()]
    for name, form in (("list", lists), ("object", texts), ("no-tools", {"default": chat_cases.TURNS})):
        chat_cases.write_config(f"form-{name}.json", form)
        chat_cases.make_tokenizer(SOURCE, f"model-{name}", form)
        make_model(f"model-{name}")
        mpilora("import", f"model-{name}", f"{name}.h5")
        other = "turns" if name == "no-tools" else "chatml"
        for template, base in ((f"form-{name}.json", "base.h5"), (None, f"{name}.h5")):
            check.that(example(tokenize({"messages": TALK}, template, base=base)) == EXPECTED["turns"][0], f"chat_template as {name}, {base}: not its template")
            shown = example(tokenize({"messages": TALK, "tools": tools}, template, base=base))
            check.that(shown == example(tokenize({"messages": TALK, "tools": tools}, f"{other}.json")), f"chat_template as {name}, {base}, with tools: {shown}")
    check.that(inspect("object.h5").get("chat_template_tool_use") == chat_cases.CHATML, f"inspect object.h5: {inspect('object.h5')}")
    for i, (form, says) in enumerate((
        ({"tool_use": chat_cases.CHATML}, 'chat_template has no template of the name "default"'),
        ([{"name": "tool_use", "template": chat_cases.CHATML}], 'chat_template has no template of the name "default"'),
        ({}, 'chat_template has no template of the name "default"'),
        ({"default": 3}, 'the template "default" is not a text'),
        ({"default": chat_cases.CHATML, "tool_use": None}, 'the template "tool_use" is not a text'),
        ([{"name": "default"}], "an element of the list is not"),
        ([chat_cases.CHATML], "an element of the list is not"),
        (3, "chat_template is neither a text, nor a list"),
    )):  # fmt: skip
        with open("form.json", "w") as file:
            json.dump({**chat_cases.CONFIG, "chat_template": form}, file)
        check.that("form.json: chat_template" in tokenize({"messages": TALK}, "form.json", code=3, says=says), f"{form}: refused without its file")
        if i not in (0, 4):
            continue
        chat_cases.make_tokenizer(SOURCE, "model-bad", form)
        make_model("model-bad")
        mpilora("import", "model-bad", f"bad-{i}.h5")
        for line in ({"messages": TALK}, {"prompt": TALK[:2], "chosen": TALK[2:3], "rejected": TALK[4:]}):
            check.that("in.jsonl: line 1: " in tokenize(line, None, base=f"bad-{i}.h5", code=3, says=says), f"{form}: refused without its line")
        tokenize({"text": "the river"}, None, base=f"bad-{i}.h5")  # needs none
        check.that("chat_template" not in inspect(f"bad-{i}.h5"), f"inspect of a base whose template cannot be read: {inspect(f'bad-{i}.h5')}")
        for ranks in (0, 2):
            done = start("generate", "--base", f"bad-{i}.h5", "--chat", "--prompt", "Hi", ranks=ranks)
            check.that(done.returncode == 3 and f"bad-{i}.h5: has no chat template that can be read (tokenizer_config.json: " in done.stderr and says in done.stderr, f"generate --chat, {ranks} ranks: {done.stderr}")


def test_generate():
    """A chat goes on from what its template writes, on any number of ranks, up to the token that ends an answer."""
    prompt = "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    generate = ["generate", "--base", "base.h5", "--precision", "fp32", "--json"]
    chat, ended = [*generate, "--chat", "--chat-template", "chatml.json"], 0
    for seed in range(5):
        sampling = ["--max-new", "400", "--temperature", "3", "--seed", seed]
        plain = json.loads(mpilora(*generate, "--prompt", prompt, *sampling))
        found = json.loads(mpilora(*chat, "--prompt", "Hi", *sampling))
        check.that(found["prompt"] == prompt, f"generate --chat: the prompt is {found['prompt']!r}")
        check.that(found["output"] == plain["output"].split("<|im_end|>")[0], f"generate --chat, seed {seed}: {found['output']!r}, expected the beginning of {plain['output']!r}")
        ended += "<|im_end|>" in plain["output"]
    check.that(ended > 0, "no continuation has the token that ends an answer: nothing was compared")
    broken = 0
    for seed in range(3):  # answers that end within a letter, or have bytes of none, stay part of a conversation
        words = ["generate", "--base", "base.h5", "--chat", "--chat-template", "chatml.json", "--max-new", "9", "--temperature", "3", "--seed", str(seed)]
        done = subprocess.run([PROGRAM, *words], input=b"Hi\nAnd?\nGo on\n", capture_output=True, timeout=120)
        broken += "\ufffd" in done.stdout.decode(errors="replace")
        check.that(done.returncode == 0, f"a conversation, seed {seed}: exit code {done.returncode}: {done.stderr}")
    check.that(broken > 0, "every answer is a text: nothing was tried")
    said = {"role": "user", "content": "Hi"}
    with open("prompts.jsonl", "w") as file:
        tools = {"tools": [{"type": "function", "function": {"name": "look"}}], "chat_template_kwargs": None}
        for line in ({"messages": [said]}, {"prompt": "Hi"}, {"prompt": [said], "completion": TALK[2:3]}, {"messages": TALK[:4]}, {"messages": [said], **tools}, {"prompt": "Hi", **tools}, {"prompt": [said], **tools}):
            file.write(json.dumps(line) + "\n")
    for ranks in (0, 2):
        found = [json.loads(line) for line in mpilora(*chat, "--prompts", "prompts.jsonl", "--max-new", "4", ranks=ranks).splitlines()]
        prompts = [line["prompt"] for line in found]
        check.that(prompts[:3] == [prompt] * 3 and prompts[3].endswith("And?<|im_end|>\n<|im_start|>assistant\n"), f"generate --chat --prompts, {ranks} ranks: {prompts}")
        check.that('{"name": "look"}' in prompts[4] and prompts[5] == prompts[6] == prompts[4], f"generate --chat --prompts with tools, {ranks} ranks: {prompts[4:]}")
    with open("more.jsonl", "w") as file:
        for line in ({"prompt": "Hi", "adaptor": "x"}, {"prompt": "Hi", "source": 1, "completion": "x"}, {"prompt_ids": [1], "source": 2}):
            file.write(json.dumps(line) + "\n")
    with open("more-chats.jsonl", "w") as file:
        for line in ({"messages": [said], "source": 1}, {"messages": [said], "tools": [], "chat_template_kwargs": {}, "adapter": None}):
            file.write(json.dumps(line) + "\n")
    for name, words, unread in (("more.jsonl", generate, '"adaptor", "source", "completion"'), ("more-chats.jsonl", chat, '"source"')):
        for ranks in (0, 2):
            done = start(*words, "--prompts", name, "--max-new", "1", ranks=ranks)
            warned = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
            check.that(done.returncode == 0 and len(warned) == 1 and f"{name}: not read: {unread};" in warned[0], f"{name}, {ranks} ranks: exit {done.returncode}: {done.stderr}")
    with open("zero.jinja", "w") as file:
        file.write("{{ messages[0].content }}{{ '\\x00' }}")
    with open("prompts.jsonl", "a") as file:
        file.write(json.dumps({"messages": [{"role": "user"}, {"content": "x"}]}) + "\n")
    with open("begun.jsonl", "w") as file:
        file.write(json.dumps({"prompt": TALK[:3]}) + "\n")
    with open("two.jsonl", "w") as file:
        file.write(json.dumps({"prompt": "Hi", "messages": TALK[:4]}) + "\n")
    for words, code, says in (
        ([*chat, "--prompts", "prompts.jsonl"], 3, "prompts.jsonl:8: messages, message 2"),
        ([*chat, "--prompts", "begun.jsonl"], 3, 'begun.jsonl:1: the last message of "prompt" is an answer'),
        ([*generate, "--prompts", "begun.jsonl"], 3, "lists of messages take --chat"),
        ([*chat, "--prompts", "two.jsonl"], 3, 'two.jsonl:1: a text "prompt" beside a list of messages'),
        ([*generate, "--chat", "--prompt", "Hi"], 3, "base.h5: has no chat template"),
        ([*generate, "--chat", "--chat-template", "zero.jinja", "--prompt", "Hi"], 3, "zero byte"),
        ([*generate, "--chat-template", "chatml.json", "--prompt", "Hi"], 2, "give --chat"),
    ):
        for ranks in (0, 2):
            done = start(*words, ranks=ranks)
            check.that(done.returncode == code and says in done.stderr, f"{words}, {ranks} ranks: exit code {done.returncode}, expected {code} and {says!r}: {done.stderr}")


def test_eval():
    """eval --generate of a conversation that the model knows by heart: the first answer, which the token that ends it in the template ends, beside that answer alone."""
    tokenize({"messages": TALK})
    config = write_config("eval.yaml", run={"dir": "heart"}, base="base.h5", data={"train": "out.h5", "valid": "out.h5"}, method={"name": "full"}, batch={"sequences": 1},
                          optim={"lr": 0.02}, train={"steps": 60}, precision="fp32")  # fmt: skip
    mpilora("train", config)
    mpilora("eval", config, "--set", "base=heart/model.h5", "--generate", "outputs.jsonl", "--max-new", 12)
    with open("outputs.jsonl") as file:
        (line,) = map(json.loads, file)
    check.that(line["references"] == ["One"] and line["prompt"].endswith(" Hi <|im_end|>\n<|im_start|>assistant\n"), f"eval --generate of a conversation: {line}")
    check.that(line["output"] == "One", f"eval --generate of a conversation: {line['output']!r} is not ended by the token that ends an answer")


def test_refusals():
    for line, says in [
        ({"messages": []}, "without a message"),
        ({"messages": "Hi"}, "not a list"),
        ({"messages": ["Hi"]}, "messages, message 1: is not an object"),
        ({"messages": [{"content": "Hi"}]}, "message 1: it has no \"role\""),
        ({"messages": [{"role": "user", "content": 3}]}, "neither a text nor a list"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]}, "a part of type \"image\""),
        ({"messages": TALK[:2]}, "no message of the assistant"),
        ({"conversations": [{"from": "alien", "value": "x"}]}, "\"from\" is \"alien\""),
        ({"messages": TALK, "conversations": []}, "more than one conversation"),
        ({"messages": TALK, "prompt": TALK[3]["content"]}, '"prompt" is a text beside "messages"'),
        ({"messages": TALK, "prompt": TALK[1]["content"], "completion": "One"}, "more than one conversation"),
        ({"prompt": TALK[:2], "completion": "One"}, "\"completion\" is not a list"),
        ({"prompt": TALK[:2]}, "not both"),
        ({"prompt": TALK[:3], "completion": TALK[3:4]}, "in the completion"),
        ({"messages": TALK, "tools": {"name": "x"}}, "\"tools\" is not a list"),
        ({"messages": TALK, "chat_template_kwargs": 1}, "chat_template_kwargs"),
        ({"messages": TALK, "chat_template_kwargs": {"tools": []}}, '"chat_template_kwargs" has "tools"'),
        ({"messages": TALK, "system": "Be long."}, '"system" changes what is trained'),
    ]:
        tokenize([{"messages": TALK}, line], code=3, says=says)
        tokenize([{"messages": TALK}, line], code=3, says="in.jsonl: line 2: ")
    tokenize({"messages": TALK}, None, code=3, says="--chat-template")
    tokenize({"messages": TALK}, "chatml.json", "--loss", "some", code=2, says="--loss some")
    for date in ("yesterday", "2026-02-30", "2026-13-01", "2026-01-02T10:00:60", "2026-01-02T10"):
        tokenize({"messages": TALK}, "headers.json", "--date", date, code=2, says=date)
    tokenize({"messages": TALK}, "nowhere.json", code=3, says="nowhere.json")
    tokenize({"messages": TALK}, "none.json", code=3, says="none.json: has no chat_template")
    tokenize({"messages": TALK}, code=2, says="python3-jinja2", env={"MPILORA_PYTHON": "no-such-python"})
    tokenize({"messages": TALK}, code=3, says="ended with code 1 and without an answer; does false -c 'import jinja2' run", env={"MPILORA_PYTHON": "false"})
    with open("counted", "w") as file:
        file.write("#!/bin/sh\necho >> starts\nexit 1\n")
    os.chmod("counted", 0o755)
    for threads in ("1", "3"):  # whose children would all fail alike
        tokenize([{"messages": TALK}] * 20, code=3, says="ended with code 1", env={"MPILORA_PYTHON": "./counted", "OMP_NUM_THREADS": threads})
        with open("starts") as file:
            check.that(len(file.readlines()) == 1, f"{threads} threads start a template that fails again")
        os.remove("starts")
    roles = TALK[:2] + TALK[3:]
    tokenize({"messages": roles}, "turns.json", code=3, says="fails at message 3 (user): line 8 of the template: Conversation roles must alternate")


def test_foreign_code():
    """Each of these would do harm in a program's own process."""
    for template, says in [
        ("{{ messages[0].nothing + 1 }}", "at message 1 (system): line 1 of the template"),
        ("{% for m in messages %}\n{{ m.content }}\n{% if m.role == 'assistant' %}{{ raise_exception('no\nanswers') }}{% endif %}{% endfor %}", "at message 3 (assistant): line 3 of the template: no answers"),
        ("{% if %}", "line 1 of the template"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ messages.append(1) }}", "the sandbox forbids it"),
        ("{{ ''.__class__.__mro__ }}", "the sandbox forbids it"),
        ("{{ cycler.__init__.__globals__.os.system('touch harm') }}", "the sandbox forbids it"),
        ("{% set ns = namespace(__class__=1) %}", "the sandbox forbids it"),
        ("{{ 'x' * 10 ** 10 }}", "more memory than it is allowed"),
        ("{% for a in range(70) %}{{ 'x' * 1000000 }}{% endfor %}", "characters of text"),
        ("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", "at message 1 (system): line 1 of the template: it needs more than 5 s of processor time"),
        ("{% for m in messages %}{{ m.content }}\n{% if loop.index > 2 %}{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}{% endif %}{% endfor %}", "at message 3 (assistant): line 2 of the template: it needs"),
        ("{{ 7 ** 99999999 }}", "took more processor time than it is allowed"),  # a single call, which no error reaches
    ]:
        with open("foreign.jinja", "w") as file:
            file.write(template)
        tokenize({"messages": TALK}, "foreign.jinja", code=3, says=says)
    check.that(not os.path.exists("harm"), "a template ran a command")


def main():
    chat_cases.need_jinja2()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        check.that(chat_cases.make_tokenizer(SOURCE, "tokenizer") == SIZE, f"the tokenizer has not {SIZE} tokens")
        with open("model.yaml", "w") as file:
            file.write(MODEL.format(SIZE))
        mpilora("import", "--init", "random", "--config", "model.yaml", "--tokenizer", "tokenizer", "base.h5")
        for name, template in chat_cases.TEMPLATES.items():
            chat_cases.write_config(f"{name}.json", template)
        chat_cases.write_config("none.json", None)
        chat_cases.write_config("named.json", [{"name": "default", "template": chat_cases.CHATML}, {"name": "tool_use", "template": "with tools" + chat_cases.CHATML}])
        with open("plain.jinja", "w") as file:
            file.write("{% for d in documents or [] %}### {{ d.text }}\n{% endfor %}{% for m in messages %}### {{ m.role }}\n{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}### assistant\n{% endif %}")
        for test in (test_templates, test_shapes, test_share_gpt, test_blanks, test_borders, test_weights, test_base, test_generate, test_eval, test_refusals, test_foreign_code):
            test()
        os.chdir("/")
    check.end()


main()
