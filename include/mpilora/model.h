/* model: what a model is (ml_model_spec) and its forward and backward pass.
 *
 * Tensor names of mpilora, the same in base files, checkpoints and adapters (N counts layers from 0; all matrices out × in):
 *   embed.weight [V, d]    position.weight [context, d] (GPT-2 family)    norm.weight, norm.bias [d]    head.weight [V, d] (untied)
 *   layers.N.norm1.weight/.bias   layers.N.attn.{q,k,v,o}.weight/.bias   layers.N.norm2.weight/.bias
 *   layers.N.mlp.{fc,proj}.weight/.bias (GPT-2 family)   layers.N.mlp.{gate,up,down}.weight/.bias (Llama family)
 * GPT-2's fused c_attn is stored as q, k and v. Rotary q and k rows are in Hugging Face's order (pairs i, i + h/2).
 */
#ifndef MPILORA_MODEL_H
#define MPILORA_MODEL_H

#include "mpilora/base.h"
#include "mpilora/kernels.h"

typedef enum ml_family { ML_FAMILY_GPT2, ML_FAMILY_LLAMA } ml_family;

typedef struct ml_rope_scaling { /* Llama-3's; factor 0: none */
    double factor, low_freq_factor, high_freq_factor;
    int64_t original_context;
} ml_rope_scaling;

typedef struct ml_model_spec {
    ml_family family;
    int64_t layers, width, mlp_width, heads, kv_heads, head_dim, vocab, context;
    ml_activation activation;
    double norm_eps;
    double rope_theta; /* Llama family */
    ml_rope_scaling rope_scaling;
    bool tied_head;
    bool qkv_bias, o_bias, mlp_bias; /* GPT-2 family: all true */
} ml_model_spec;

/* ML_INPUT or ML_USAGE are the caller's choice: returns `bad` with a text naming the field, where a value is out of range or two
 * contradict each other (heads % kv_heads, width of an odd head, …). */
ml_status ml_model_spec_check(const ml_model_spec *spec, ml_status bad) ML_NODISCARD;

/* One base tensor as the specification wants it. */
typedef struct ml_model_tensor {
    char name[64];
    int64_t rows, cols; /* vectors: n × 1 */
    bool vector;
    bool norm_or_bias; /* always stored fp32 */
} ml_model_tensor;

/* Tensors are numbered 0 … ml_model_tensor_count − 1 in a fixed order: embed, position, layers, norm, head. */
int64_t ml_model_tensor_count(const ml_model_spec *spec);
void ml_model_tensor_at(const ml_model_spec *spec, int64_t index, ml_model_tensor *out);
int64_t ml_model_parameters_total(const ml_model_spec *spec); /* tied head counted once */

#endif
