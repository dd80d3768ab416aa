"""analysis/lm_eval_model.py: lm-evaluation-harness gives the same answers on mpilora as with its own model of transformers, on the same base: choices, generated texts and
rolling perplexities of tasks that are made here, with and without a token that begins texts, on 1, 2 and 4 ranks, and with an adapter as the merged model has it."""

import importlib.util
import json
import os
import shlex
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
try:
    import lm_eval
    import torch
    import transformers
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import family_models as families
import harness
import reference_models as reference
import said_models as said

CHOICE = """task: tiny_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
WRITE = """task: tiny_write
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[0]}}}}"
generation_kwargs: {{until: ["<63>"], max_gen_toks: 8, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""
ROLL = """task: tiny_roll
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{long}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: bits_per_byte}}]
"""


def write_tasks(folder):
    os.makedirs(f"{folder}/tasks")
    file = f"{folder}/tasks/docs.jsonl"
    with open(file, "w") as out:
        for i in range(12):
            question = families.text([(7 * i * j + 3) % 190 + 1 for j in range(4 + i)])
            choices = [families.text([(5 * i + 11 * c + j) % 190 + 1 for j in range(2 + c)]) for c in range(3)]
            long = families.text([(i * j + 3 * j + 2) % 190 + 1 for j in range(40 + 13 * i)])  # some beyond the context
            out.write(json.dumps({"question": question, "choices": choices, "answer": i % 3, "long": long}) + "\n")
    for name, text in (("choice", CHOICE), ("write", WRITE), ("roll", ROLL)):
        with open(f"{folder}/tasks/{name}.yaml", "w") as out:
            out.write(text.format(file=file))


def write_model(folder, begins):
    source = f"{folder}/model-{begins}"
    said.write_model(source, "llama")
    with open(f"{source}/tokenizer.json") as file:
        tokenizer = json.load(file)
    if begins:
        token = {"SpecialToken": {"id": "<1>", "type_id": 0}}
        tokenizer["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [token, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [token, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<1>": {"id": "<1>", "ids": [1], "tokens": ["<1>"]}},
        }
        reference.write_json(f"{source}/tokenizer.json", tokenizer)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<0>"} | ({"bos_token": "<1>"} if begins else {})
    reference.write_json(f"{source}/tokenizer_config.json", settings)
    return source


def evaluate(folder, model):
    found = lm_eval.simple_evaluate(model, tasks=["tiny_choice", "tiny_write", "tiny_roll"], task_manager=TaskManager(include_path=f"{folder}/tasks", include_defaults=False), bootstrap_iters=0, log_samples=True)
    return {name: [sample["filtered_resps"] for sample in sorted(samples, key=lambda s: s["doc_id"])] for name, samples in found["samples"].items()}, found["results"]


def compare(checks, label, ours, theirs):
    for task, answers in theirs[0].items():
        for i, (found, expected) in enumerate(zip(ours[0][task], answers)):
            if task == "tiny_write":
                checks.that(found == expected, f"{label}, {task} {i}: {found}, expected {expected}")
                continue
            for a, b in zip(found, expected):
                one, two = (a, b) if isinstance(a, (list, tuple)) else ((a, True), (b, True))
                good = abs(float(one[0]) - float(two[0])) < 1e-4 * abs(float(two[0])) and one[1] == two[1]
                checks.that(good, f"{label}, {task} {i}: {found}, expected {expected}")
        for key, value in theirs[1][task].items():
            if isinstance(value, float):
                checks.close(f"{label}, {task}, {key}", ours[1][task][key], value, 1e-4)


def main():
    checks = harness.Checks()
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("lm_eval_model", os.path.join(harness.SOURCE, "analysis", "lm_eval_model.py"))
    bridge = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bridge)
    with tempfile.TemporaryDirectory() as folder:
        write_tasks(folder)
        for begins in (False, True):
            source, base = write_model(folder, begins), f"{folder}/base-{begins}.h5"
            harness.mpilora("import", source, base, "--dtype", "fp32")
            theirs = evaluate(folder, HFLM(pretrained=source, dtype="float32", device="cpu", batch_size=1))
            for ranks in (2, 4, 0):
                launcher = shlex.join(harness.launcher(ranks)) if ranks else ""
                ours = evaluate(folder, bridge.Mpilora(base=base, tokenizer=source, program=harness.PROGRAM, precision="fp32", launcher=launcher))
                compare(checks, f"begins {begins}, {ranks or 1} ranks", ours, theirs)
        adapter, merged = f"{folder}/adapter", f"{folder}/merged"
        reference.write_adapter(adapter, {**reference.DEFAULTS, "model": "llama", "targets": ["all"]})
        harness.mpilora("merge", "--base", base, "--adapter", adapter, "--dtype", "fp32", f"{merged}.h5")
        adapted = evaluate(folder, bridge.Mpilora(base=base, tokenizer=source, adapter=adapter, program=harness.PROGRAM, precision="fp32"))
        expected = evaluate(folder, bridge.Mpilora(base=f"{merged}.h5", tokenizer=source, program=harness.PROGRAM, precision="fp32"))
        compare(checks, "an adapter", adapted, expected)
        checks.that(adapted[1] != ours[1], "the adapter changes nothing")
    checks.end()


main()
