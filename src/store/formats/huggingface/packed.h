/* Packed matrices of a Hugging Face directory by the names of a family's table. An internal
 * module. */
#ifndef MPILORA_STORE_FORMATS_HUGGINGFACE_PACKED_H
#define MPILORA_STORE_FORMATS_HUGGINGFACE_PACKED_H

#include "mpilora/family.h"
#include "store/formats/packed/packed.h"

/* The stored matrix at `place` where it is packed, else *found is false. The packed one of a
 * tensor that is stored in × out is out × in. ML_INPUT where it is there in both ways. */
ml_status hf_packed_open(packed_matrix *out, bool *found, const packed_config *config,
                         const hf_shards *shards, const ml_model_tensor *tensor,
                         const ml_stored_place *place) ML_NODISCARD;
/* Rows [first, first + count) of the tensor, `row_bytes` each: numbers, or in blocks. */
ml_status hf_packed_read(const packed_matrix *m, const ml_stored_place *place, int64_t first,
                         int64_t count, int64_t row_bytes, bool blocks, void *out) ML_NODISCARD;

#endif
