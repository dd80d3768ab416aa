/* What an opened data set holds. A joined one asks the part that a sequence belongs to. */
#include "data/dataset_read.h"
#include "data/dataset_private.h"

/* The part that sequence *i belongs to; *i becomes its number there. */
static const ml_dataset *find_part(const ml_dataset *data, int64_t *i)
{
    int64_t k = 0;
    while (k + 1 < data->parts && *i >= data->first[k + 1]) k++;
    *i -= data->first[k];
    return data->part[k];
}

int64_t ml_dataset_sequences(const ml_dataset *data) { return data->sequences; }
int64_t ml_dataset_tokens(const ml_dataset *data) { return data->tokens; }
int64_t ml_dataset_vocab(const ml_dataset *data) { return data->vocab; }
bool ml_dataset_has_pairs(const ml_dataset *data) { return data->pairs; }
int64_t ml_dataset_related(const ml_dataset *data) { return data->related; }
const char *ml_dataset_hash(const ml_dataset *data) { return data->hash; }
const char *ml_dataset_date(const ml_dataset *data) { return data->date; }
const char *ml_dataset_tokenizer_hash(const ml_dataset *data) { return data->tokenizer_hash; }

int64_t ml_dataset_length(const ml_dataset *data, int64_t i, int64_t max_len)
{
    if (data->parts > 0) data = find_part(data, &i);
    int64_t length = data->offsets[i + 1] - data->offsets[i];
    return max_len > 0 ? ml_min(length, max_len) : length;
}

/* Bits set in [from, to). */
static int64_t count_bits(const uint64_t *bits, int64_t from, int64_t to)
{
    int64_t count = 0;
    while (from < to) {
        int64_t take = ml_min(64 - from % 64, to - from);
        uint64_t word = bits[from / 64] >> (from % 64);
        if (take < 64) word &= (UINT64_C(1) << take) - 1;
        count += __builtin_popcountll(word);
        from += take;
    }
    return count;
}

int64_t ml_dataset_targets(const ml_dataset *data, int64_t i, int64_t max_len)
{
    if (data->parts > 0) data = find_part(data, &i);
    const ml_label_kind kind = data->labels.kind;
    bool predicted = kind == ML_LABEL_NONE || kind == ML_LABEL_WANTED; /* from the one before */
    if ((!predicted && kind != ML_LABEL_TOKENS) || data->related > 0) return 1;
    int64_t first = data->offsets[i];
    return count_bits(data->targets, first + predicted,
                      first + ml_dataset_length(data, i, max_len));
}

/* The bytes of `size` a token, or the mask, of one sequence. */
static ml_status read_tokens(const ml_dataset *data, int64_t i, int64_t max_len, int64_t at,
                             int64_t size, void *out)
{
    return ml_file_read(data->fd, data->path, out, ml_dataset_length(data, i, max_len) * size,
                        at + data->offsets[i] * size);
}

ml_status ml_dataset_read(const ml_dataset *data, int64_t i, int64_t max_len, int32_t *tokens,
                          uint8_t *mask)
{
    if (data->parts > 0) data = find_part(data, &i);
    int64_t first = data->offsets[i], length = ml_dataset_length(data, i, max_len);
    for (int64_t t = 0; t < length; t++)
        mask[t] = (uint8_t)(data->targets[(first + t) / 64] >> ((first + t) % 64) & 1);
    return read_tokens(data, i, max_len, data->tokens_at, sizeof *tokens, tokens);
}

/* ---- labels -------------------------------------------------------------------------------- */

/* Those of a joined data set are alike; where they have no names the last classes may be lacking
 * in some. */
static const dataset_labels *labels_of(const ml_dataset *data)
{
    return data->parts > 0 ? &data->part[0]->labels : &data->labels;
}

ml_label_kind ml_dataset_label_kind(const ml_dataset *data) { return labels_of(data)->kind; }
int64_t ml_dataset_label_count(const ml_dataset *data) { return labels_of(data)->count; }

const char *ml_dataset_label_names(const ml_dataset *data)
{
    const char *names = labels_of(data)->names;
    return names ? names : "";
}

int64_t ml_dataset_type_count(const ml_dataset *data)
{
    int64_t count = data->labels.type_count;
    for (int64_t k = 0; k < data->parts; k++)
        count = ml_max(count, data->part[k]->labels.type_count);
    return count;
}

ml_status ml_dataset_read_label(const ml_dataset *data, int64_t i, float *out)
{
    if (data->parts > 0) data = find_part(data, &i);
    const dataset_labels *l = &data->labels;
    if (l->kind == ML_LABEL_NONE || l->kind == ML_LABEL_TOKENS) return ML_OK;
    int64_t n = l->kind == ML_LABEL_BITS ? l->count : 1;
    ml_status st = ml_file_read(data->fd, data->path, out, n * (int64_t)sizeof *out,
                                l->at + i * n * (int64_t)sizeof *out);
    if (st != ML_OK || l->kind == ML_LABEL_NUMBER) return st;
    for (int64_t k = 0; k < n; k++) {
        int32_t value; /* of the same four bytes */
        memcpy(&value, out + k, sizeof value);
        out[k] = (float)value;
    }
    return ML_OK;
}

ml_status ml_dataset_read_token_labels(const ml_dataset *data, int64_t i, int64_t max_len,
                                       int32_t *out)
{
    if (data->parts > 0) data = find_part(data, &i);
    if (data->labels.kind == ML_LABEL_TOKENS)
        return read_tokens(data, i, max_len, data->labels.at, sizeof *out, out);
    for (int64_t t = 0; t < ml_dataset_length(data, i, max_len); t++) out[t] = ML_LABEL_IGNORED;
    return ML_OK;
}

ml_status ml_dataset_read_types(const ml_dataset *data, int64_t i, int64_t max_len, uint8_t *out)
{
    if (data->parts > 0) data = find_part(data, &i);
    if (data->labels.types_at >= 0)
        return read_tokens(data, i, max_len, data->labels.types_at, sizeof *out, out);
    memset(out, 0, (size_t)ml_dataset_length(data, i, max_len));
    return ML_OK;
}
