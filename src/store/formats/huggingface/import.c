/* A Hugging Face directory as a source of weights: config.json, model.safetensors or its sharded
 * index, and the tokenizer's files. */
#include "store/formats/huggingface/import.h"

#include "mpilora/data.h"

static void hf_close(void *self)
{
    hf_source *h = self;
    hf_shards_close(&h->shards);
    ml_memory_free(h);
}

/* ---- rows ---------------------------------------------------------------------------------- */

/* Rows first … of the transpose: elements of each stored row. */
static ml_status read_transposed(const hf_source *h, hf_place at, int64_t first, int64_t count,
                                 float *out)
{
    ml_status st = ML_OK;
    float *column = NULL;
    int64_t stored_rows = at.entry->shape[0], stored_cols = at.entry->shape[1];
    ML_NEW(column, count, ML_MEM_OTHER, "a row");
    for (int64_t j = 0; j < stored_rows; j++) {
        ML_TRY(hf_shards_read(&h->shards, at, j * stored_cols + first, count, column));
        for (int64_t i = 0; i < count; i++) out[i * stored_rows + j] = column[i];
    }
done:
    ml_memory_free(column);
    return st;
}

static ml_status hf_read_blocks(void *self, const ml_model_tensor *t, int64_t first, int64_t count,
                                void *out)
{
    const hf_source *h = self;
    ml_stored_place place;
    packed_matrix m;
    bool packed;
    hf_find_place(h, t, &place);
    ml_status st = hf_packed_open(&m, &packed, &h->packed, &h->shards, t, &place);
    if (st != ML_OK || !packed) return st;
    st = hf_packed_read(&m, &place, first, count, ml_dtype_bytes(m.kept, t->cols), true, out);
    packed_close(&m);
    return st;
}

/* Of a matrix whose scales cannot be read: that it is not in blocks, and the error comes when it is
 * read. */
static const ml_block_format *hf_format_of(void *self, const ml_model_tensor *t)
{
    const hf_source *h = self;
    const ml_block_format *f = ml_block_format_of(ML_FP32);
    ml_stored_place place;
    packed_matrix m;
    bool packed;
    hf_find_place(h, t, &place);
    if (hf_packed_open(&m, &packed, &h->packed, &h->shards, t, &place) != ML_OK || !packed)
        return f;
    if (packed_format(&m, &f) != ML_OK) f = ml_block_format_of(ML_FP32);
    packed_close(&m);
    return f;
}

