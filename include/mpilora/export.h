/* export: a base file as other programs' files. Streams: memory stays below 1 GiB, whatever the
 * model's size. Local. */
#ifndef MPILORA_EXPORT_H
#define MPILORA_EXPORT_H

#include "mpilora/base.h"
#include "mpilora/blocks.h"
#include "mpilora/store.h"

ML_BEGIN_DECLS

/* A Hugging Face directory that transformers loads: config.json, model.safetensors (matrices in
 * the base's dtype, norms and biases fp32; GPT-2 with its fused c_attn, in × out), and
 * tokenizer.json with tokenizer_config.json where the base has a tokenizer.
 * Shapes: as the family's table says.
 * Ownership: borrows `base`.
 * Local.
 * Errors: ML_USAGE where `directory` holds anything but an earlier export; ML_INPUT where the
 * format cannot say what the model is; ML_RESOURCE where it cannot be written. */
ml_status ml_export_huggingface(ml_base *base, const char *directory) ML_NODISCARD;

/* What a GGUF file is to have. */
typedef struct ml_gguf_export_options {
    const ml_block_format *type; /* of matrices; NULL: what the base keeps each in. Blocks go by
                                    llama.cpp's rules for the head and for rows that do not fit
                                    (ml_import_formats); what no block fits keeps the base's type */
    const char *chat_template;   /* NULL: none */
    const char *tool_template;   /* for conversations with tools; NULL: the same one */
} ml_gguf_export_options;

/* A GGUF file that llama.cpp loads: description, tokenizer and chat template, matrices in
 * `options->type`, norms, biases and learned positions F32. A matrix that the base keeps in blocks
 * of the same format keeps its bytes. A tokenizer that GGUF has no words for is left out with a
 * warning. An existing file is replaced once the new one is whole.
 * Shapes: as the family's table says.
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_INPUT, before any weight is read, naming what GGUF cannot say of the model, and later
 * where a number does not fit its type; ML_USAGE where `path` is the base itself, or parts of one
 * stored tensor are kept in different formats; ML_RESOURCE where it cannot be written. */
ml_status ml_export_gguf(ml_base *base, const ml_gguf_export_options *options,
                         const char *path) ML_NODISCARD;

/* Whether ml_export_gguf could say what the model of `base` is and write to `path`, in no time: a
 * file without contents is made beside it and taken away.
 * Shapes: none.
 * Ownership: all borrowed.
 * Local.
 * Errors: those of ml_export_gguf before any weight is read. */
ml_status ml_export_gguf_check(ml_base *base, const char *path) ML_NODISCARD;

/* llama.cpp's file of a LoRA adapter: general.type adapter, NAME.lora_a [r, in] and NAME.lora_b
 * [out, r] in F32 for every adapted tensor of the model's GGUF file, with its rows. Pairs whose
 * weights are one tensor there become one of the sum of their ranks. One adapter.lora.alpha stands
 * for all, so B carries what a pair's own scale differs by.
 * Shapes: as ml_adapter says.
 * Ownership: all borrowed.
 * Local.
 * Errors: ML_USAGE naming what a GGUF adapter cannot say: another method, DoRA, saved modules,
 * single tokens, biases, the embedding, a tied head; ML_INPUT where GGUF has no architecture for
 * the model; ML_RESOURCE where it cannot be written. */
ml_status ml_adapter_export_gguf(const ml_adapter *adapter, const ml_model_spec *spec,
                                 const char *path) ML_NODISCARD;

ML_END_DECLS

#endif
