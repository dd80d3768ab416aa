/* Merging: the base is streamed tensor by tensor, and rows of adapted matrices get their part of
 * s·B·A on the way. A tied base whose embedding or head has an adapter gets a head of its own,
 * since only one end changes. Where the original base is there, subtracting is to merge it once
 * more, to see that this gives the merged one, and to write the original. */
#include "mpilora/merge.h"

#include <inttypes.h>
#include <math.h>

#include "io/durable.h"

#include "mpilora/family.h"
#include "mpilora/import.h"
#include "mpilora/peft.h"
#include "store/adapter/adapter.h"

static const int64_t block_floats = (8 << 20) / 4;

typedef struct merge {
    ml_base *base, *original; /* original NULL: there is none */
    ml_model_spec spec;       /* of the result */
    const ml_adapter *adapter;
    ml_base_writer *writer;
    float *rows, *delta; /* a block of W; one row of B·A */
    void *merged, *made; /* with an original: the block as it is in the base, and as it should be */
    ml_dtype *formats;   /* of the result's matrices; NULL: none in blocks */
} merge;

/* ---- who belongs to whom ------------------------------------------------------------------- */

static void merged_hash(const char *base_source, const char *adapter, char out[ML_SHA256_HEX])
{
    char text[3 * ML_SHA256_HEX];
    int n = snprintf(text, sizeof text, "merge %s %s", base_source, adapter);
    ml_sha256_of(text, (size_t)n, out);
}

/* The source hash of the result, where the original says it. */
static ml_status name_original(const ml_base *base, const ml_adapter *adapter,
                               const ml_base *original, char out[ML_SHA256_HEX])
{
    char merged[ML_SHA256_HEX];
    const char *source = ml_base_source_hash(original);
    merged_hash(source, adapter->hash, merged);
    if (strcmp(merged, ml_base_source_hash(base)) != 0)
        return ml_fail(
            ML_INPUT, "%s: is not the merge of this adapter with %s; give the base that was merged",
            ml_base_path(base), ml_base_path(original));
    memcpy(out, source, ML_SHA256_HEX);
    return ML_OK;
}

/* The source hash of the result. */
static ml_status name_result(const ml_base *base, const ml_adapter *adapter,
                             char out[ML_SHA256_HEX])
{
    const char *source = ml_base_source_hash(base);
    merged_hash(source, adapter->hash, out);
    ml_status st = ml_adapter_check_base(adapter, source, ml_base_content_hash(base));
    return st == ML_OK ? ML_OK : ml_fail_within(st, "%s", ml_base_path(base));
}

/* ---- one matrix ---------------------------------------------------------------------------- */

/* Where the rows of a base tensor begin in the B of a pair: 0, or within a fused target's; −1
 * where the pair is of another place. */
static int64_t first_row_in(const ml_model_spec *spec, const ml_adapter_pair *pair,
                            const ml_model_tensor *tensor)
{
    int64_t layer;
    const ml_family_tensor *row = ml_module_parse(spec, pair->module, &layer);
    if (!row || layer != tensor->layer || tensor->row->bias || tensor->row->role != row->role)
        return -1;
    if (row->present == ML_PRESENT_FUSED) return ml_module_first_row(spec, tensor->row);
    return row == tensor->row ? 0 : -1;
}

/* DoRA: the row gets its magnitude. */
static void set_norm(float norm, int64_t n, float *row)
{
    double sum = 0.0;
    for (int64_t j = 0; j < n; j++) sum += (double)row[j] * (double)row[j];
    float gain = sum > 0.0 ? (float)((double)norm / sqrt(sum)) : 0.0F;
    for (int64_t j = 0; j < n; j++) row[j] *= gain;
}

/* Of the embedding, whose rows are columns of B·A: rows[n, out] + s·(B·A)ᵀ[first …] */
static void add_columns(const merge *m, const ml_adapter_pair *pair, int64_t first, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < pair->out; j++) {
            float delta = 0.0F;
            for (int64_t k = 0; k < pair->rank; k++)
                delta += pair->b[j * pair->rank + k] * pair->a[k * pair->in + first + i];
            m->rows[i * pair->out + j] += pair->scale * delta;
        }
}

/* rows[n, in] + s·B[first …]·A, and with DoRA its magnitudes */
static void add_rows(const merge *m, const ml_adapter_pair *pair, int64_t first, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const float *b = pair->b + (first + i) * pair->rank;
        float *row = m->rows + i * pair->in;
        memset(m->delta, 0, (size_t)pair->in * sizeof *m->delta);
        for (int64_t k = 0; k < pair->rank; k++)
            for (int64_t j = 0; j < pair->in; j++) m->delta[j] += b[k] * pair->a[k * pair->in + j];
        for (int64_t j = 0; j < pair->in; j++) row[j] += pair->scale * m->delta[j];
        if (pair->m) set_norm(pair->m[first + i], pair->in, row);
    }
}

