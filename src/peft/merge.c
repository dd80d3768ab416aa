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

static const int64_t block_floats = (8 << 20) / 4;

typedef struct merge {
    ml_base *base, *original; /* original NULL: there is none */
    ml_model_spec spec;       /* of the result */
    const ml_adapter *adapter;
    ml_base_writer *writer;
    float sign;
    float *rows, *delta; /* a block of W; one row of B·A */
    float *merged;       /* with an original: the block as it is in the base */
    ml_dtype *formats;   /* of the result's matrices; NULL: none in blocks */
    bool keep;           /* they are the base's */
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
    if (ml_base_dtype(original) != ml_base_dtype(base))
        return ml_fail(ML_INPUT, "%s: is %s, but %s is %s; give the file that was merged",
                       ml_base_path(original), ml_dtype_name(ml_base_dtype(original)),
                       ml_base_path(base), ml_dtype_name(ml_base_dtype(base)));
    memcpy(out, source, ML_SHA256_HEX);
    return ML_OK;
}

/* The source hash of the result. */
static ml_status name_result(const ml_base *base, const ml_adapter *adapter, bool subtract,
                             char out[ML_SHA256_HEX], bool *original)
{
    const char *source = ml_base_source_hash(base), *home = adapter->base_source_hash;
    char merged[ML_SHA256_HEX];
    *original = false;
    merged_hash(source, adapter->hash, out);
    if (!home[0]) return ML_OK;
    if (!subtract) {
        if (!strcmp(home, source)) return ML_OK;
        return ml_fail(ML_INPUT,
                       "%s: the adapter belongs to another base: it was trained on %.16s…, this "
                       "base is %.16s… (SHA-256 of the source)",
                       ml_base_path(base), home, source);
    }
    merged_hash(home, adapter->hash, merged);
    if (strcmp(merged, source) != 0)
        return ml_fail(ML_INPUT,
                       "%s: is not the merge of this adapter with its base (%.16s…), so nothing "
                       "can be subtracted",
                       ml_base_path(base), home);
    memcpy(out, home, ML_SHA256_HEX);
    *original = true;
    return ML_OK;
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

/* Of the embedding, whose rows are columns of B·A: rows[n, out] ± s·(B·A)ᵀ[first …] */
static void add_columns(const merge *m, const ml_adapter_pair *pair, int64_t first, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < pair->out; j++) {
            float delta = 0.0F;
            for (int64_t k = 0; k < pair->rank; k++)
                delta += pair->b[j * pair->rank + k] * pair->a[k * pair->in + first + i];
            m->rows[i * pair->out + j] += m->sign * pair->scale * delta;
        }
}

/* rows[n, in] ± s·B[first …]·A, and with DoRA its magnitudes */
static void add_rows(const merge *m, const ml_adapter_pair *pair, int64_t first, int64_t n)
{
    float scale = m->sign * pair->scale;
    for (int64_t i = 0; i < n; i++) {
        const float *b = pair->b + (first + i) * pair->rank;
        float *row = m->rows + i * pair->in;
        memset(m->delta, 0, (size_t)pair->in * sizeof *m->delta);
        for (int64_t k = 0; k < pair->rank; k++)
            for (int64_t j = 0; j < pair->in; j++) m->delta[j] += b[k] * pair->a[k * pair->in + j];
        for (int64_t j = 0; j < pair->in; j++) row[j] += scale * m->delta[j];
        if (pair->m) set_norm(pair->m[first + i], pair->in, row);
    }
}

