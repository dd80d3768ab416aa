/* What a family's file includes: the rows of its table, one line each.
 *
 * A file NAME.c here defines `const ml_family ml_family_NAME` and nothing else; the build lists the
 * folder, so there is no other place to add it to. family.h explains the table's columns, this file
 * only shortens its rows:
 *
 *   WEIGHT       a matrix: module, role, rows, cols, cut over tp, Hugging Face's name and layout,
 *                GGUF's name and layout, target word ("": no adapter goes there)
 *   HEAD         a matrix that a tied model lacks
 *   FUSED        all modules of a role as one target: module, role, rows, cols, names, word
 *   BIAS         of a matrix: module, role, rows, cut, when it is there, names, GGUF's layout
 *   NORM_WEIGHT  and
 *   NORM_BIAS    module, role, rows, Hugging Face's name, GGUF's name
 *
 * Names lack ".weight" and ".bias"; '@' is the layer's prefix. A table ends with {0}.
 *
 *   KEY          a key of config.json or of GGUF's metadata: key, kind, field of ml_model_spec
 *   REQUIRED     such a key that must be there
 *   CHECKED      a key that is only looked at: key, kind
 */
#ifndef MPILORA_MODEL_FAMILIES_FAMILIES_H
#define MPILORA_MODEL_FAMILIES_FAMILIES_H

#include <stddef.h>

#include "mpilora/family.h"

#define FAMILY(name) extern const ml_family ml_family_##name;
#include "model/families.inc" /* made by the build: FAMILY(gpt2) … */
#undef FAMILY

#define FAMILY_ROW(module_, bias_, role_, rows_, cols_, cut_, storage_, present_, hf_, suffix_, \
                   hf_layout_, gguf_, gguf_layout_, target_)                                    \
    {                                                                                           \
        .module = module_, .bias = bias_, .role = ML_ROLE_##role_, .rows = ML_EXTENT_##rows_,   \
        .cols = ML_EXTENT_##cols_, .cut = ML_CUT_##cut_, .storage = ML_STORED_##storage_,       \
        .present = ML_PRESENT_##present_, .hf = {hf_ suffix_, ML_LAYOUT_##hf_layout_},          \
        .gguf = {gguf_ suffix_, ML_LAYOUT_##gguf_layout_}, .peft = hf_, .target = target_       \
    }

#define WEIGHT(module, role, rows, cols, cut, hf, hf_layout, gguf, gguf_layout, target)        \
    FAMILY_ROW(module, false, role, rows, cols, cut, MATRIX, ALWAYS, hf, ".weight", hf_layout, \
               gguf, gguf_layout, target)
#define HEAD(module, rows, cols, cut, hf, gguf)                                                  \
    FAMILY_ROW(module, false, HEAD, rows, cols, cut, MATRIX, UNTIED, hf, ".weight", PLAIN, gguf, \
               PLAIN, "")
#define FUSED(module, role, rows, cols, hf, hf_layout, gguf, gguf_layout, target)              \
    FAMILY_ROW(module, false, role, rows, cols, ROWS, MATRIX, FUSED, hf, ".weight", hf_layout, \
               gguf, gguf_layout, target)
#define BIAS(module, role, rows, cut, present, hf, gguf, gguf_layout)                       \
    FAMILY_ROW(module, true, role, rows, ONE, cut, FP32, present, hf, ".bias", PLAIN, gguf, \
               gguf_layout, "")
#define NORM_WEIGHT(module, role, rows, hf, gguf)                                              \
    FAMILY_ROW(module, false, role, rows, ONE, NONE, FP32, ALWAYS, hf, ".weight", PLAIN, gguf, \
               PLAIN, "")
#define NORM_BIAS(module, role, rows, hf, gguf)                                                    \
    FAMILY_ROW(module, true, role, rows, ONE, NONE, FP32, ALWAYS, hf, ".bias", PLAIN, gguf, PLAIN, \
               "")

#define FAMILY_KEY(key_, kind_, required_, field_)                                  \
    {                                                                               \
        .key = key_, .kind = ML_KEY_##kind_, .required = required_, .field = field_ \
    }
#define KEY(key, kind, name) FAMILY_KEY(key, kind, false, offsetof(ml_model_spec, name))
#define REQUIRED(key, kind, name) FAMILY_KEY(key, kind, true, offsetof(ml_model_spec, name))
#define CHECKED(key, kind) FAMILY_KEY(key, kind, false, 0)

/* GGUF keys that every family refuses: they change what a model computes. */
#define GGUF_REFUSED                                                        \
    CHECKED("expert_count", OFF), CHECKED("attention.sliding_window", OFF), \
        CHECKED("attention.scale", OFF), CHECKED("logit_scale", OFF),       \
        CHECKED("embedding_scale", OFF), CHECKED("residual_scale", OFF)
/* GGUF's sizes, the same in every architecture. */
#define GGUF_SIZES                                                                                 \
    REQUIRED("block_count", SIZE, layers), REQUIRED("embedding_length", SIZE, width),              \
        REQUIRED("feed_forward_length", SIZE, mlp_width),                                          \
        REQUIRED("attention.head_count", SIZE, heads),                                             \
        KEY("attention.head_count_kv", SIZE, kv_heads), REQUIRED("context_length", SIZE, context), \
        KEY("attention.key_length", SIZE, head_dim)

#endif