static ml_status hf_read_rows(void *self, const ml_model_tensor *t, int64_t first, int64_t count,
                              float *out)
{
    const hf_source *h = self;
    ml_stored_place place;
    char name[sizeof place.name];
    packed_matrix m;
    bool packed;
    hf_find_place(h, t, &place);
    ml_status opened = hf_packed_open(&m, &packed, &h->packed, &h->shards, t, &place);
    if (opened == ML_OK && packed) {
        opened =
            hf_packed_read(&m, &place, first, count, t->cols * (int64_t)sizeof *out, false, out);
        packed_close(&m);
    }
    if (opened != ML_OK || packed) return opened;
    if (hf_is_transposed(t, &place))
        return read_transposed(h, hf_shards_find(&h->shards, place.name), place.first + first,
                               count, out);
    for (int64_t i = 0, n; i < count; i += n) {
        n = ml_min(count - i, ml_stored_rows_together(&place, first + i));
        ml_stored_name_at(&place, first + i, name, sizeof name);
        ml_status st = hf_shards_read(&h->shards, hf_shards_find(&h->shards, name),
                                      ml_stored_row(&place, first + i) * t->cols, n * t->cols,
                                      out + i * t->cols);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

/* ---- the files in one go ------------------------------------------------------------------- */

static ml_status hf_share(void *self, ml_window *window)
{
    hf_source *h = self;
    return hf_shards_share(&h->shards, window);
}

/* Of a packed matrix where its codes lie. */
static import_range hf_find(void *self, const ml_model_tensor *t)
{
    const hf_source *h = self;
    ml_stored_place place;
    char name[sizeof place.name];
    packed_matrix m;
    bool packed;
    hf_find_place(h, t, &place);
    ml_stored_name_at(&place, 0, name, sizeof name);
    hf_place at = hf_shards_find(&h->shards, name);
    int64_t first = place.first;
    if (!at.entry && hf_packed_open(&m, &packed, &h->packed, &h->shards, t, &place) == ML_OK &&
        packed) {
        at = m.part[PACKED_CODES];
        packed_close(&m);
    }
    if (!at.entry) return (import_range){0};
    int64_t from = ml_safetensors_place(h->shards.file[at.shard], at.entry),
            row = at.entry->bytes / place.total;
    if (hf_is_transposed(t, &place)) return (import_range){from, 0};
    return (import_range){from + first * row, t->rows * row};
}

/* config.json, where it is still there. */
static ml_status add_config_hash(const hf_source *h, ml_text *list)
{
    static const char name[] = "config.json";
    ml_text path = {0};
    char hex[ML_SHA256_HEX];
    const char *directory = h->shards.directory;
    ml_status st = ml_text_printf(&path, "%s/%s", directory, name);
    if (st == ML_OK && hf_has_file(directory, name)) {
        st = ml_sha256_of_file(path.data, hex);
        if (st == ML_OK) st = ml_text_printf(list, "%s %s\n", name, hex);
    }
    ml_text_destroy(&path);
    return st;
}

static ml_status hf_hash(void *self, atomic_bool *stop, char hex[ML_SHA256_HEX])
{
    ml_status st = ML_OK;
    const hf_source *h = self;
    char of_file[ML_SHA256_HEX];
    ml_text list = {0};
    ML_TRY(add_config_hash(h, &list));
    for (int64_t i = 0; i < h->shards.count; i++) {
        ML_TRY(ml_safetensors_hash(h->shards.file[i], stop, of_file));
        ML_TRY(ml_text_printf(&list, "%s %s\n", h->shards.name[i], of_file));
    }
    ML_TRY(ml_text_add(&list, h->tokenizer, h->tokenizer_length));
    ml_sha256_of(list.data, (size_t)list.length, hex);
done:
    ml_text_destroy(&list);
    return st;
}

/* ---- opening ------------------------------------------------------------------------------- */

/* Where config.json says nothing, ModelOpt's own file may. */
static ml_status read_modelopt(hf_source *h, const char *directory)
{
    ml_status st = ML_OK;
    static const char name[] = "hf_quant_config.json";
    ml_text path = {0};
    json_t *root = NULL;
    if (h->packed.method != PACKED_NONE || !hf_has_file(directory, name)) return ML_OK;
    ML_TRY(ml_text_printf(&path, "%s/%s", directory, name));
    ML_TRY(ml_json_read_file(&root, path.data, false));
    st = packed_config_read_modelopt(root, &h->packed);
    if (st != ML_OK) st = ml_fail_within(st, "%s", path.data);
done:
    json_decref(root);
    ml_text_destroy(&path);
    return st;
}

ml_status import_open_huggingface(import_source *out, const char *directory)
{
    ml_status st = ML_OK;
    hf_source *h = NULL;
    ml_text path = {0};
    bool found;
    ML_NEW(h, 1, ML_MEM_OTHER, "a source");
    out->self = h;
    out->close = hf_close;
    out->hash = hf_hash;
    out->share = hf_share;
    out->find = hf_find;
    out->read_rows = hf_read_rows;
    out->format_of = hf_format_of;
    out->read_blocks = hf_read_blocks;
    h->spec = &out->spec;
    ML_TRY(ml_text_printf(&path, "%s/config.json", directory));
    ML_TRY(hf_config_read(path.data, &out->spec, &h->packed));
    ML_TRY(read_modelopt(h, directory));
    ML_TRY(hf_shards_open(&h->shards, directory));
    ML_TRY(hf_settle_model(h));
    ML_TRY(hf_check_tensors(h));
    ML_TRY(import_read_tokenizer(ml_tokenizer_from_directory(directory, &out->tokenizer, &found),
                                 &out->tokenizer));
    ML_TRY(import_keep_files(directory, &out->files));
    h->tokenizer = out->tokenizer.data;
    h->tokenizer_length = out->tokenizer.length;
done:
    ml_text_destroy(&path);
    return st;
}