/* What a method trained of the base itself takes the tensor's place; NULL where it did not. */
static const ml_adapter_tensor *find_trained(const ml_adapter *adapter, const char *name)
{
    for (int64_t i = 0; i < adapter->ntensors; i++)
        if (!strcmp(adapter->tensors[i].name, name)) return &adapter->tensors[i];
    return NULL;
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

/* LoRA's ΔW can be added and taken off; tensors of the base can be put in; nothing else is part of
 * a base. */
static ml_status check_mergeable(const ml_base *base, const ml_model_spec *spec,
                                 const ml_adapter *adapter, bool subtract)
{
    int64_t found = 0;
    const char *method = ml_method_name(adapter->method);
    if (subtract && spec->head != ML_HEAD_LANGUAGE)
        return ml_fail(ML_USAGE,
                       "--subtract: the adapter has a head for labels, in whose place the "
                       "original base has one for tokens; take the original base");
    if (adapter->ntensors > 0 && subtract)
        return ml_fail(ML_USAGE,
                       "--subtract: the adapter was made by method %s, which leaves nothing to "
                       "subtract; take the original base",
                       method);
    if (subtract && adapter->count > 0 && adapter->pairs[0].m)
        return ml_fail(ML_USAGE, "--subtract: a DoRA adapter scales the rows of its weights, and "
                                 "the merged ones do not say by how much; "
                                 "take the original base");
    if (subtract && adapts_ends(adapter, ml_base_spec(base)))
        return ml_fail(ML_USAGE, "--subtract: the adapter has a part on the embedding or the head, "
                                 "and the merged base does not say whether these were tied before; "
                                 "give the base that was merged with --original");
    for (int head = 0; head < 2; head++) {
        int64_t own = 0;
        ml_status st = check_token_rows(spec, adapter, head, &own);
        if (st != ML_OK) return st;
        found += own;
    }
    for (int64_t i = 0; i < ml_model_tensor_count(spec); i++) {
        ml_model_tensor tensor;
        ml_model_tensor_at(spec, i, &tensor);
        const ml_adapter_tensor *t = find_trained(adapter, tensor.name);
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
    const ml_adapter_tensor *trained = find_trained(m->adapter, tensor->name);
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
    if (find_trained(m->adapter, tensor->name)) return true;
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
        if (ml_dtype_is_block(*format) && !ml_block_format_of(*format)->quantise &&
            is_changed(m, &t))
            return ml_fail(ML_USAGE,
                           "--dtype keep: %s is in %s, to which numbers cannot be rounded here; "
                           "choose bf16, fp32 or another format",
                           t.name, ml_dtype_name(*format));
    }
    return ML_OK;
}

/* m->formats and *dtype: what the result is kept in. */
static ml_status choose_formats(merge *m, const ml_merge_options *options, ml_dtype *dtype)
{
    ml_status st = ML_OK;
    *dtype = options && options->plain ? options->dtype : ml_base_dtype(m->base);
    m->spec.formats = NULL; /* sums are in no blocks, unless they are asked for */
    if (!options || options->plain) return ML_OK;
    ML_NEW(m->formats, ml_model_formats(&m->spec), ML_MEM_OTHER, "formats of tensors");
    m->keep = options->keep;
    if (m->keep)
        ML_TRY(keep_formats(m));
    else
        ml_import_formats(&m->spec,
                          &(ml_import_options){.dtype = *dtype, .quantise = options->quantise},
                          m->formats);
    m->spec.formats = m->formats;
done:
    return st;
}

/* A matrix that did not change, as its blocks are. */
static ml_status copy_blocks(const merge *m, const ml_model_tensor *tensor)
{
    ml_status st = ML_OK;
    ml_dtype format = ml_model_format(&m->spec, tensor);
    int64_t step = ml_max(1, block_floats / tensor->cols);
    for (int64_t first = 0; first < tensor->rows; first += step) {
        int64_t n = ml_min(step, tensor->rows - first);
        ml_shard rows = {.dim = ML_SHARD_ROWS, .nparts = 1, .part = {{first, n}}};
        ML_TRY(ml_base_read(m->base, tensor->name, &rows, format, m->rows));
        ML_TRY(ml_base_writer_blocks(m->writer, tensor->name, first, n, m->rows));
    }
done:
    return st;
}

/* ---- all tensors --------------------------------------------------------------------------- */

/* The original's rows, merged again, must be the base's: else something else was done to it, which
 * would be lost. m->rows: the original's. */
static ml_status compare_rows(const merge *m, const ml_model_tensor *tensor, const ml_shard *rows,
                              bool *changed)
{
    ml_status st = ML_OK;
    int64_t first = rows->part[0].start, n = rows->part[0].count;
    bool rounds = ml_base_dtype(m->base) == ML_BF16 && !tensor->norm_or_bias;
    ML_TRY(ml_base_read(m->base, tensor->name, rows, ML_FP32, m->merged));
    *changed = change_rows(m, tensor, first, n) || *changed;
    for (int64_t i = 0; i < n * tensor->cols; i++) {
        float merged = rounds ? ml_bf16_to_float(ml_bf16_from_float(m->rows[i])) : m->rows[i];
        if (memcmp(&merged, &m->merged[i], sizeof merged) == 0) continue;
        st = ml_fail(
            ML_INPUT,
            "%s: row %" PRId64
            " of %s is not what the merge of %s makes of it: the file was changed afterwards",
            ml_base_path(m->base), first + i / tensor->cols, tensor->name,
            ml_base_path(m->original));
        goto done;
    }
    ML_TRY(ml_base_read(m->original, tensor->name, rows, ML_FP32, m->rows));
done:
    return st;
}

/* Of a head for labels that the base has not. */
static bool is_new(const merge *m, const ml_model_tensor *tensor)
{
    const ml_model_spec *base = ml_base_spec(m->base);
    return base->head == ML_HEAD_LANGUAGE && ml_family_is_new(base, tensor->row);
}

static ml_status copy_tensor(const merge *m, const ml_model_tensor *tensor, bool *changed)
{
    ml_status st = ML_OK;
    int64_t step = ml_max(1, block_floats / tensor->cols);
    bool wanted = ml_family_has(&m->spec, tensor->row);
    for (int64_t first = 0; first < tensor->rows; first += step) {
        int64_t n = ml_min(step, tensor->rows - first);
        ml_shard rows = {.dim = ML_SHARD_ROWS, .nparts = 1, .part = {{first, n}}};
        if (is_new(m, tensor)) /* and the adapter's as a whole */
            memset(m->rows, 0, (size_t)(n * tensor->cols) * sizeof *m->rows);
        else
            ML_TRY(ml_base_read(m->original ? m->original : m->base, tensor->name, &rows, ML_FP32,
                                m->rows));
        if (m->original)
            ML_TRY(compare_rows(m, tensor, &rows, changed));
        else
            *changed = change_rows(m, tensor, first, n) || *changed;
        if (wanted) ML_TRY(ml_base_writer_rows(m->writer, tensor->name, first, n, m->rows));
    }
done:
    return st;
}

static ml_status copy_all(const merge *m, int64_t *matrices)
{
    ml_status st = ML_OK;
    const ml_model_spec *spec = m->original ? ml_base_spec(m->base) : &m->spec;
    for (int64_t i = 0; i < ml_model_tensor_count(spec); i++) {
        ml_model_tensor tensor;
        bool changed = false;
        ml_model_tensor_at(spec, i, &tensor);
        if (m->keep && ml_dtype_is_block(ml_model_format(&m->spec, &tensor)) &&
            !is_changed(m, &tensor))
            ML_TRY(copy_blocks(m, &tensor));
        else
            ML_TRY(copy_tensor(m, &tensor, &changed));
        *matrices += changed;
    }
done:
    return st;
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
    if (m->original)
        ML_NEW(m->merged, ml_max(block_floats, widest), ML_MEM_OTHER, "a block of a matrix");
    ML_NEW(m->delta, widest, ML_MEM_OTHER, "a row of a matrix");
done:
    return st;
}

ml_status ml_merge(ml_base *base, const ml_adapter *adapter, bool subtract, ml_base *original,
                   const ml_merge_options *options, const char *path, ml_merge_result *result)
{
    ml_status st = ML_OK;
    merge m = {.base = base,
               .original = original,
               .adapter = adapter,
               .sign = subtract && !original ? -1.0F : 1.0F};
    char source[ML_SHA256_HEX];
    ml_dtype dtype;
    int64_t length;
    ml_base_files files = {0};
    const char *tokenizer = ml_base_tokenizer(base, &length);
    m.spec = original ? *ml_base_spec(original) : *ml_base_spec(base);
    if (adapts_ends(adapter, &m.spec) && !original) m.spec.tied_head = false;
    if (!original) ML_TRY(ml_adapter_take_head(adapter, &m.spec));
    *result = (ml_merge_result){0};
    if (original && m.spec.head != ml_base_spec(base)->head)
        return ml_fail(ML_USAGE,
                       "--subtract: %s has a head for labels in the place of the head for tokens "
                       "that %s has, so it cannot be checked against it; take %s as it is",
                       ml_base_path(base), ml_base_path(original), ml_base_path(original));
    ML_TRY(check_mergeable(base, &m.spec, adapter, subtract && !original));
    if (original) ML_TRY(name_original(base, adapter, original, source));
    result->original = original != NULL;
    if (!original) ML_TRY(name_result(base, adapter, subtract, source, &result->original));
    if (ml_durable_is_same(ml_base_path(base), path) ||
        (original && ml_durable_is_same(ml_base_path(original), path)))
        return ml_fail(ML_USAGE, "%s: is the base itself; choose another name for the result",
                       path);
    ML_TRY(choose_formats(&m, options, &dtype));
    ML_TRY(make_room(&m));
    ML_TRY(ml_base_read_files(base, &files));
    if (adapter->label_names && !original)
        ML_TRY(ml_base_files_name_labels(&files, adapter->label_names));
    if (*adapter->pooling && !original && !subtract)
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
    ml_memory_free(m.formats);
    return st;
}