/* Whether the embedding or the head changes: a tied model's one weight cannot be both. */
static bool adapts_ends(const ml_adapter *adapter, const ml_model_spec *spec)
{
    int64_t layer;
    for (int64_t i = 0; i < adapter->count; i++)
        if (ml_module_parse(spec, adapter->pairs[i].module, &layer) && layer < 0) return true;
    ml_model_spec untied = *spec;
    ml_peft_untie_for(&untied, adapter);
    return untied.tied_head != spec->tied_head;
}

/* Rows of tokens fit the base; *found: the adapter's tensors that they are. */
static ml_status check_token_rows(const ml_model_spec *spec, const ml_adapter *adapter, bool head,
                                  int64_t *found)
{
    const ml_adapter_tensor *ids, *rows = ml_peft_token_rows(adapter, head, &ids);
    ml_model_tensor embed; /* as wide as the head's rows */
    ml_model_tensor_at(spec, 0, &embed);
    *found = rows && ids ? 2 : 0;
    if (!*found) return ML_OK;
    bool good = ids->rows == rows->rows && ids->cols == 1 && rows->cols == embed.cols &&
                !(head && spec->tied_head);
    for (int64_t i = 0; good && i < ids->rows; i++)
        good = ids->value[i] >= 0.0F && ids->value[i] < (float)spec->vocab;
    if (good) return ML_OK;
    return ml_fail(ML_INPUT,
                   "%s: %" PRId64 " × %" PRId64 " rows of tokens do not fit a base of %" PRId64
                   " tokens and width %" PRId64,
                   rows->name, rows->rows, rows->cols, spec->vocab, embed.cols);
}

/* LoRA's ΔW can be added; tensors of the base can be put in; nothing else is part of a base. */
static ml_status check_mergeable(const ml_model_spec *spec, const ml_adapter *adapter)
{
    int64_t found = 0;
    const char *method = ml_method_name(adapter->method);
    for (int head = 0; head < 2; head++) {
        int64_t own = 0;
        ml_status st = check_token_rows(spec, adapter, head, &own);
        if (st != ML_OK) return st;
        found += own;
    }
    for (int64_t i = 0; i < ml_model_tensor_count(spec); i++) {
        ml_model_tensor tensor;
        ml_model_tensor_at(spec, i, &tensor);
        const ml_adapter_tensor *t = ml_adapter_find(adapter, tensor.name);
        if (!t) continue;
        found++;
        if (t->rows != tensor.rows || t->cols != tensor.cols)
            return ml_fail(ML_INPUT,
                           "%s: is %" PRId64 " × %" PRId64 " in the adapter, %" PRId64 " × %" PRId64
                           " in the base",
                           t->name, t->rows, t->cols, tensor.rows, tensor.cols);
    }
    if (found == adapter->ntensors) return ML_OK;
    return ml_fail(ML_USAGE,
                   "the adapter was made by method %s: %" PRId64
                   " of its tensors are no part of a base file, so it cannot be merged; give it to "
                   "eval and generate with --adapter",
                   method, adapter->ntensors - found);
}

/* Trained rows of tokens take the places of the base's; a tied head has the embedding's. */
static bool put_token_rows(const merge *m, const ml_model_tensor *tensor, int64_t first, int64_t n)
{
    bool head = !strcmp(tensor->name, "head.weight"), changed = false;
    const ml_adapter_tensor *ids, *rows = ml_peft_token_rows(m->adapter, head, &ids);
    if (!rows || (!head && strcmp(tensor->name, "embed.weight") != 0)) return false;
    for (int64_t i = 0; i < ids->rows; i++) {
        int64_t row = (int64_t)ids->value[i] - first;
        if (row < 0 || row >= n) continue;
        memcpy(m->rows + row * tensor->cols, rows->value + i * tensor->cols,
               (size_t)tensor->cols * sizeof *m->rows);
        changed = true;
    }
    return changed;
}

