"""Adapters between PEFT and mpilora: what either writes, the other reads, and the model computes the same.

Needs torch, transformers, peft and h5py (exit 77 where they are missing). For small GPT-2 and Llama models with random weights:
PEFT saves an adapter → `mpilora export` reads it and writes it again → PEFT's logits with both are equal; `mpilora merge` puts it into the base, and
the merged weights are those of PEFT's merge_and_unload; `--subtract` gives the base back. Prompt and prefix tuning: logits likewise, and `mpilora eval` of
what PEFT saved has PEFT's loss.
"""
import copy
import json
import os
import pathlib
import subprocess
import sys
import tempfile

try:
    import h5py
    import peft
    import safetensors.torch
    import torch
    import transformers
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

MPILORA = os.environ["MPILORA"]
VOCAB, CONTEXT = 50, 16


def gpt2():
    config = transformers.GPT2Config(
        n_layer=2, n_embd=8, n_head=2, n_positions=CONTEXT, vocab_size=VOCAB, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config).eval()


def llama():
    config = transformers.LlamaConfig(
        num_hidden_layers=2,
        hidden_size=8,
        intermediate_size=12,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCAB,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config).eval()


def phi3():
    config = transformers.Phi3Config(num_hidden_layers=2, hidden_size=8, intermediate_size=12, num_attention_heads=4, num_key_value_heads=2, vocab_size=VOCAB,
                                     max_position_embeddings=CONTEXT, original_max_position_embeddings=CONTEXT, pad_token_id=0)
    return transformers.Phi3ForCausalLM(config).eval()


def phi():
    config = transformers.PhiConfig(num_hidden_layers=2, hidden_size=8, intermediate_size=12, num_attention_heads=2, vocab_size=VOCAB, max_position_embeddings=CONTEXT)
    return transformers.PhiForCausalLM(config).eval()


def neox():
    config = transformers.GPTNeoXConfig(num_hidden_layers=2, hidden_size=16, intermediate_size=12, num_attention_heads=2, vocab_size=VOCAB, max_position_embeddings=CONTEXT,
                                        rotary_pct=0.5)
    return transformers.GPTNeoXForCausalLM(config).eval()


def untied():
    model = llama()
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**model.config.to_dict(), "tie_word_embeddings": False})).eval()


CASES = {
    "gpt2 fused": (gpt2, {"target_modules": ["c_attn"]}),
    "gpt2 all": (gpt2, {"target_modules": "all-linear", "use_rslora": True}),
    "gpt2 patterns": (
        gpt2,
        {
            "target_modules": ["c_attn", "mlp.c_proj"],
            "rank_pattern": {"mlp.c_proj": 5},
            "alpha_pattern": {"h.1.attn.c_attn": 3},
        },
    ),
    "gpt2 one layer": (gpt2, {"target_modules": r".*\.h\.1\.attn\.c_(attn|proj)"}),
    "llama q v": (llama, {"target_modules": ["q_proj", "v_proj"], "use_rslora": True}),
    "llama all": (llama, {"target_modules": "all-linear"}),
    "llama layer 1": (llama, {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]}),
    "gpt2 dora": (gpt2, {"target_modules": "all-linear", "use_dora": True}),
    "llama dora": (llama, {"target_modules": "all-linear", "use_dora": True, "use_rslora": True, "rank_pattern": {"down_proj": 3}}),
    "gpt2 biases": (gpt2, {"target_modules": ["c_attn"], "bias": "all"}),
    "gpt2 lora biases": (gpt2, {"target_modules": ["c_attn", "mlp.c_proj"], "bias": "lora_only"}),
    "gpt2 modules": (gpt2, {"target_modules": ["mlp.c_proj"], "modules_to_save": ["h.0.attn.c_attn", "c_fc"]}),
    "phi3 modules": (phi3, {"target_modules": ["o_proj"], "modules_to_save": ["qkv_proj", "layers.1.mlp.gate_up_proj"]}),
    "gpt2 tokens": (gpt2, {"target_modules": ["c_attn"], "trainable_token_indices": [7, 3, 49]}),
    "llama tokens": (llama, {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [0, 11, 4]}}),
    "untied tokens": (untied, {"target_modules": ["q_proj"], "trainable_token_indices": {"lm_head": [9, 2], "embed_tokens": [4]}}),
    "untied embedding": (untied, {"target_modules": ["q_proj"], "trainable_token_indices": [4, 5]}),
    "neox head": (neox, {"target_modules": ["query_key_value", "lm_head"]}),
    "neox head saved": (neox, {"target_modules": ["query_key_value"], "modules_to_save": ["lm_head"]}),
    "llama excluded": (
        llama,
        {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["layers.0.self_attn.v_proj"]},
    ),
}


