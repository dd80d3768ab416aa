/* method: what trains (config.h's method): the methods' words, sizes and targets, and the layers
 * and modules that they name. */
#ifndef MPILORA_METHOD_H
#define MPILORA_METHOD_H

#include "mpilora/base.h"
#include "mpilora/spec.h"

ML_BEGIN_DECLS

typedef enum ml_method {
    ML_METHOD_LORA,
    ML_METHOD_FULL,
    ML_METHOD_TOP,
    ML_METHOD_BITFIT,
    ML_METHOD_PREFIX_EMBED,
    ML_METHOD_PREFIX_LAYER,
    ML_METHOD_PREFIX_KV,
    ML_METHOD_ADAPTER_H,
    ML_METHOD_ADAPTER_L,
    ML_METHOD_ADAPTER_P,
    ML_METHOD_ADAPTER_DROP,
    ML_METHOD_COMPACTER,
    ML_METHOD_LORA_PREFIX_EMBED,
    ML_METHOD_LORA_PREFIX_LAYER,
    ML_METHOD_LORA_PREFIX_KV,
    ML_METHODS
} ml_method;

/* The word of a method as method.name has it: "lora", "full", …, "lora+prefix_kv".
 * Shapes: none.
 * Ownership: static.
 * Local.
 * Errors: none. */
const char *ml_method_name(ml_method method);

/* The method of a word; false: it is none, and *out stays as it was.
 * Shapes: none.
 * Ownership: all borrowed.
 * Local.
 * Errors: none. */
bool ml_method_find(const char *name, ml_method *out);

/* What a method has: LoRA's pairs; virtual tokens; of these, keys and values alone (prefix_kv);
 * bottlenecks (adapter_h, adapter_l, adapter_p, adapter_drop, compacter). A method that is two has
 * what either has.
 * Shapes: none.
 * Ownership: none.
 * Local.
 * Errors: none. */
bool ml_method_has_lora(ml_method method);
bool ml_method_has_prefix(ml_method method);
bool ml_method_has_keys(ml_method method);
bool ml_method_has_bottleneck(ml_method method);

/* Whether a method trains whole modules of the base beside its own (method.modules_to_save): those
 * that train tensors of the base themselves do not.
 * Shapes: none.
 * Ownership: none.
 * Local.
 * Errors: none. */
bool ml_method_saves_modules(ml_method method);

/* Sizes of the methods other than LoRA; each method reads its own. In comments: the key's
 * default. */
typedef struct ml_method_sizes {
    int64_t top;    /* method.top: 2, the last layers that train (top) */
    int64_t prefix; /* method.prefix: 8, trained positions before a sequence (prefix_embed,
                       prefix_layer, prefix_kv) */
    int64_t
        infix; /* method.infix: 0, and between prompt and completion (prefix_embed, prefix_layer) */
    int64_t bottleneck; /* method.bottleneck: 8, the width of adapter_h, adapter_l, adapter_p,
                           adapter_drop and compacter */
    int64_t drop;       /* method.drop: 0, the first layers without an adapter (adapter_drop) */
    int64_t factors;    /* method.factors: 4, Kronecker terms (compacter) */
    bool new_biases;    /* method.new_biases: false; true: biases that the model lacks are made, as
                           zeros (bitfit) */
} ml_method_sizes;

/* What virtual tokens start as: small random numbers; what tokens drawn from the vocabulary, or
 * those of a text, are to the base. */
typedef enum ml_prefix_init {
    ML_PREFIX_RANDOM,
    ML_PREFIX_VOCABULARY,
    ML_PREFIX_TEXT
} ml_prefix_init;

/* The word as method.prefix_init has it: "random", "vocabulary", "text".
 * Shapes: none.
 * Ownership: static.
 * Local.
 * Errors: none. */
const char *ml_prefix_init_name(ml_prefix_init init);

typedef enum ml_bias {
    ML_BIAS_NONE,
    ML_BIAS_ALL,
    ML_BIAS_LORA_ONLY /* those of adapted modules */
} ml_bias;

typedef enum ml_scaling { ML_SCALING_STANDARD, ML_SCALING_RSLORA } ml_scaling; /* α/r, α/√r */

/* Targets as bits; which of them a model has is checked against it. ML_TARGET_ALL stands for
 * "every linear layer that tokens go through", which head, embedding and what projects the rows of
 * DeBERTa's distances are not. */
typedef enum ml_target {
    ML_TARGET_Q = 1,
    ML_TARGET_K = 2,
    ML_TARGET_V = 4,
    ML_TARGET_O = 8,
    ML_TARGET_FC = 16,
    ML_TARGET_PROJ = 32,
    ML_TARGET_GATE = 64,
    ML_TARGET_UP = 128,
    ML_TARGET_DOWN = 256,
    ML_TARGET_QKV = 512, /* a fused projection as one adapter: GPT-2's, Phi-3's */
    ML_TARGET_GATE_UP = 1024,
    ML_TARGET_HEAD = 2048,
    ML_TARGET_EMBED = 4096,
    ML_TARGET_POS_Q = 8192, /* of the rows of distances, where they are not q's and k's */
    ML_TARGET_POS_K = 16384,
    ML_TARGET_ALL = 32768
} ml_target;

/* The word of a target as method.targets has it; "?" for what is not one bit of them.
 * Shapes: none.
 * Ownership: static.
 * Local.
 * Errors: none. */
const char *ml_target_name(ml_target target);

/* The bit of a word of method.targets; 0: it is none.
 * Shapes: an ml_target bit.
 * Ownership: borrows `word`.
 * Local.
 * Errors: none. */
unsigned ml_target_find(const char *word);

/* Targets of `bits` that a model has, ML_TARGET_ALL resolved.
 * Shapes: ml_target bits.
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_USAGE naming the first target that the model lacks and those it has, and where all,
 * or a fused target and its parts, do not stand alone; ML_RESOURCE. */
ml_status ml_targets_resolve(const ml_model_spec *spec, unsigned bits, unsigned *out) ML_NODISCARD;

/* method.layers: ranges of layers from 0, ascending and apart; none: every layer. */
typedef struct ml_layer_ranges {
    int64_t count;
    struct {
        int64_t first, last;
    } * range;
} ml_layer_ranges;

/* method.rank_pattern, method.alpha_pattern: a module takes the value of the first name that is its
 * own ("layers.0.attn.q") or its end behind a dot ("q", "attn.q"), as PEFT's patterns do with
 * module names. */
typedef struct ml_module_patterns {
    int64_t count;
    struct {
        char module[64];
        double value;
    } * item;
} ml_module_patterns;

/* Appends layers or patterns as the file has them: [0, 2-5] and {"q": 4}; null where there are
 * none.
 * Shapes: none.
 * Ownership: `out` is the caller's; the rest is borrowed.
 * Local.
 * Errors: ML_RESOURCE. */
ml_status ml_layer_ranges_write(const ml_layer_ranges *layers, ml_text *out) ML_NODISCARD;
ml_status ml_module_patterns_write(const ml_module_patterns *patterns, ml_text *out) ML_NODISCARD;

/* Appends names as the file has them, ["head", "norm"]; null where there are none.
 * Shapes: none.
 * Ownership: `out` is the caller's; the rest is borrowed.
 * Local.
 * Errors: ML_RESOURCE. */
ml_status ml_module_names_write(const ml_module_patterns *names, ml_text *out) ML_NODISCARD;

ML_END_DECLS

#endif
