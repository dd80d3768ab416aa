"""Bad input to every command: the exit code of the contract, one line that names what is wrong, within seconds, and every file that existed as it was."""

import json
import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), os.path.join(HERE, "..", "interop")]
import broken_files
import gguf_models
import harness
import reference_models as reference

USAGE, INPUT, RESOURCE = 2, 3, 4
SECONDS = 20


class Cases:
    def __init__(self, checks):
        self.checks = checks

    def fails(self, label, code, needles, *words, ranks=0):
        """`code` exactly, and a last line of mpilora's own with all `needles`."""
        done = harness.start(*words, ranks=ranks, timeout=SECONDS)
        said = [line for line in done.stderr.splitlines() if line.startswith("mpilora")]
        line = said[-1] if said else ""
        right = done.returncode == code and all(needle.lower() in line.lower() for needle in needles)
        found = f"exit code {done.returncode} and {line or done.stderr[-300:]!r}"
        self.checks.that(right, f"{label} ({ranks or 1} ranks): {found}; expected {code} and {needles}")

    def trains_not(self, label, code, needles, config, *words, ranks=(0, 2)):
        for n in ranks:
            self.fails(f"train, {label}", code, needles, "train", config, *words, ranks=n)


def snapshot(folder):
    """Every file with its bytes."""
    files = {}
    for directory, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(directory, name)
            with open(path, "rb") as file:
                files[path] = file.read()
    return files


def prepare(folder):
    """Good files of all kinds, and a finished run."""
    reference.write_model(f"{folder}/llama", "llama")
    reference.write_model(f"{folder}/gpt2", "gpt2")
    for name in ("llama", "gpt2"):
        harness.mpilora("import", f"{folder}/{name}", f"{folder}/{name}.h5", "--dtype", "fp32")
        reference.write_data(f"{folder}/data.jsonl", reference.TRAIN)
        tokenize = ("tokenize", "--format", "ids", "--base", f"{folder}/{name}.h5")
        harness.mpilora(*tokenize, f"{folder}/data.jsonl", f"{folder}/{name}-data.h5")
    # the same shapes as llama, other weights
    with open(f"{folder}/other.yaml", "w") as file:
        file.write("{family: llama, layers: 3, width: 48, mlp_width: 112, heads: 4, kv_heads: 2, head_dim: 16, vocab: 203, context: 64, tied_head: false}")
    harness.mpilora("import", "--init", "random", "--config", f"{folder}/other.yaml", f"{folder}/other.h5")
    config = harness.write_config(f"{folder}/run.yaml", **sections(folder))
    harness.mpilora("train", config)
    return config


def sections(folder, **changes):
    return {
        "run": {"dir": f"{folder}/run"},
        "base": f"{folder}/llama.h5",
        "method": {"name": "lora", "rank": 4, "alpha": 8, "targets": ["q", "v"]},
        "data": {"train": f"{folder}/llama-data.h5", "valid": f"{folder}/llama-data.h5", "max_len": 64},
        "batch": {"sequences": 4, "micro": 2},
        "train": {"steps": 2},
        "precision": "fp32",
        **changes,
    }