/* What the adapter makes of rows first … first + n − 1, in m->rows. */
static bool change_rows(const merge *m, const ml_model_tensor *tensor, int64_t first, int64_t n)
{
    bool changed = false;
    /* what a method trained of the base itself takes the tensor's place */
    const ml_adapter_tensor *trained = ml_adapter_find(m->adapter, tensor->name);
    if (trained) {
        memcpy(m->rows, trained->value + first * tensor->cols,
               (size_t)(n * tensor->cols) * sizeof *m->rows);
        changed = true;
    }
    changed = put_token_rows(m, tensor, first, n) || changed;
    for (int64_t i = 0; i < m->adapter->count; i++) {
        int64_t start = first_row_in(&m->spec, &m->adapter->pairs[i], tensor);
        if (start < 0) continue;
        if (tensor->row->role == ML_ROLE_EMBED)
            add_columns(m, &m->adapter->pairs[i], first, n);
        else
            add_rows(m, &m->adapter->pairs[i], start + first, n);
        changed = true;
    }
    return changed;
}

static bool is_changed(const merge *m, const ml_model_tensor *tensor)
{
    bool head = !strcmp(tensor->name, "head.weight");
    const ml_adapter_tensor *ids;
    if (ml_adapter_find(m->adapter, tensor->name)) return true;
    if ((head || !strcmp(tensor->name, "embed.weight")) &&
        ml_peft_token_rows(m->adapter, head, &ids))
        return true;
    for (int64_t i = 0; i < m->adapter->count; i++)
        if (first_row_in(&m->spec, &m->adapter->pairs[i], tensor) >= 0) return true;
    return false;
}

/* ---- blocks -------------------------------------------------------------------------------- */

/* The base's formats; a head that was tied to the embedding takes the embedding's. */
static ml_status keep_formats(merge *m)
{
    const ml_model_spec *base = ml_base_spec(m->base);
    ml_dtype embedding = ML_FP32;
    if (!base->formats)
        return ml_fail(ML_USAGE,
                       "--dtype keep: %s has no matrix in blocks; choose bf16, fp32 or a "
                       "format",
                       ml_base_path(m->base));
    memcpy(m->formats, base->formats, (size_t)ml_model_formats(base) * sizeof *m->formats);
    for (int64_t i = 0; i < ml_model_tensor_count(&m->spec); i++) {
        ml_model_tensor t;
        ml_model_tensor_at(&m->spec, i, &t);
        ml_dtype *format = &m->formats[ml_model_format_place(&m->spec, &t)];
        if (t.row->role == ML_ROLE_EMBED) embedding = *format;
        if (t.row->role == ML_ROLE_HEAD && base->tied_head) *format = embedding;
    }
    return ML_OK;
}

/* m->formats and *dtype: what the result is kept in; sums in bf16, unless something else is asked
 * for. */
static ml_status choose_formats(merge *m, const ml_merge_options *options, ml_dtype *dtype)
{
    ml_status st = ML_OK;
    if (m->original) { /* whose specification it is */
        *dtype = ml_base_dtype(m->original);
        return ML_OK;
    }
    m->spec.formats = NULL;
    *dtype = options && options->keep    ? ml_base_dtype(m->base)
             : options && options->plain ? options->dtype
                                         : ML_BF16;
    if (!options || (!options->keep && !options->quantise)) return ML_OK;
    ML_NEW(m->formats, ml_model_formats(&m->spec), ML_MEM_OTHER, "formats of tensors");
    if (options->keep)
        ML_TRY(keep_formats(m));
    else
        ml_import_formats(&m->spec,
                          &(ml_import_options){.dtype = *dtype, .quantise = options->quantise},
                          m->formats);
    m->spec.formats = m->formats;
done:
    return st;
}

/* What a base has a tensor in; of a tied model's head, what its embedding is in. */
static ml_dtype stored_in(const ml_base *base, const ml_model_tensor *tensor)
{
    const ml_model_spec *spec = ml_base_spec(base);
    ml_model_tensor t = *tensor;
    if (t.row->role == ML_ROLE_HEAD && spec->tied_head)
        t.row = ml_family_end(spec->family, ML_ROLE_EMBED);
    ml_dtype format = ml_model_format(spec, &t);
    return t.norm_or_bias ? ML_FP32 : ml_dtype_is_block(format) ? format : ml_base_dtype(base);
}

/* The blocks of `from` are those of the result: a matrix that did not change and has its format. */
static bool keeps_blocks(const merge *m, const ml_base *from, const ml_model_tensor *tensor,
                         ml_dtype format)
{
    return ml_dtype_is_block(format) && stored_in(from, tensor) == format && !is_changed(m, tensor);
}

/* A matrix as its blocks are. */
static ml_status copy_blocks(const merge *m, ml_base *from, const ml_model_tensor *tensor)
{
    ml_status st = ML_OK;
    int64_t step = ml_max(1, block_floats / tensor->cols);
    for (int64_t first = 0; first < tensor->rows; first += step) {
        int64_t n = ml_min(step, tensor->rows - first);
        ml_shard rows = {.dim = ML_SHARD_ROWS, .nparts = 1, .part = {{first, n}}};
        ML_TRY(ml_base_read(from, tensor->name, &rows, stored_in(from, tensor), m->rows));
        ML_TRY(ml_base_writer_blocks(m->writer, tensor->name, first, n, m->rows));
    }
done:
    return st;
}

