/* Several data sets as one: their sequences one after the other, each read by its part. */
#include <inttypes.h>

#include "data/dataset_read.h"

static ml_status check_alike(const ml_dataset *one, const ml_dataset *other)
{
    if (one->related != other->related)
        return ml_fail(ML_INPUT,
                       "%s has %" PRId64 " texts a row and %s %" PRId64
                       " (0: no rows of texts that belong together): data sets that are mixed have "
                       "as many",
                       one->path, one->related, other->path, other->related);
    if (one->pairs != other->pairs)
        return ml_fail(ML_INPUT,
                       "%s has pairs of chosen and rejected answers and %s has none: data sets "
                       "that are mixed are of one kind",
                       one->pairs ? one->path : other->path, one->pairs ? other->path : one->path);
    if (one->vocab == other->vocab && !strcmp(one->tokenizer_hash, other->tokenizer_hash))
        return ml_dataset_check_labels(one, other);
    return ml_fail(ML_INPUT,
                   "%s has a vocabulary of %" PRId64 " and tokenizer %.12s, %s one of %" PRId64
                   " and tokenizer %.12s: data sets that are mixed are made with one base",
                   one->path, one->vocab, one->tokenizer_hash, other->path, other->vocab,
                   other->tokenizer_hash);
}

/* The same sequences under two names would come twice as often as each weight says, in two orders:
 * whoever wants that says it with a weight. */
static ml_status check_apart(ml_dataset *const *part, const double *weight, int64_t k)
{
    for (int64_t i = 0; i < k; i++)
        if (!strcmp(part[i]->hash, part[k]->hash))
            return ml_fail(ML_USAGE,
                           "data.train: %s and %s are the same sequences; name one of them, with "
                           "the weight of both, %g",
                           part[i]->path, part[k]->path, weight[i] + weight[k]);
    return ML_OK;
}

static ml_status hash_parts(ml_dataset *data)
{
    ml_status st = ML_OK;
    ml_text text = {0};
    double sum = 0.0;
    for (int64_t k = 0; k < data->parts; k++) sum += data->weight[k];
    ML_TRY(ml_text_printf(&text, "mpilora-mixture 1\n"));
    for (int64_t k = 0; k < data->parts; k++)
        ML_TRY(ml_text_printf(&text, "%s %.17g\n", data->part[k]->hash, data->weight[k] / sum));
    ml_sha256_of(text.data, (size_t)text.length, data->hash);
done:
    ml_text_destroy(&text);
    return st;
}

ml_status ml_dataset_join(ml_dataset **out, int64_t parts, ml_dataset **part, const double *weight)
{
    ml_status st = ML_OK;
    ml_dataset *data = NULL;
    ML_NEW(data, 1, ML_MEM_OTHER, "a joined data set");
    data->fd = -1;
    ML_NEW(data->part, parts, ML_MEM_OTHER, "a joined data set");
    ML_NEW(data->weight, parts, ML_MEM_OTHER, "a joined data set");
    ML_NEW(data->first, parts + 1, ML_MEM_OTHER, "a joined data set");
    for (int64_t k = 0; k < parts; k++) {
        ML_TRY(check_alike(part[0], part[k]));
        ML_TRY(check_apart(part, weight, k));
        data->part[k] = part[k];
        data->weight[k] = weight[k];
        data->sequences += part[k]->sequences;
        data->tokens += part[k]->tokens;
        data->max_len = ml_max(data->max_len, part[k]->max_len);
        data->first[k + 1] = data->sequences;
    }
    data->vocab = part[0]->vocab;
    data->related = part[0]->related;
    data->pairs = part[0]->pairs;
    memcpy(data->tokenizer_hash, part[0]->tokenizer_hash, sizeof data->tokenizer_hash);
    data->parts = parts;
    st = hash_parts(data);
    if (st != ML_OK) {
        data->parts = 0; /* what failed owns nothing */
        goto done;
    }
    memset(part, 0, (size_t)parts * sizeof *part);
    *out = data;
    data = NULL;
done:
    ml_dataset_destroy(data);
    return st;
}

int64_t ml_dataset_parts(const ml_dataset *data) { return data->parts; }
const char *ml_dataset_path(const ml_dataset *data) { return data->path; }
double ml_dataset_weight(const ml_dataset *data, int64_t part) { return data->weight[part]; }

const ml_dataset *ml_dataset_part(const ml_dataset *data, int64_t part, int64_t *first)
{
    *first = data->first[part];
    return data->part[part];
}