def check_configurations(cases, folder):
    new = ("--set", f"run.dir={folder}/never")
    config = f"{folder}/run.yaml"
    values = {  # key=value → words of the message
        "optim.lrr=1": ["optim.lrr", "optim.lr"],
        "optim.lr=fast": ["optim.lr", "fast"],
        "optim.lr=-1": ["optim.lr", "-1"],
        "optim.lr=nan": ["optim.lr"],
        "optim.betas=[0.9]": ["optim.betas"],
        "optim.betas=[1.5, 0.9]": ["optim.betas", "1.5"],
        "optim.schedule=polynomial": ["optim.schedule", "polynomial", "cosine"],
        "optim.clip_norm=-1": ["optim.clip_norm"],
        "optim.label_smoothing=1": ["optim.label_smoothing"],
        "method.name=lorra": ["method.name", "lorra", "lora"],
        "method.rank=0": ["method.rank", "0"],
        "method.rank=2.5": ["method.rank", "2.5"],
        "method.dropout=1": ["method.dropout"],
        "method.alpha=0": ["method.alpha"],
        "method.targets=[q, w]": ["method.targets", "w"],
        "method.targets=[]": ["method.targets"],
        "method.targets=[fc]": ["fc", "gate", "head"],
        "method.targets=[all, q]": ["method.targets", "head", "embed"],
        "method.scaling=rs": ["method.scaling", "rslora"],
        "train.steps=0": ["train.steps"],
        "train.steps=99999999999999999999": ["train.steps"],
        "batch.sequences=0": ["batch.sequences"],
        "batch.micro=-2": ["batch.micro"],
        "precision=fp16": ["precision", "fp16"],
        "data.max_len=65": ["data.max_len", "65", "64"],
        "data.max_len=1": ["data.max_len", "llama-data.h5: no sequence has a target within its first 1 tokens"],
        "parallel.pp=0": ["parallel.pp"],
        "run.seed=-3": ["run.seed"],
        "kernels.product=magic": ["kernels.product", "magic", "onednn-bf16"],
    }
    for setting, needles in values.items():
        cases.trains_not(setting, USAGE, needles, config, *new, "--set", setting)
    unmade = ("--set", f"run.dir={folder}/unmade", "--set")
    for setting in ("kernels.product=magic", "kernels.vector=1e"):
        cases.trains_not(f"{setting} of a run that is new", USAGE, [setting.split("=")[0]], config, *unmade, setting)
    cases.checks.that(not os.path.exists(f"{folder}/unmade"), "a run.dir is made for a path of kernels that no build has")
    for key, targets in (("dora=true", "[q, embed]"), ("lora_plus=4", "[embed]"), ("init=pissa", "[v, head]")):
        cases.trains_not(f"{key} on {targets}", USAGE, ["method.targets"], config, *new, "--set", f"method.{key}", "--set", f"method.targets={targets}")
    has = "has embed, layers.N.{norm1, attn.q, attn.k, attn.v, attn.o, norm2, mlp.gate, mlp.up, mlp.down}, norm, head;"
    cases.trains_not("a module to save that is none", USAGE, ["method.modules_to_save: nrm", has], config, *new, "--set", "method.modules_to_save=[nrm]")
    cases.trains_not("a part of what is adapted", USAGE, ["modules_to_save: layers.0.attn.k is one tensor"], config, *new, "--set", "method.modules_to_save=[k_proj]")
    cases.trains_not("a module both saved and adapted", USAGE, ["method.modules_to_save", "attn.q"], config, *new, "--set", "method.modules_to_save=[q_proj]")
    cases.trains_not("--set without =", USAGE, ["optim.lr"], config, "--set", "optim.lr")
    cases.trains_not("unknown option", USAGE, ["--frsh", "--fresh"], config, "--frsh")
    cases.trains_not("fewer sequences than replicas", USAGE, ["batch.sequences", "1", "2"], config, *new, "--set", "batch.sequences=1", ranks=[2])
    cases.trains_not("tp that does not divide the ranks", USAGE, ["parallel.tp: 2", "3 ranks", "choose tp 1 or 3"], config, *new, "--set", "parallel.tp=2", ranks=[3])
    cases.trains_not("tp that does not divide the heads", USAGE, ["3", "4"], config, *new, "--set", "parallel.tp=3", ranks=[3])
    cases.trains_not("tp beyond the heads", USAGE, ["8", "4", "2", "choose 1, 2 or 4"], config, *new, "--set", "parallel.tp=8", ranks=[8])
    cases.trains_not("tp beyond the ranks", USAGE, ["2", "1"], config, *new, "--set", "parallel.tp=2", ranks=[0])