/* ---- all tensors --------------------------------------------------------------------------- */

/* Of a head for labels that the base has not. */
static bool is_new(const merge *m, const ml_model_tensor *tensor)
{
    const ml_model_spec *base = ml_base_spec(m->base);
    return base->head == ML_HEAD_LANGUAGE && ml_family_is_new(base, tensor->row);
}

/* m->rows: rows of the base, or of the original where there is one, in fp32. */
static ml_status read_rows(const merge *m, const ml_model_tensor *tensor, const ml_shard *rows)
{
    ml_base *from = m->original ? m->original : m->base;
    if (!is_new(m, tensor)) return ml_base_read(from, tensor->name, rows, ML_FP32, m->rows);
    memset(m->rows, 0, (size_t)(rows->part[0].count * tensor->cols) * sizeof *m->rows);
    return ML_OK; /* and the adapter's as a whole */
}

static ml_status copy_tensor(const merge *m, const ml_model_tensor *tensor, bool *changed)
{
    ml_status st = ML_OK;
    int64_t step = ml_max(1, block_floats / tensor->cols);
    for (int64_t first = 0; first < tensor->rows; first += step) {
        int64_t n = ml_min(step, tensor->rows - first);
        ml_shard rows = {.dim = ML_SHARD_ROWS, .nparts = 1, .part = {{first, n}}};
        ML_TRY(read_rows(m, tensor, &rows));
        if (!m->original) *changed = change_rows(m, tensor, first, n) || *changed;
        ML_TRY(ml_base_writer_rows(m->writer, tensor->name, first, n, m->rows));
    }
done:
    return st;
}

/* What the merge keeps of the original's rows, in m->made: it rounds them once. */
static ml_status make_merged(const merge *m, const ml_model_tensor *tensor, const ml_shard *rows,
                             ml_dtype stored, bool *changed)
{
    int64_t n = rows->part[0].count * tensor->cols;
    const ml_block_format *f = ml_block_format_of(stored);
    ml_block_error lost = {0};
    if (!is_new(m, tensor) && keeps_blocks(m, m->original, tensor, stored))
        return ml_base_read(m->original, tensor->name, rows, stored, m->made);
    ml_status st = read_rows(m, tensor, rows);
    if (st != ML_OK) return st;
    *changed = change_rows(m, tensor, rows->part[0].start, rows->part[0].count) || *changed;
    uint16_t *halves = m->made;
    if (stored == ML_FP32) memcpy(m->made, m->rows, (size_t)n * sizeof *m->rows);
    for (int64_t i = 0; stored == ML_BF16 && i < n; i++) halves[i] = ml_bf16_from_float(m->rows[i]);
    if (ml_dtype_is_block(stored)) /* what no block can hold differs */
        (void)ml_block_quantise(f, m->rows, n / f->weights, m->made, &lost);
    return ML_OK;
}

/* The original, merged again, must be what the base holds: else something else was done to it,
 * which would be lost. */
static ml_status compare_tensor(const merge *m, const ml_model_tensor *tensor, bool *changed)
{
    ml_status st = ML_OK;
    ml_dtype stored = stored_in(m->base, tensor);
    int64_t step = ml_max(1, block_floats / tensor->cols);
    size_t row = (size_t)ml_dtype_bytes(stored, tensor->cols);
    for (int64_t first = 0; first < tensor->rows; first += step) {
        int64_t n = ml_min(step, tensor->rows - first);
        ml_shard rows = {.dim = ML_SHARD_ROWS, .nparts = 1, .part = {{first, n}}};
        ML_TRY(make_merged(m, tensor, &rows, stored, changed));
        ML_TRY(ml_base_read(m->base, tensor->name, &rows, stored, m->merged));
        for (int64_t i = 0; i < n; i++) {
            if (memcmp((char *)m->made + (size_t)i * row, (char *)m->merged + (size_t)i * row,
                       row) == 0)
                continue;
            st = ml_fail(
                ML_INPUT,
                "%s: row %" PRId64
                " of %s is not what the merge of %s makes of it: the file was changed afterwards",
                ml_base_path(m->base), first + i, tensor->name, ml_base_path(m->original));
            goto done;
        }
    }
done:
    return st;
}

