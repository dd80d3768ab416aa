/* Packed matrices of a Hugging Face directory: a tensor of the model is the matrix, or some of its
 * rows. */
#include "store/formats/huggingface/packed.h"

ml_status hf_packed_open(packed_matrix *out, bool *found, const packed_config *config,
                         const hf_shards *shards, const ml_model_tensor *t,
                         const ml_stored_place *place)
{
    static const char end[] = ".weight";
    char module[sizeof place->name];
    size_t length = strlen(place->name), n = sizeof end - 1;
    *found = false;
    if (t->vector || length <= n || strcmp(place->name + length - n, end) != 0) return ML_OK;
    snprintf(module, sizeof module, "%.*s", (int)(length - n), place->name);
    ml_status st = packed_open(out, found, config, shards, module, place->total, t->cols);
    if (st != ML_OK || !*found) return st;
    const char *codes = out->part[PACKED_CODES].entry->name;
    if (!strcmp(codes, place->name) || !hf_shards_find(shards, place->name).entry) return ML_OK;
    packed_close(out);
    return ml_fail(ML_INPUT, "%s: %s stands beside %s: it is not clear which of them is meant",
                   shards->directory, place->name, codes);
}

ml_status hf_packed_read(const packed_matrix *m, const ml_stored_place *place, int64_t first,
                         int64_t count, int64_t row_bytes, bool blocks, void *out)
{
    ml_status st = ML_OK;
    for (int64_t i = 0, n; i < count && st == ML_OK; i += n) {
        int64_t row = ml_stored_row(place, first + i);
        void *to = (char *)out + i * row_bytes;
        n = ml_min(count - i, ml_stored_rows_together(place, first + i));
        st = blocks ? packed_blocks(m, row, n, to) : packed_rows(m, row, n, to);
    }
    return st;
}