def check_configuration_files(cases, folder):
    good = json.dumps(sections(folder, run={"dir": f"{folder}/never"}))
    texts = {
        "not YAML": ("run: {dir: x", "bad.yaml"),
        "a list": ("- a\n- b\n", "bad.yaml"),
        "empty": ("", "bad.yaml"),
        "a key twice": (good[:-1] + ', "precision": "bf16"}', "precision"),
        "a section that is a number": ("run: 3\n", "run"),
        "an unknown section": (good[:-1] + ', "optimizer": {}}', "optimizer"),
        "an alias that feeds on itself": ("run: &a {dir: *a}\n", "bad.yaml"),
        "no base": ('{"run": {"dir": "x"}, "data": {"train": "x"}}', "base"),
        "no data.train": (json.dumps(sections(folder, data={})), "data.train"),
        "no run.dir": (json.dumps(sections(folder, run={})), "run.dir"),
        "not UTF-8": (b"base: \xff\xfe\n", "bad.yaml"),
    }
    for label, (content, needle) in texts.items():
        with open(f"{folder}/bad.yaml", "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        cases.trains_not(f"configuration {label}", USAGE, [needle], f"{folder}/bad.yaml")
    os.remove(f"{folder}/bad.yaml")
    cases.trains_not("configuration missing", USAGE, ["none.yaml"], f"{folder}/none.yaml")


def damaged(folder, name, change):
    """A copy of a good file, changed."""
    path = f"{folder}/damaged-{name}"
    with open(f"{folder}/{name}", "rb") as source, open(path, "wb") as target:
        target.write(change(source.read()))
    return path


def flip_a_bit(data):
    middle = len(data) * 3 // 4
    return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]