ENDS_CASES = {  # with what PEFT saves of embedding and head
    "tied, both saved": (llama, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}),
    "tied, embedding saved": (llama, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    "untied, head saved": (untied, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "tied, tokens": (llama, {"target_modules": ["q_proj"], "trainable_token_indices": [7, 3, 49]}),
    "untied, tokens": (untied, {"target_modules": ["q_proj"], "trainable_token_indices": {"lm_head": [9, 2], "embed_tokens": [4]}}),
    "biased head": (phi, {"target_modules": ["fc1", "fc2"]}),
    "biased head saved": (phi, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
}
VIRTUAL_CASES = {  # of 3 tokens each
    "gpt2 prompt": (gpt2, peft.PromptTuningConfig, {}),
    "llama prompt": (llama, peft.PromptTuningConfig, {}),
    "gpt2 prefix": (gpt2, peft.PrefixTuningConfig, {}),
    "llama prefix": (llama, peft.PrefixTuningConfig, {}),
    "gpt2 projected prefix": (gpt2, peft.PrefixTuningConfig, {"prefix_projection": True, "encoder_hidden_size": 5}),
    "llama projected prefix": (llama, peft.PrefixTuningConfig, {"prefix_projection": True}),
}


def mpilora(*words):
    done = subprocess.run([MPILORA, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: exit {done.returncode}: {done.stderr}"


def base_weights(path):
    with h5py.File(path) as file:
        return {name: torch.tensor(file["tensors"][name][:]) for name in file["tensors"]}


def largest_difference(one, other):
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def randomise(parameters):
    for parameter in parameters:
        torch.nn.init.normal_(parameter, std=0.3)


def check_case(name, make, options, folder):
    torch.manual_seed(1)
    ids = torch.arange(12).reshape(1, 12)
    model = make()
    randomise(model.parameters())
    model.save_pretrained(folder / "model")
    plain = copy.deepcopy(model)
    config = peft.LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", fan_in_fan_out=make is gpt2, **options)
    adapted = peft.get_peft_model(model, config).eval()
    for parameter_name, parameter in adapted.named_parameters():
        if "lora_" in parameter_name or "trainable_tokens" in parameter_name or parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(folder / "adapter")
    expected = adapted(ids).logits.detach()
    assert (plain(ids).logits - expected).abs().max() > 1e-2, f"{name}: the adapter does nothing"

    mpilora("import", folder / "model", folder / "base.h5", "--dtype", "fp32")
    mpilora("export", "--format", "peft", "--base", folder / "base.h5", "--adapter", folder / "adapter", folder / "again")
    again = peft.PeftModel.from_pretrained(copy.deepcopy(plain), folder / "again").eval()(ids).logits.detach()
    difference = (again - expected).abs().max().item()
    assert difference < 1e-6, f"{name}: exported again, the logits differ by {difference}"

    mpilora("merge", "--base", folder / "base.h5", "--adapter", folder / "adapter", "--dtype", "fp32", folder / "merged.h5")
    adapted.merge_and_unload().save_pretrained(folder / "merged")
    mpilora("import", folder / "merged", folder / "expected.h5", "--dtype", "fp32")
    merged = largest_difference(base_weights(folder / "merged.h5"), base_weights(folder / "expected.h5"))
    assert merged < 2e-6, f"{name}: merged weights differ by {merged}"

    mpilora("merge", "--subtract", "--original", folder / "base.h5", "--base", folder / "merged.h5", "--adapter", folder / "adapter", folder / "back.h5")
    back = largest_difference(base_weights(folder / "back.h5"), base_weights(folder / "base.h5"))
    assert back == 0, f"{name}: subtracted weights differ by {back}"
    print(f"{name}: logits {difference:.1e}, merged {merged:.1e}")


def eval_loss(folder, sequence, method="prefix_embed"):
    """Of one sequence, with the adapter that PEFT saved."""
    (folder / "data.jsonl").write_text(json.dumps({"input_ids": sequence, "labels": sequence}) + "\n")
    mpilora("tokenize", "--base", folder / "base.h5", "--format", "ids", folder / "data.jsonl", folder / "data.h5")
    sections = {"run": {"dir": f"{folder}/run"}, "base": f"{folder}/base.h5", "data": {"train": f"{folder}/data.h5", "valid": f"{folder}/data.h5", "max_len": 12},
                "method": {"name": method}, "batch": {"sequences": 1}, "train": {"steps": 1}, "precision": "fp32"}
    (folder / "run.yaml").write_text(json.dumps(sections))
    done = subprocess.run([MPILORA, "eval", folder / "run.yaml", "--adapter", folder / "adapter", "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["loss"]


def check_loss(name, plain, folder, least):
    """With the adapter in the folder, the loss that PEFT has, which is another one than without it."""
    ids = torch.arange(3, 13).reshape(1, 10)
    with torch.no_grad():
        loaded = peft.PeftModel.from_pretrained(copy.deepcopy(plain), folder / "adapter").eval()
        before, expected = (m(input_ids=ids, labels=ids).loss.item() for m in (plain, loaded))
    assert abs(expected - before) > least, f"{name}: the adapter does nothing: {before} and {expected}"
    mpilora("import", folder / "model", folder / "base.h5", "--dtype", "fp32")
    found = eval_loss(folder, ids[0].tolist(), "lora")
    assert abs(found - expected) < 2e-6 * expected, f"{name}: loss {found}, PEFT {expected}"
    print(f"{name}: loss {found:.7f}, PEFT {expected:.7f}")


def check_tied(target, folder):
    """PEFT names one of two tied modules and writes factors of both. Its own merge_and_unload adds them to the shared weight twice, so losses are compared."""
    torch.manual_seed(4)
    model = llama()
    randomise(model.parameters())
    model.save_pretrained(folder / "model")
    config = peft.LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", target_modules=[target, "q_proj"], ensure_weight_tying=True)
    adapted = peft.get_peft_model(copy.deepcopy(model), config).eval()
    randomise(parameter for name, parameter in adapted.named_parameters() if "lora_" in name)
    adapted.save_pretrained(folder / "adapter")
    check_loss(f"{target} tied", model, folder, 1e-2)


def check_ends(name, make, options, folder):
    """With embedding and head in the file, as after resize_token_embeddings: PEFT saves every tensor of what it has wrapped there, those that it does not read
    as well. They do not stop a reader, and none of them is taken for what was trained."""
    torch.manual_seed(5)
    model = make()
    randomise(model.parameters())
    model.save_pretrained(folder / "model")
    plain = copy.deepcopy(model)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **options)).eval()
    randomise(parameter for parameter in adapted.parameters() if parameter.requires_grad)
    adapted.save_pretrained(folder / "adapter", save_embedding_layers=True)
    check_loss(name, plain, folder, 1e-3)


def check_former_name(options, folder):
    """GPT-NeoX's head as transformers 4 called it, and PEFT with it."""
    torch.manual_seed(6)
    model = neox()
    randomise(model.parameters())
    model.save_pretrained(folder / "model")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **options))
    randomise(parameter for parameter in adapted.parameters() if parameter.requires_grad)
    adapted.save_pretrained(folder / "adapter")
    mpilora("import", folder / "model", folder / "base.h5", "--dtype", "fp32")
    ids, losses = list(range(3, 13)), [eval_loss(folder, list(range(3, 13)), "lora")]
    config, weights = folder / "adapter" / "adapter_config.json", folder / "adapter" / "adapter_model.safetensors"
    config.write_text(config.read_text().replace("lm_head", "embed_out"))
    tensors = safetensors.torch.load_file(weights)
    safetensors.torch.save_file({name.replace("lm_head", "embed_out"): tensor for name, tensor in tensors.items()}, weights)
    losses.append(eval_loss(folder, ids, "lora"))
    assert "embed_out" in config.read_text() and losses[0] == losses[1], f"neox {options}: losses {losses}"


def check_virtual(name, make, kind, options, folder):
    torch.manual_seed(2)
    ids = torch.arange(3, 13).reshape(1, 10)
    model = make()
    randomise(model.parameters())
    model.save_pretrained(folder / "model")
    plain = copy.deepcopy(model)
    adapted = peft.get_peft_model(model, kind(task_type="CAUSAL_LM", num_virtual_tokens=3, **options)).eval()
    for parameter in adapted.prompt_encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    adapted.save_pretrained(folder / "adapter")
    labels = ids.clone()
    labels[0, 0] = -100  # with prompt tuning PEFT would predict the first word from the last virtual token
    expected = adapted(input_ids=ids, labels=labels)
    assert (copy.deepcopy(plain)(ids).logits - expected.logits[:, -ids.shape[1] :]).abs().max() > 1e-2, f"{name}: the tokens do nothing"
    mpilora("import", folder / "model", folder / "base.h5", "--dtype", "fp32")
    mpilora("export", "--format", "peft", "--base", folder / "base.h5", "--adapter", folder / "adapter", folder / "again")
    again = peft.PeftModel.from_pretrained(plain, folder / "again").eval()(input_ids=ids).logits
    difference = (again - expected.logits).abs().max().item()
    assert difference < 1e-6, f"{name}: exported again, the logits differ by {difference}"
    loss = eval_loss(folder, ids[0].tolist())
    apart = abs(loss - expected.loss.item())
    assert apart < 1e-5, f"{name}: eval's loss is {loss}, PEFT's {expected.loss.item()}"
    print(f"{name}: logits {difference:.1e}, loss {apart:.1e}")


def main():
    for name, (make, kind, options) in VIRTUAL_CASES.items():
        with tempfile.TemporaryDirectory(prefix="mpilora-peft-") as folder:
            check_virtual(name, make, kind, options, pathlib.Path(folder))
    for name, (make, options) in ENDS_CASES.items():
        with tempfile.TemporaryDirectory(prefix="mpilora-peft-") as folder:
            check_ends(name, make, options, pathlib.Path(folder))
    for options in ({"target_modules": ["query_key_value", "lm_head"]}, {"target_modules": ["query_key_value"], "modules_to_save": ["lm_head"]}):
        with tempfile.TemporaryDirectory(prefix="mpilora-peft-") as folder:
            check_former_name(options, pathlib.Path(folder))
    for target in ("embed_tokens", "lm_head"):
        with tempfile.TemporaryDirectory(prefix="mpilora-peft-") as folder:
            check_tied(target, pathlib.Path(folder))
    for name, (make, options) in CASES.items():
        with tempfile.TemporaryDirectory(prefix="mpilora-peft-") as folder:
            check_case(name, make, options, pathlib.Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
