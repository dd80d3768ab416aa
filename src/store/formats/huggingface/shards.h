/* The files that hold a Hugging Face model's weights. Local; an internal module. */
#ifndef MPILORA_STORE_FORMATS_HUGGINGFACE_SHARDS_H
#define MPILORA_STORE_FORMATS_HUGGINGFACE_SHARDS_H

#include "io/json.h"
#include "store/formats/safetensors/safetensors.h"

typedef struct hf_shards {
    char *directory;
    json_t *index; /* NULL: one file */
    int64_t count;
    ml_safetensors **file; /* sorted by name */
    char **name;
    bool **needed; /* [count][tensors of the file]: the model has it */
} hf_shards;

/* A tensor in one of the files; entry NULL: in none. */
typedef struct hf_place {
    int64_t shard;
    const ml_safetensors_entry *entry;
} hf_place;

/* The keys of model.safetensors.index.json, with their kinds. */
extern const ml_json_key hf_index_keys[];

/* Whether `directory` has a file of this name. */
bool hf_has_file(const char *directory, const char *name);
/* model.safetensors, else the files of model.safetensors.index.json. ML_INPUT naming the file. */
ml_status hf_shards_open(hf_shards *out, const char *directory) ML_NODISCARD;
void hf_shards_close(hf_shards *shards); /* one that is zero or failed to open is fine */

/* Where a tensor is read from: of several files that have it the last by name, as transformers
 * reads them, whatever the index says. */
hf_place hf_shards_find(const hf_shards *shards, const char *name);
/* Adds all files to a window, in their order. */
ml_status hf_shards_share(hf_shards *shards, ml_window *window) ML_NODISCARD;
/* Elements [first, first + count) of it as fp32. */
ml_status hf_shards_read(const hf_shards *shards, hf_place place, int64_t first, int64_t count,
                         float *out) ML_NODISCARD;
/* Bytes [first, first + count) of it. */
ml_status hf_shards_read_bytes(const hf_shards *shards, hf_place place, int64_t first,
                               int64_t count, void *out) ML_NODISCARD;
/* Warns where the index means another file than the one that a needed tensor is read from. */
void hf_shards_warn_of_overlays(const hf_shards *shards);

#endif