DAMAGES = {"cut": lambda data: data[: len(data) // 2], "empty": lambda data: b"", "text": lambda data: b"hello\n", "a flipped bit": flip_a_bit}


def check_files_of_train(cases, folder):
    config, new = f"{folder}/run.yaml", ("--set", f"run.dir={folder}/never", "--set")
    cases.trains_not("base missing", INPUT, ["none.h5"], config, *new, f"base={folder}/none.h5")
    cases.trains_not("data missing", INPUT, ["none.h5"], config, *new, f"data.train={folder}/none.h5")
    cases.trains_not("valid missing", INPUT, ["none.h5"], config, *new, f"data.valid={folder}/none.h5")
    cases.trains_not("a directory as base", INPUT, ["llama"], config, *new, f"base={folder}/llama")
    cases.trains_not("data set as base", INPUT, ["llama-data.h5"], config, *new, f"base={folder}/llama-data.h5")
    cases.trains_not("base as data set", INPUT, ["llama.h5"], config, *new, f"data.train={folder}/llama.h5")
    cases.trains_not("data of another vocabulary", INPUT, ["211", "203"], config, *new, f"data.train={folder}/gpt2-data.h5")
    for label, change in DAMAGES.items():
        # a base is not hashed at each start, only its structure is checked: it can be hundreds of gigabytes
        if label != "a flipped bit":
            bad = damaged(folder, "llama.h5", change)
            cases.trains_not(f"base: {label}", INPUT, ["damaged-llama.h5"], config, *new, f"base={bad}")
            os.remove(bad)
        bad = damaged(folder, "llama-data.h5", change)
        cases.trains_not(f"data: {label}", INPUT, ["damaged-llama-data.h5"], config, *new, f"data.train={bad}")
        os.remove(bad)
    init = f"method.init={folder}/run/adapter.h5"
    cases.trains_not("init missing", INPUT, ["none"], config, *new, f"method.init={folder}/none")
    cases.trains_not("init of another rank", USAGE, ["4", "6"], config, *new, init, "--set", "method.rank=6")
    cases.trains_not("init of another alpha", USAGE, ["8", "5"], config, *new, init, "--set", "method.alpha=5")
    cases.trains_not("init of another base", INPUT, ["adapter.h5"], config, *new, init, "--set", f"base={folder}/other.h5")
    with open(f"{folder}/a-file", "w") as file:
        file.write("mine")
    cases.trains_not("run.dir is a file", RESOURCE, ["a-file"], config, "--set", f"run.dir={folder}/a-file")
    cases.trains_not("run.dir below a file", RESOURCE, ["a-file"], config, "--set", f"run.dir={folder}/a-file/run")


def check_pipes(cases, folder):
    """What is read in parts or twice must be a regular file: a pipe that nobody writes to, and a device, are refused at once."""
    config, pipe = f"{folder}/run.yaml", f"{folder}/pipe"
    os.mkfifo(pipe)
    for path, kind in ((pipe, "a pipe"), ("/dev/zero", "a device"), (folder, "a directory")):
        what = [path, kind, "regular file"]
        for key in ("data.train", "data.valid", "base"):
            cases.trains_not(f"{kind} as {key}", INPUT, what, config, "--set", f"run.dir={folder}/never", "--set", f"{key}={path}", ranks=(2,))
        cases.fails(f"merge, {kind} as the base", INPUT, what, "merge", "--base", path, "--adapter", f"{folder}/run/adapter.h5", f"{folder}/out.h5")
        if path == folder:
            continue  # a PEFT or Hugging Face directory, then
        cases.fails(f"eval, {kind} as the adapter", INPUT, what, "eval", config, "--adapter", path)
        cases.fails(f"import, {kind}", INPUT, [path], "import", path, f"{folder}/out.h5")
        cases.fails(f"inspect, {kind}", INPUT, [path], "inspect", path)
        cases.fails(f"verify, {kind}", INPUT, [path, "not whole"], "verify", path)
    shutil.copytree(f"{folder}/llama", f"{folder}/piped")
    for name in ("config.json", "model.safetensors"):
        os.remove(f"{folder}/piped/{name}")
        os.mkfifo(f"{folder}/piped/{name}")
        cases.fails(f"import, {name} a pipe", INPUT, [name, "a pipe"], "import", f"{folder}/piped", f"{folder}/out.h5")
        os.remove(f"{folder}/piped/{name}")
        shutil.copy(f"{folder}/llama/{name}", f"{folder}/piped/{name}")
    shutil.rmtree(f"{folder}/piped")
    os.remove(pipe)


def check_imports(cases, folder):
    """Every bad source, over an existing base that must stay."""
    out, source = f"{folder}/llama.h5", f"{folder}/bad-source"
    for label, (write, needle) in broken_files.DIRECTORIES.items():
        shutil.copytree(f"{folder}/llama", source)
        write(source)
        cases.fails(f"import, {label}", INPUT, [needle], "import", source, out)
        shutil.rmtree(source)
    for label, data in broken_files.GGUF.items():
        with open(f"{folder}/bad.gguf", "wb") as file:
            file.write(data)
        cases.fails(f"import GGUF, {label}", INPUT, ["bad.gguf"], "import", f"{folder}/bad.gguf", out)
    os.remove(f"{folder}/bad.gguf")
    cases.fails("import, source missing", INPUT, ["none"], "import", f"{folder}/none", out)
    cases.fails("import, dtype", USAGE, ["fp8"], "import", f"{folder}/llama", out, "--dtype", "fp8")
    cases.fails("import, no words", USAGE, ["usage"], "import")
    cases.fails("import, random without a description", USAGE, ["--config"], "import", "--init", "random", out)
    cases.fails("import, a bad description", USAGE, ["run.yaml"], "import", "--init", "random", "--config", f"{folder}/run.yaml", out)
    cases.fails("import, tokenizer missing", INPUT, ["none"], "import", "--init", "random", "--config", f"{folder}/other.yaml", "--tokenizer", f"{folder}/none", out)
    cases.fails("import, no such folder", RESOURCE, ["none"], "import", f"{folder}/llama", f"{folder}/none/base.h5")


def check_directories(cases, folder):
    """A directory where a file of lines, a table of keys or texts are read: it can be opened, and is no error of the disk."""
    there, base = f"{folder}/llama", f"{folder}/llama.h5"
    said = ["is a directory, expected a file"]
    commands = (
        ("the configuration", USAGE, "train", there),
        ("the configuration", USAGE, "plan", there),
        ("the description", USAGE, "import", "--init", "random", "--config", there, base),
        ("lines", INPUT, "tokenize", "--base", base, there, f"{folder}/out.h5"),
        ("lines", INPUT, "score", there),
        ("predictions", INPUT, "score", "--task", "rte", there),
        ("texts", INPUT, "score", "--outputs", there, "--references", there),
        ("prompts", INPUT, "generate", "--base", base, "--prompts", there),
    )
    for label, code, *words in commands:
        cases.fails(f"{words[0]}, a directory for {label}", code, said, *words)
    cases.trains_not("a directory for the configuration", USAGE, said, there, ranks=(2,))


def check_pointers(cases, folder):
    """What a clone without Git LFS has in the place of a large file, under every name that a model's files have."""
    source, pointer = f"{folder}/cloned", b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 269060552\n"
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer.model", "chat_template.jinja", "model.gguf"):
        shutil.copytree(f"{folder}/llama", source)
        with open(f"{source}/{name}", "wb") as file:
            file.write(pointer)
        cases.fails(f"import, {name} not fetched", INPUT, [name, "pointer of Git LFS", "git lfs pull"], "import", f"{source}/{name}" if name.endswith("gguf") else source, f"{folder}/out.h5")
        shutil.rmtree(source)


def check_gguf_keys(cases, folder):
    """Keys that GGUF's families do not read: refused where they change the mathematics, named where nobody knows them."""
    out, source = f"{folder}/llama.h5", f"{folder}/keys.gguf"
    architecture, metadata, tensors = gguf_models.contents("mistral")
    neutral = {"attention.causal": True, "attention.clamp_kqv": 0.0, "rope.scaling.attn_factor": 1.0, "vocab_size": 203}
    changing = {"attention.causal": False, "attention.clamp_kqv": 8.0, "attention.max_alibi_bias": 8.0, "attention.temperature_scale": 0.1}
    changing |= {"rope.scaling.attn_factor": 1.5, "rope.scaling.yarn_log_multiplier": 0.1, "split.count": 3}
    for key, value in changing.items():
        gguf_models.write_file(source, architecture, metadata | {key: value}, tensors)
        cases.fails(f"import GGUF, {key} {value}", INPUT, ["keys.gguf", key.split(".")[0]], "import", source, out)
    gguf_models.write_file(source, architecture, metadata | neutral, tensors)
    known = harness.start("import", source, f"{folder}/keys.h5")
    cases.checks.that(known.returncode == 0 and "ignored" not in known.stderr, f"neutral keys: {known}")
    gguf_models.write_file(source, architecture, metadata | {"attention.vision": 3}, tensors)
    unknown = harness.start("import", source, f"{folder}/keys.h5")
    cases.checks.that(unknown.returncode == 0 and f"{architecture}.attention.vision" in unknown.stderr, f"an unknown key: {unknown}")
    os.remove(source)
    os.remove(f"{folder}/keys.h5")


def check_tokenize(cases, folder):
    out, path = f"{folder}/llama-data.h5", f"{folder}/bad.jsonl"
    lines = {
        "id beyond the vocabulary": ('{"input_ids": [1, 203]}', ["203", "2"]),
        "negative id": ('{"input_ids": [1, -1]}', ["-1", "2"]),
        "id not whole": ('{"input_ids": [1, 2.5]}', ["2"]),
        "no ids": ('{"input_ids": []}', ["2"]),
        "label of another token": ('{"input_ids": [1, 2, 3], "labels": [-100, 2, 5]}', ["5", "2"]),
        "fewer labels": ('{"input_ids": [1, 2, 3], "labels": [1, 2]}', ["3", "2"]),
        "no target": ('{"input_ids": [1, 2, 3], "labels": [1, -100, -100]}', ["2"]),
        "one token": ('{"input_ids": [1]}', ["2"]),
        "no JSON": ("input_ids", ["2"]),
        "a list": ("[1, 2]", ["2"]),
        "another key": ('{"ids": [1, 2]}', ["input_ids", "2"]),
        "a key twice": ('{"input_ids": [1, 2], "input_ids": [1, 2]}', ["2"]),
        "nested deep": ('{"input_ids": ' + "[" * 100000, ["2"]),
    }
    command = ("tokenize", "--base", f"{folder}/llama.h5", "--format")
    for label, (line, needles) in lines.items():
        with open(path, "w") as file:
            file.write('{"input_ids": [1, 2, 3]}\n' + line + "\n")
        cases.fails(f"tokenize, {label}", INPUT, ["bad.jsonl", *needles], *command, "ids", path, out)
    with open(path, "w"):
        pass
    cases.fails("tokenize, empty", INPUT, ["bad.jsonl"], *command, "ids", path, out)
    os.remove(path)
    cases.fails("tokenize, missing", INPUT, ["none.jsonl"], *command, "ids", f"{folder}/none.jsonl", out)
    cases.fails("tokenize, base missing", INPUT, ["none.h5"], "tokenize", "--base", f"{folder}/none.h5", f"{folder}/data.jsonl", out)
    cases.fails("tokenize, no base", USAGE, ["--base"], "tokenize", f"{folder}/data.jsonl", out)
    cases.fails("tokenize, format", USAGE, ["csv"], *command, "csv", f"{folder}/data.jsonl", out)
    cases.fails("tokenize, text without a tokenizer", INPUT, ["tokenizer"], *command, "text", f"{folder}/data.jsonl", out)


def check_other_commands(cases, folder):
    config, base, adapter = f"{folder}/run.yaml", f"{folder}/llama.h5", f"{folder}/run/adapter.h5"
    other, out = f"{folder}/other.h5", f"{folder}/llama-data.h5"
    broken = f"{folder}/broken-adapter.h5"
    with open(adapter, "rb") as source, open(broken, "wb") as target:
        target.write(flip_a_bit(source.read()))
    for ranks in (0, 2):
        cases.fails("eval, adapter missing", INPUT, ["none.h5"], "eval", config, "--adapter", f"{folder}/none.h5", ranks=ranks)
        cases.fails("eval, adapter of another base", INPUT, ["adapter.h5"], "eval", config, "--adapter", adapter, "--set", f"base={other}", ranks=ranks)
        cases.fails("eval, adapter with a flipped bit", INPUT, ["broken-adapter.h5"], "eval", config, "--adapter", broken, ranks=ranks)
        cases.fails("eval, base as adapter", INPUT, ["llama.h5"], "eval", config, "--adapter", base, ranks=ranks)
        cases.fails("eval, no valid data", USAGE, ["data.valid"], "eval", config, "--set", "data.valid=null", ranks=ranks)
    cases.fails("merge, adapter of another base", INPUT, ["adapter.h5"], "merge", "--base", other, "--adapter", adapter, out)
    cases.fails("merge, adapter missing", INPUT, ["none"], "merge", "--base", base, "--adapter", f"{folder}/none", out)
    cases.fails("merge, adapter with a flipped bit", INPUT, ["broken-adapter.h5"], "merge", "--base", base, "--adapter", broken, out)
    cases.fails("merge, no adapter", USAGE, ["--adapter"], "merge", "--base", base, out)
    export = ("export", "--base", base, "--adapter", adapter)
    cases.fails("export, format", USAGE, ["onnx"], *export, "--format", "onnx", f"{folder}/exported")
    cases.fails("export, into another's directory", USAGE, ["llama"], *export, "--format", "peft", f"{folder}/llama")
    cases.fails("export, over the model that was imported", USAGE, ["llama", "another program"], "export", "--base", base, "--format", "hf", f"{folder}/llama")
    foreign = f"{folder}/foreign"
    reference.write_adapter(foreign, reference.CASES["llama-qv"])
    kept = snapshot(foreign)
    cases.fails("export, over an adapter of PEFT's", USAGE, ["foreign", "another program"], *export, "--format", "peft", foreign)
    os.remove(f"{foreign}/adapter_model.safetensors")
    cases.fails("export, over a configuration alone", USAGE, ["foreign", "another program"], *export, "--format", "peft", foreign)
    cases.checks.that(snapshot(foreign).items() <= kept.items(), "an export has changed another program's files")
    shutil.rmtree(foreign)
    generate = ("generate", "--base", base)
    cases.fails("generate, no tokenizer", INPUT, ["tokenizer"], *generate, "--prompt", "a")
    cases.fails("generate, no prompt", USAGE, ["--prompt"], *generate)
    cases.fails("generate, temperature", USAGE, ["--temperature"], *generate, "--prompt", "a", "--temperature", "-1")
    cases.fails("generate, max-new", USAGE, ["--max-new"], *generate, "--prompt", "a", "--max-new", "some")
    cases.fails("plan, ranks", USAGE, ["2", "3"], "plan", config, "--ranks", "3", "--set", "parallel.tp=2")
    cases.fails("plan, ranks 0", USAGE, ["--ranks"], "plan", config, "--ranks", "0")
    cases.fails("plan, base missing", USAGE, ["none.yaml"], "plan", config, "--set", f"base={folder}/none.yaml")
    cases.fails("inspect, missing", INPUT, ["none.h5"], "inspect", f"{folder}/none.h5")
    cases.fails("inspect, a text", INPUT, ["run.yaml"], "inspect", config)
    cases.fails("inspect, a flipped bit", INPUT, ["broken-adapter.h5"], "inspect", broken)
    cases.fails("no such command", USAGE, ["trian", "train"], "trian")
    os.remove(broken)


def check_output(cases, folder):
    """Standard output on a full disk: what was printed is lost, and the command says so."""
    config, base = f"{folder}/run.yaml", f"{folder}/llama.h5"
    for words in (("plan", config, "--json"), ("inspect", base), ("eval", config, "--json"), ("--version",), ("--help",), ("plan", "--help")):
        with open("/dev/full", "w") as full:
            done = subprocess.run(harness.command(*words), stdout=full, stderr=subprocess.PIPE, text=True, timeout=SECONDS)
        said = done.stderr.splitlines()[-1:]
        right = done.returncode == RESOURCE and said and said[0].startswith("mpilora") and "standard output" in said[0]
        cases.checks.that(right, f"{words} with a full standard output: exit code {done.returncode} and {said}")


def check_closed_streams(cases, folder):
    """Standard streams that are closed: what would be printed there goes into no file that the command writes."""

    def closed(*words):
        return subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *harness.command(*words)], timeout=SECONDS).returncode

    source, run = f"{folder}/unknown", f"{folder}/closed"
    shutil.copytree(f"{folder}/llama", source)
    with open(f"{source}/config.json") as file:
        config = json.load(file)
    with open(f"{source}/config.json", "w") as file:
        json.dump(config | {"nobody_knows": 1}, file)  # which is warned of
    harness.mpilora("import", source, f"{folder}/open.h5")
    codes = closed("import", source, f"{folder}/closed.h5"), closed("train", f"{folder}/run.yaml", "--set", f"run.dir={run}")
    cases.checks.that(codes == (RESOURCE, 0), f"closed streams: import and train end with {codes}")  # import has printed what it made
    with open(f"{folder}/open.h5", "rb") as one, open(f"{folder}/closed.h5", "rb") as other:
        cases.checks.that(one.read() == other.read(), "closed streams: import made another base")
    with open(f"{run}/metrics.jsonl") as file:
        lines = file.read().splitlines()
    cases.checks.that(len(lines) == 2 and all(line.startswith('{"step"') for line in lines), f"closed streams: metrics.jsonl has {lines}")
    shutil.rmtree(source)
    shutil.rmtree(run)
    for name in ("open.h5", "closed.h5"):
        os.remove(f"{folder}/{name}")