static ml_status copy_all(const merge *m, int64_t *matrices)
{
    ml_status st = ML_OK;
    const ml_model_spec *spec = m->original ? ml_base_spec(m->base) : &m->spec;
    ml_base *from = m->original ? m->original : m->base;
    for (int64_t i = 0; i < ml_model_tensor_count(spec); i++) {
        ml_model_tensor tensor;
        bool changed = false;
        ml_model_tensor_at(spec, i, &tensor);
        ml_dtype format = ml_model_format(&m->spec, &tensor);
        if (m->original) ML_TRY(compare_tensor(m, &tensor, &changed));
        if (ml_family_has(&m->spec, tensor.row)) {
            if (m->original ? ml_dtype_is_block(format) : keeps_blocks(m, from, &tensor, format))
                ML_TRY(copy_blocks(m, from, &tensor));
            else
                ML_TRY(copy_tensor(m, &tensor, &changed));
        }
        *matrices += changed;
    }
done:
    return st;
}

static ml_status make_block(void **out, int64_t floats)
{
    *out = ml_memory_alloc(floats, sizeof(float), ML_MEM_OTHER, "a block of a matrix");
    return *out ? ML_OK : ML_RESOURCE;
}

/* Room for a block of the widest tensor. */
static ml_status make_room(merge *m)
{
    ml_status st = ML_OK;
    const ml_model_spec *spec = ml_base_spec(m->base);
    int64_t widest = 1;
    for (int64_t i = 0; i < ml_model_tensor_count(spec); i++) {
        ml_model_tensor tensor;
        ml_model_tensor_at(spec, i, &tensor);
        widest = ml_max(widest, tensor.cols);
    }
    ML_NEW(m->rows, ml_max(block_floats, widest), ML_MEM_OTHER, "a block of a matrix");
    if (m->original) {
        ML_TRY(make_block(&m->merged, ml_max(block_floats, widest)));
        ML_TRY(make_block(&m->made, ml_max(block_floats, widest)));
    }
    ML_NEW(m->delta, widest, ML_MEM_OTHER, "a row of a matrix");
done:
    return st;
}

ml_status ml_merge(ml_base *base, const ml_adapter *adapter, ml_base *original,
                   const ml_merge_options *options, const char *path, ml_merge_result *result)
{
    ml_status st = ML_OK;
    merge m = {.base = base, .original = original, .adapter = adapter};
    char source[ML_SHA256_HEX];
    ml_dtype dtype;
    int64_t length;
    ml_base_files files = {0};
    const char *tokenizer = ml_base_tokenizer(original ? original : base, &length);
    m.spec = original ? *ml_base_spec(original) : *ml_base_spec(base);
    if (adapts_ends(adapter, &m.spec) && !original) m.spec.tied_head = false;
    if (!original) ML_TRY(ml_adapter_take_head(adapter, &m.spec));
    *result = (ml_merge_result){0};
    if (original && m.spec.head != ml_base_spec(base)->head)
        return ml_fail(ML_USAGE,
                       "--subtract: %s has a head for labels in the place of the head for tokens "
                       "that %s has, so it cannot be checked against it; take %s as it is",
                       ml_base_path(base), ml_base_path(original), ml_base_path(original));
    ML_TRY(check_mergeable(&m.spec, adapter));
    ML_TRY(original ? name_original(base, adapter, original, source)
                    : name_result(base, adapter, source));
    if (ml_durable_is_same(ml_base_path(base), path) ||
        (original && ml_durable_is_same(ml_base_path(original), path)))
        return ml_fail(ML_USAGE, "%s: is the base itself; choose another name for the result",
                       path);
    ML_TRY(choose_formats(&m, options, &dtype));
    ML_TRY(make_room(&m));
    ML_TRY(ml_base_read_files(original ? original : base, &files));
    if (adapter->label_names && !original)
        ML_TRY(ml_base_files_name_labels(&files, adapter->label_names));
    if (*adapter->pooling && !original)
        ML_TRY(ml_base_files_make_vectors(&files, &m.spec, adapter->pooling, adapter->normalised));
    ML_TRY(
        ml_base_writer_create(&m.writer, path, &m.spec, dtype, tokenizer, length, source, &files));
    ML_TRY(copy_all(&m, &result->matrices));
    ml_base_writer *writer = m.writer;
    result->error = ml_base_writer_error(writer);
    m.writer = NULL;
    ML_TRY(ml_base_writer_finish(writer));
done:
    ml_base_writer_discard(m.writer);
    ml_base_files_destroy(&files);
    ml_memory_free(m.rows);
    ml_memory_free(m.delta);
    ml_memory_free(m.merged);
    ml_memory_free(m.made);
    ml_memory_free(m.formats);
    return st;
}
