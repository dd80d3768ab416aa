#!/usr/bin/env bash
# transformers 5.24.0: a GGUF file of a model with scaled rotary positions, as Llama 3.1 to 3.3 are,
# loads as a model without the scaling.
#
# GGUF has the scaling as rope.scaling.type and .factor (linear, yarn), Llama 3's as the tensor
# rope_freqs.weight with a divisor for each pair. from_pretrained(gguf_file=…) takes rope.freq_base
# alone, for every architecture but gpt-oss; keys and tensor are left, with no warning.
# Expected: the logits of the model that was written. Seen: so without scaling, otherwise others, and
# rope_type "default" in the configuration, with which an adapter would be trained and merged.
source "$(dirname "${BASH_SOURCE[0]}")/support.sh"
python_with gguf==0.19.0 transformers==5.24.0 accelerate==1.15.0 torch==2.13.0 numpy==2.3.5
FOLDER=$folder OMP_NUM_THREADS=1 quietly "$python" - <<'PYTHON'
import os

import gguf
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

WIDTH, HEADS, CONTEXT, THETA, VOCABULARY = 64, 4, 256, 10000.0, 64
PAIRS = WIDTH // HEADS // 2
NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "model.layers.0.input_layernorm": "blk.0.attn_norm",
         "model.layers.0.post_attention_layernorm": "blk.0.ffn_norm", "model.layers.0.self_attn.o_proj": "blk.0.attn_output"}
NAMES |= {f"model.layers.0.self_attn.{name}_proj": f"blk.0.attn_{name}" for name in "qkv"}
NAMES |= {f"model.layers.0.mlp.{name}_proj": f"blk.0.ffn_{name}" for name in ("gate", "up", "down")}
SCALINGS = {"none": {"rope_type": "default"}, "linear": {"rope_type": "linear", "factor": 4.0},
            "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
            "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}


def write(path, model, kind):
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in (("name", "tiny"), ("context_length", CONTEXT), ("embedding_length", WIDTH), ("feed_forward_length", 96), ("block_count", 1),
                       ("head_count", HEADS), ("head_count_kv", HEADS), ("vocab_size", VOCABULARY), ("layer_norm_rms_eps", 1e-6),
                       ("rope_freq_base", THETA), ("rope_dimension_count", 2 * PAIRS)):
        getattr(writer, "add_" + add)(value)
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(64)
    if kind == "llama3":
        unscaled = THETA ** (-torch.arange(PAIRS) / PAIRS)
        writer.add_tensor("rope_freqs.weight", (unscaled / model.model.rotary_emb.inv_freq).numpy())
    for name, tensor in model.state_dict().items():
        stem = name.removesuffix(".weight")
        if stem.endswith(("q_proj", "k_proj")):  # the format wants the two numbers of a pair beside each other
            tensor = tensor.reshape(HEADS, 2, PAIRS, WIDTH).transpose(1, 2).reshape(WIDTH, WIDTH)
        writer.add_tensor(NAMES[stem] + ".weight", tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


ids = torch.randint(0, VOCABULARY, (1, 48), generator=torch.Generator().manual_seed(1))
difference = {}
for kind, scaling in SCALINGS.items():
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=1, num_attention_heads=HEADS,
                                         max_position_embeddings=CONTEXT, initializer_range=0.3, rope_parameters={"rope_theta": THETA} | scaling)).eval()
    write(f"{os.environ['FOLDER']}/{kind}.gguf", model, kind)
    read = AutoModelForCausalLM.from_pretrained(os.environ["FOLDER"], gguf_file=f"{kind}.gguf", dtype=torch.float32).eval()
    with torch.no_grad():
        meant, found = model(ids).logits, read(ids).logits
    difference[kind] = float((found - meant).abs().max() / meant.abs().max())
    print(f"scaling {kind}: read as {read.config.rope_parameters['rope_type']}; the logits differ by {difference[kind]:.1e} of the largest")
assert difference.pop("none") < 1e-5 < 1e-2 < min(difference.values()), "this has changed"
PYTHON