def check_names(cases, folder):
    """A pipe, a directory or a stream in the place of a file to write: refused before the work, and it stays what it was."""
    base, adapter, inside = f"{folder}/llama.h5", f"{folder}/run/adapter.h5", f"{folder}/names"
    commands = {
        "import": (f"{folder}/llama",),
        "tokenize": ("--format", "ids", "--base", base, f"{folder}/data.jsonl"),
        "merge": ("--base", base, "--adapter", adapter),
        "export": ("--format", "gguf", "--base", base),
    }
    os.mkdir(inside)
    os.mkdir(f"{inside}/directory")
    os.mkfifo(f"{inside}/pipe")
    os.symlink("/proc/self/fd/1", f"{inside}/stream")
    before = {name: os.lstat(f"{inside}/{name}").st_mode for name in os.listdir(inside)}
    for name in before:
        for command, words in commands.items():
            cases.fails(f"{command}, a {name} to write", RESOURCE, [f"is a {name}"], command, *words, f"{inside}/{name}")
    after = {name: os.lstat(f"{inside}/{name}").st_mode for name in os.listdir(inside)}
    cases.checks.that(after == before, f"names that are no files: {before} became {after}")
    shutil.rmtree(inside)


def check_below_a_file(cases, folder):
    """An output whose folder is a file: that is said, not what the system refuses of the file, nor that HDF5 failed."""
    config, base, adapter, below = f"{folder}/run.yaml", f"{folder}/llama.h5", f"{folder}/run/adapter.h5", f"{folder}/data.jsonl/x"
    one = ("--base", base, "--adapter", adapter)
    commands = (
        ("import", f"{folder}/llama", below),
        ("import", "--init", "random", "--config", f"{folder}/other.yaml", below),
        ("tokenize", "--format", "ids", "--base", base, f"{folder}/data.jsonl", below),
        ("merge", *one, below),
        ("export", "--format", "gguf", "--base", base, below),
        ("export", "--format", "hf", "--base", base, below),
        ("export", "--format", "peft", *one, below),
        ("generate", *one, "--prompts", f"{folder}/below.jsonl", "--out", below),
        ("eval", config, "--generate", below),
        ("eval", config, "--generate", f"{folder}/data.jsonl/two/x"),
        ("analyze", "subspace", adapter, adapter, "--base", base, "--out", below),
        ("train", config, "--set", f"run.dir={below}"),
    )
    with open(f"{folder}/below.jsonl", "w") as file:
        file.write('{"prompt_ids": [1, 2]}\n')
    for words in commands:
        cases.fails(f"{words[0]}, a name below a file", RESOURCE, ["data.jsonl/", "not a directory"], *words)
    cases.fails("eval, a name below a file", RESOURCE, ["data.jsonl/x", "not a directory"], *commands[8], ranks=2)
    os.remove(f"{folder}/below.jsonl")


