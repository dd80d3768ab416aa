/* The description and the data sets that a plan is made from, and what is counted in them. */
#include "plan/source.h"

#include <math.h>

#include "session/sentence_encoder.h"
#include "session/session.h"

static ml_status read_spec(plan_source *s, const ml_run_config *c)
{
    ml_status st = ML_OK;
    bool described = s->model || ml_model_spec_is_description(c->base);
    ml_model_spec read;
    if (described && !s->model) ML_TRY(ml_model_spec_read(&read, c->base));
    ML_TRY(described ? ml_base_describe(&s->base, c->base, s->model ? s->model : &read)
                     : ml_base_open(&s->base, c->base));
    s->spec = *ml_base_spec(s->base);
    ML_TRY(ml_session_check_method(c, &s->spec, described ? "plan without --quantise" : NULL));
    st = ml_session_check_distances(c, &s->spec);
done:
    return st;
}

static bool is_there(const char *path)
{
    FILE *file = path ? fopen(path, "rb") : NULL;
    if (file) fclose(file);
    return file != NULL;
}

static ml_status read_data(plan_source *s, const ml_run_config *c, int which,
                           const ml_data_files *files)
{
    ml_status st = ML_OK;
    for (int64_t i = 0; i < files->count; i++)
        if (!is_there(files->item[i].file)) return ML_OK;
    if (files->count == 0) return ML_OK;
    ML_TRY(ml_session_open_files(&s->data[which], files, NULL));
    if (which == 0 && s->settles) ML_TRY(ml_session_settle_objective(s->settles, s->data[0]));
    ML_TRY(ml_session_sample(c, files->item[0].file, s->data[which], s->max_len, which == 0,
                             &s->sampler[which]));
done:
    return st;
}

int64_t plan_virtual_tokens(const ml_run_config *c, ml_method method)
{
    return ml_method_has_prefix(method) ? c->method.sizes.prefix + c->method.sizes.infix : 0;
}

ml_status plan_source_open(plan_source *s, const ml_run_config *c)
{
    ml_status st = ML_OK;
    ml_data_file valid = {c->data.valid, 1.0};
    ML_TRY(read_spec(s, c));
    ML_TRY(
        ml_session_find_length(c, &s->spec, plan_virtual_tokens(c, c->method.name), &s->max_len));
    ML_TRY(read_data(s, c, 0, &c->data.train));
    ML_TRY(read_data(s, c, 1, &(ml_data_files){c->data.valid != NULL, &valid}));
done:
    return st;
}

/* Of a micro-batch of so many. */
static int64_t most_tokens(const plan_source *s, const ml_run_config *c, int which, int64_t micro)
{
    micro *= ml_session_unit_of(c, s->data[which]);
    int64_t tokens = ml_sampler_most_tokens(s->sampler[which], micro);
    if (c->objective.name != ML_OBJECTIVE_KTO || !ml_run_config_looks_ahead(c)) return tokens;
    return ml_max(tokens, micro * ml_unpaired_longest(s->data[which], s->sampler[which], s->max_len,
                                                      c->batch.sequences));
}

/* The sizing functions count in 64 bits and do not check: a bound from above in floating point,
 * before they are asked, keeps sizes that no machine has out. */
static ml_status check_countable(const plan_source *s, const ml_run_config *c)
{
    const ml_model_spec *m = &s->spec;
    double wide = (double)(m->width + m->heads * m->head_dim + m->mlp_width),
           layers = (double)m->layers, rank = (double)c->method.rank;
    for (int64_t i = 0; i < c->method.rank_pattern.count; i++)
        rank = fmax(rank, c->method.rank_pattern.item[i].value);
    double weights = layers * wide * (2.0 * wide + 14.0 * rank) +
                     2.0 * (double)(m->vocab + m->context) * (double)m->width;
    double bytes = 32.0 * weights + 64.0 * (double)s->tokens * (layers * wide + (double)m->vocab);
    if (bytes < 0x1p62) return ML_OK;
    return ml_fail(ML_USAGE,
                   "%s with micro-batches of %lld tokens: more bytes than 64 bits count; lower "
                   "batch.micro, data.max_len or the model's sizes",
                   c->base, (long long)s->tokens);
}

ml_status plan_source_find_tokens(plan_source *s, const ml_run_config *c, int dp)
{
    int64_t micro = ml_run_config_micro(c, dp);
    s->tokens = s->sampler[0] ? most_tokens(s, c, 0, micro)
                              : micro * ml_session_unit_of(c, NULL) * s->max_len;
    if (s->sampler[1]) s->tokens = ml_max(s->tokens, most_tokens(s, c, 1, c->batch.micro));
    return check_countable(s, c);
}

int64_t plan_source_longest(const plan_source *s)
{
    return s->sampler[0] ? ml_sampler_most_tokens(s->sampler[0], 1) : s->max_len;
}

void plan_source_close(plan_source *s)
{
    for (int i = 0; i < 2; i++) {
        ml_sampler_destroy(s->sampler[i]);
        ml_dataset_destroy(s->data[i]);
    }
    ml_base_close(s->base);
}

/* Tokens of a sequence of n whose last hidden states are wanted: those that its vector is the mean
 * of or is read at, the one that a reward is read at, else those that predict something. */
static double rows_wanted(const plan_source *s, const ml_run_config *c, ml_pooling pooling,
                          int64_t at, double n)
{
    if (ml_run_config_contrasts(c)) return pooling == ML_POOLING_MEAN ? n : 1.0;
    if (ml_run_config_scores_labels(c) && ml_run_config_unit(c) == 2) return 1.0;
    return (double)ml_dataset_targets(s->data[0], at, s->max_len);
}

ml_status plan_source_pooling(const plan_source *s, const ml_run_config *c, ml_pooling *out)
{
    bool normalise;
    *out = c->objective.pooling == ML_POOLING_GIVEN ? ML_POOLING_MEAN : c->objective.pooling;
    if (!ml_run_config_contrasts(c) || c->objective.pooling != ML_POOLING_GIVEN || !s->base)
        return ML_OK;
    return sentence_encoder_pooling(s->base, out, &normalise);
}

plan_sequence plan_source_mean(const plan_source *s, const ml_run_config *c, ml_pooling pooling,
                               int64_t more)
{
    enum { MOST_READ = 4096 };
    double n = (double)(s->max_len + more);
    int64_t window = 0;
    for (int64_t l = 0; l < s->spec.layers; l++)
        window = ml_max(window, ml_model_window(&s->spec, l));
    plan_sequence sum = {n, n, ml_attention_pairs(n, 0, s->spec.both_ways),
                         ml_attention_pairs(n, window, s->spec.both_ways)};
    int64_t count = s->sampler[0] ? ml_min(MOST_READ, ml_sampler_usable(s->sampler[0])) : 0;
    if (count == 0) return sum;
    sum = (plan_sequence){0.0, 0.0, 0.0, 0.0};
    for (int64_t i = 0; i < count; i++) {
        int64_t at = ml_sampler_at(s->sampler[0], i);
        n = (double)(ml_dataset_length(s->data[0], at, s->max_len) + more);
        sum.tokens += n / (double)count;
        sum.rows += rows_wanted(s, c, pooling, at, n) / (double)count;
        sum.pairs += ml_attention_pairs(n, 0, s->spec.both_ways) / (double)count;
        sum.near_pairs += ml_attention_pairs(n, window, s->spec.both_ways) / (double)count;
    }
    return sum;
}
