/* What the files that import a Hugging Face directory share. */
#ifndef MPILORA_STORE_FORMATS_HUGGINGFACE_IMPORT_H
#define MPILORA_STORE_FORMATS_HUGGINGFACE_IMPORT_H

#include "store/base/import_private.h"
#include "store/formats/huggingface/huggingface.h"
#include "store/formats/huggingface/packed.h"
#include "store/formats/huggingface/shards.h"

typedef struct hf_source {
    hf_shards shards;
    packed_config packed; /* what config.json says of packed matrices */
    ml_model_spec *spec;
    bool bare;             /* the files' names lack the family's prefix */
    bool embed_from_head;  /* a tied pair of which the head alone was saved */
    const char *tokenizer; /* as it was read: the source's, which may not keep its length */
    int64_t tokenizer_length;
} hf_source;

/* import_names.c: the name that a tensor has in these files; also that of a tied model's head. */
void hf_find_place(const hf_source *h, const ml_model_tensor *tensor, ml_stored_place *place);
/* The row of the head, which a tied model does not have; that of an encoder is read where its head
 * for masked tokens is whole. */
bool hf_find_head(const hf_source *h, ml_model_tensor *head);
/* Whether the files have it, in numbers or packed; whether they have it packed. */
bool hf_has_tensor(const hf_source *h, const ml_model_tensor *tensor);
bool hf_is_packed(const hf_source *h, const ml_model_tensor *tensor, const ml_stored_place *place);

/* import_model.c: completes the model by what the files have. ML_INPUT. */
ml_status hf_settle_model(hf_source *h) ML_NODISCARD;

/* import_check.c: that every tensor of the model is there, with its type and shape. ML_INPUT. */
ml_status hf_check_tensors(hf_source *h) ML_NODISCARD;

#endif
