/* adapter: what adapter.h5, PEFT directories and the study of adapters share. For modules inside
 * the library. */
#ifndef MPILORA_STORE_ADAPTER_ADAPTER_H
#define MPILORA_STORE_ADAPTER_ADAPTER_H

#include "mpilora/family.h"
#include "mpilora/store.h"

float ml_adapter_scale(double alpha, int64_t rank, bool rslora);

/* Appends a pair with room for its factors; *pair stays valid until the next call. */
ml_status ml_adapter_add(ml_adapter *adapter, int64_t *capacity, const char *module, int64_t rank,
                         int64_t in, int64_t out, ml_adapter_pair **pair) ML_NODISCARD;
/* Room for a pair's magnitudes. */
ml_status ml_adapter_add_magnitudes(ml_adapter_pair *pair) ML_NODISCARD;

/* One more tensor with room for its values, which *value borrows. */
ml_status ml_adapter_add_tensor(ml_adapter *adapter, const char *name, int64_t rows, int64_t cols,
                                float **value) ML_NODISCARD;
/* ML_INPUT where the adapter says which base it belongs to, and that is another one than the base
 * with these hashes (NULL: not known). */
ml_status ml_adapter_check_base(const ml_adapter *adapter, const char *source_hash,
                                const char *content_hash) ML_NODISCARD;
/* Sites, shapes, ranks and values of all pairs: ML_INPUT naming module, found and expected. Sorts
 * the pairs into the model's order. */
ml_status ml_adapter_check(ml_adapter *adapter, const ml_model_spec *spec) ML_NODISCARD;

/* ---- adapter.h5 ---------------------------------------------------------------------------- */

enum { ML_ADAPTER_BLOCK = 512 }; /* bytes before HDF5's */

/* Fills the first block (zeros until then) of a file whose bytes behind it have this hash. */
void ml_adapter_seal_make(char block[ML_ADAPTER_BLOCK], const char *hash);
/* Checks it of the open file `fd` of `count` bytes, which is read once; `whole` gets the hash of
 * all its bytes. ML_INPUT naming `path`. */
ml_status ml_adapter_seal_check(int fd, const char *path, int64_t count,
                                char whole[ML_SHA256_HEX]) ML_NODISCARD;

ml_status ml_adapter_read_file(ml_adapter *out, const char *path) ML_NODISCARD;
ml_status ml_adapter_read_peft(ml_adapter *out, const char *directory, const ml_model_spec *spec,
                               ml_base *base) ML_NODISCARD; /* NULL: no base at hand */

#endif
