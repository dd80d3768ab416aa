"""Valid inputs that have heads and labels: data sets of every kind of label, models and adapters with a head for classes, for tokens and for masked tokens, as mpilora itself
makes and exports them, and a directory of sentence-transformers."""

import json
import os
import shutil

import harness

ENCODER = "{family: bert, layers: 1, width: 8, heads: 2, mlp_width: 12, vocab: 257, context: 64, token_types: 2}"
LINES = {
    "mnli.tsv": ["index\tsentence1\tsentence2\tlabel1\tgold_label", '0\tthe "sea\tNA\tneutral\tentailment', "1\ta\tb\tneutral\t-", "2\tnull\tc\tneutral\tneutral", "3\td\te\tneutral\tcontradiction"],
    "stsb.tsv": ["index\tgenre\tsentence1\tsentence2\tscore", "0\tmain\ta plane\ta bird\t2.5", "1\tmain\tNone\tthe sea\t0.000"],
    "cola.tsv": ["gj04\t1\t\tThe sailors rode.", "gj04\t0\t*\tThe sailors rode the", "gj04\t1\t\tsentence label"],
    "related.jsonl": ['{"anchor": "where is it", "positive": "below the bridge", "negative": ["far", "away"]}', '{"anchor": "a", "positive": "b", "negative": ["c", "\\u20ac"]}'] * 2,
    "predictions.jsonl": ['{"prediction": "yes", "label": "no"}', '{"prediction": 1, "label": "1", "score": 0.5}', '{"prediction": "no", "label": "no"}'],
}


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def tokenize(folder, base, name, *words):
    harness.mpilora("tokenize", "--base", f"{folder}/{base}.h5", f"{folder}/{name[0]}", f"{folder}/{name[1]}.h5", *words)


def train(folder, base, data, objective, **more):
    """FOLDER/DATA-adapter.h5, of one step."""
    config = harness.write_config(f"{folder}/{data}.yaml", run={"dir": f"{folder}/{data}.run"}, base=f"{folder}/{base}.h5", method={"rank": 2, "targets": ["q", "v"]},
                                  objective={"name": objective, **more}, data={"train": f"{folder}/{data}.h5"}, batch={"sequences": 2, "micro": 2}, optim={"lr": 1e-3},
                                  train={"steps": 1}, precision="fp32")
    harness.mpilora("train", config)
    shutil.move(f"{folder}/{data}.run/adapter.h5", f"{folder}/{data}-adapter.h5")
    shutil.rmtree(f"{folder}/{data}.run")


def export(folder, base, data, directory):
    """What a base becomes with an adapter, as a directory."""
    merged = f"{folder}/merged.h5"
    harness.mpilora("merge", "--base", f"{folder}/{base}.h5", "--adapter", f"{folder}/{data}-adapter.h5", merged)
    harness.mpilora("export", "--format", "hf", "--base", merged, f"{folder}/{directory}")
    os.remove(merged)


def make(folder):
    """Beside base.h5, a decoder, and the directory of its tokenizer, labels.jsonl and labels.ids."""
    for name, lines in LINES.items():
        write(f"{folder}/{name}", "\n".join(lines) + "\n")
    write(f"{folder}/encoder.yaml", ENCODER)
    harness.mpilora("import", "--init", "random", "--config", f"{folder}/encoder.yaml", "--tokenizer", f"{folder}/tokenizer", f"{folder}/encoder.h5")
    tokenize(folder, "encoder", ("labels.jsonl", "classes"))
    tokenize(folder, "encoder", ("labels.ids", "bits"), "--format", "ids")
    tokenize(folder, "encoder", ("related.jsonl", "related"))
    tokenize(folder, "encoder", ("lines.txt", "texts"), "--format", "text")
    tokenize(folder, "base", ("words.conll", "tokens"), "--format", "conll")
    train(folder, "encoder", "classes", "classify")
    train(folder, "encoder", "texts", "mlm", mask_token=256)
    train(folder, "base", "tokens", "tokens")
    export(folder, "encoder", "classes", "headed")
    export(folder, "encoder", "texts", "masked")
    for base, data in (("encoder", "classes"), ("base", "tokens")):
        harness.mpilora("export", "--format", "peft", "--base", f"{folder}/{base}.h5", "--adapter", f"{folder}/{data}-adapter.h5", f"{folder}/{data}-peft")
    harness.mpilora("export", "--format", "hf", "--base", f"{folder}/encoder.h5", f"{folder}/sentences")
    modules = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    os.makedirs(f"{folder}/sentences/1_Pooling", exist_ok=True)
    for name, value in {
        "modules.json": [{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"} for i, (kind, path) in enumerate(modules)],
        "1_Pooling/config.json": {"word_embedding_dimension": 8, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "include_prompt": True},
        "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": {"query": "ask: ", "document": ""}, "default_prompt_name": "query"},
    }.items():
        write(f"{folder}/sentences/{name}", json.dumps(value, indent=1))
