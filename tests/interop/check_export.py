"""mpilora's Hugging Face directories against transformers (a developer's check: needs torch, transformers, safetensors; no CTest test).

Models with random weights, biases and norms are saved by transformers, imported, exported and loaded again by transformers: in fp32 every tensor and every
logit must be equal bit by bit, in bf16 every matrix must be the rounded one and a second import must have the same content hash.

usage: python tests/interop/check_export.py MPILORA
"""
import pathlib
import subprocess
import sys
import tempfile

import h5py
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
LLAMA = {"vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2}
MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=97, n_positions=64, n_embd=48, n_layer=2, n_head=4, n_inner=80)),
    "gpt2-untied": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=97, n_positions=64, n_embd=48, n_layer=2, n_head=4, activation_function="relu", tie_word_embeddings=False)
    ),
    "llama-tied": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA, tie_word_embeddings=True, head_dim=16)),
    "llama-biases": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA, attention_bias=True, mlp_bias=True)),
    "llama-3": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA, rope_parameters={"rope_theta": 500000.0, **LLAMA3})),
}


def content_hash(path):
    with h5py.File(path) as file:
        return file.attrs["content_sha256"]


def check(mpilora, name, folder):
    torch.manual_seed(1)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.1 + (1.0 if p.dim() == 1 else 0.0))
    model.save_pretrained(folder / "source")
    tokens = torch.randint(0, 97, (2, 60))
    for dtype in ("fp32", "bf16"):
        base, out = folder / f"{dtype}.h5", folder / dtype
        subprocess.run([mpilora, "import", folder / "source", base, "--dtype", dtype], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([mpilora, "export", "--format", "hf", "--base", base, out], check=True, stderr=subprocess.DEVNULL)
        subprocess.run([mpilora, "import", out, folder / "again.h5", "--dtype", dtype], check=True, stdout=subprocess.DEVNULL)
        assert content_hash(base) == content_hash(folder / "again.h5"), f"{name} {dtype}: a second import has other contents"
        loaded = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
        wanted = model.state_dict()
        for key, value in loaded.state_dict().items():
            rounded = wanted[key].bfloat16().float() if dtype == "bf16" and value.dim() == 2 else wanted[key]
            assert torch.equal(value, rounded), f"{name} {dtype}: {key} differs"
        if dtype == "fp32":
            with torch.no_grad():
                assert torch.equal(loaded(tokens).logits, model(tokens).logits), f"{name}: logits differ"
    print(f"{name}: fp32 weights and logits identical, bf16 weights those rounded once")


def main():
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            check(sys.argv[1], name, pathlib.Path(folder))


if __name__ == "__main__":
    main()