def check_own_inputs(cases, folder):
    """A result that would replace what it is made from: refused before the work (main compares every file's bytes)."""
    config, base, adapter, data = f"{folder}/run.yaml", f"{folder}/llama.h5", f"{folder}/run/adapter.h5", f"{folder}/llama-data.h5"
    gguf, prompts, shape, link = (f"{folder}/{name}" for name in ("own.gguf", "own.jsonl", "own.yaml", "own-link"))
    gguf_models.write(gguf, "mistral")
    shutil.copy(f"{folder}/other.yaml", shape)
    with open(prompts, "w") as file:
        file.write('{"prompt_ids": [1, 2]}\n')
    os.symlink(gguf, link)
    same = ["same file"]
    cases.fails("import, over the source", USAGE, same, "import", gguf, gguf)
    cases.fails("import, over the source by a link", USAGE, same, "import", link, gguf)
    for name in ("model.safetensors", "config.json"):
        cases.fails(f"import, over {name}", USAGE, [name, "name of its own"], "import", f"{folder}/llama", f"{folder}/llama/{name}")
    cases.fails("import, over the description", USAGE, same, "import", "--init", "random", "--config", shape, shape)
    for ranks in (0, 2):
        for taken in (prompts, base, adapter):
            words = ("generate", "--base", base, "--adapter", f"a={adapter}", "--prompts", prompts, "--max-new", "1", "--out", taken)
            cases.fails(f"generate, over {taken}", USAGE, same, *words, ranks=ranks)
        for option in ("--generate", "--predictions"):
            for taken in (config, base, data, adapter):
                cases.fails(f"eval {option}, over {taken}", USAGE, same, "eval", config, "--adapter", adapter, option, taken, ranks=ranks)
    both = ("--generate", f"{folder}/both.jsonl", "--predictions", f"{folder}/both.jsonl")
    cases.fails("eval, both to one file", USAGE, ["both.jsonl"], "eval", config, *both)
    for _ in range(2):
        harness.mpilora("import", f"{folder}/llama", f"{folder}/llama/base.h5")  # over an older base of the same directory
    os.remove(f"{folder}/llama/base.h5")
    kept = snapshot(folder)
    cases.checks.that(kept[gguf][:4] == b"GGUF" and kept[prompts] == b'{"prompt_ids": [1, 2]}\n', "files that were to be replaced are others")
    for path in (gguf, prompts, shape, link):
        os.remove(path)


def main():
    checks = harness.Checks()
    cases = Cases(checks)
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        before = snapshot(folder)
        check_configurations(cases, folder)
        check_configuration_files(cases, folder)
        check_files_of_train(cases, folder)
        check_pipes(cases, folder)
        check_imports(cases, folder)
        check_directories(cases, folder)
        check_pointers(cases, folder)
        check_gguf_keys(cases, folder)
        check_tokenize(cases, folder)
        check_other_commands(cases, folder)
        check_output(cases, folder)
        check_closed_streams(cases, folder)
        check_names(cases, folder)
        check_below_a_file(cases, folder)
        check_own_inputs(cases, folder)
        after = snapshot(folder)
        changed = [path for path in before if after.get(path) != before[path]]
        checks.that(not changed, f"files were changed: {changed}")
        left = [path for path in after if path not in before and os.path.basename(path) not in ("a-file", "lock")]
        checks.that(not left, f"files were left behind: {left}")
    checks.end()


main()
