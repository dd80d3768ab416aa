/* The data of a session: files opened, checked against the base and the objective, and cut into the
 * sequences that the sampler gives; how many tokens a micro-batch of them has at most. */
#include <inttypes.h>

#include "session/session_private.h"

/* ---- files --------------------------------------------------------------------------------- */

/* part[count] and weight[count], all of them or none. */
static ml_status open_files(ml_dataset **part, double *weight, const ml_data_files *files,
                            const ml_grid *grid)
{
    for (int64_t i = 0; i < files->count; i++) {
        const char *path = files->item[i].file;
        weight[i] = files->item[i].weight;
        ml_status st = grid ? ml_grid_agree(grid, ml_dataset_open_together(&part[i], path, grid))
                            : ml_dataset_open(&part[i], path);
        if (st != ML_OK) return st;
    }
    return ML_OK;
}

ml_status ml_session_open_files(ml_dataset **out, const ml_data_files *files, const ml_grid *grid)
{
    enum { MOST = ML_MOST_DATA_FILES };
    ml_dataset *part[MOST] = {NULL};
    double weight[MOST];
    ml_status st = open_files(part, weight, files, grid);
    if (st == ML_OK && files->count == 1) {
        *out = part[0];
        return ML_OK;
    }
    if (st == ML_OK) {
        st = ml_dataset_join(out, files->count, part, weight);
        if (grid) st = ml_grid_agree(grid, st);
    }
    for (int64_t i = 0; i < files->count; i++) ml_dataset_destroy(part[i]);
    return st;
}

ml_status ml_session_open_data(session *s, bool training)
{
    ml_status st = ML_OK;
    const ml_run_config *c = s->config;
    if (training && !s->train.dataset)
        ML_TRY(ml_session_open_files(&s->train.dataset, &c->data.train, s->grid));
    if (c->data.valid && !s->valid.dataset)
        ML_TRY(ml_grid_agree(s->grid,
                             ml_dataset_open_together(&s->valid.dataset, c->data.valid, s->grid)));
done:
    return st;
}

static bool are_same(const ml_data_files *a, const ml_data_files *b)
{
    bool same = a->count == b->count;
    for (int64_t i = 0; same && i < a->count; i++)
        same = !strcmp(a->item[i].file, b->item[i].file) && a->item[i].weight == b->item[i].weight;
    return same;
}

void ml_session_share_data(session *s, session *const *others, int64_t count)
{
    const char *valid = s->config->data.valid;
    for (int64_t i = 0; i < count; i++) {
        const session *o = others[i];
        if (!s->train.dataset && are_same(&s->config->data.train, &o->config->data.train))
            s->train.dataset = ml_dataset_share(o->train.dataset);
        if (!s->valid.dataset && valid && o->valid.dataset && !strcmp(valid, o->config->data.valid))
            s->valid.dataset = ml_dataset_share(o->valid.dataset);
    }
}

static ml_status agree_on_data(const char *path, const data_source *source)
{
    return source->dataset
               ? ml_grid_agree_on_file("the data set", path, ml_dataset_hash(source->dataset))
               : ML_OK;
}

ml_status ml_session_agree_on_files(const session *s)
{
    ml_status st = ML_OK;
    if (s->base)
        ML_TRY(ml_grid_agree_on_file("the base", ml_base_path(s->base),
                                     ml_base_content_hash(s->base)));
    const ml_data_files *files = &s->config->data.train;
    ML_TRY(agree_on_data(files->count ? files->item[0].file : NULL, &s->train));
    ML_TRY(agree_on_data(s->config->data.valid, &s->valid));
done:
    return st;
}

/* ---- what they have to have ---------------------------------------------------------------- */

/* Pairs for an objective that compares, and for no other. */
static ml_status check_pairs(const ml_run_config *c, const char *path, const ml_dataset *data)
{
    bool compares = ml_run_config_unit(c) == 2, related = ml_dataset_related(data) > 0;
    if (ml_run_config_contrasts(c) && related) return ML_OK;
    if (ml_run_config_contrasts(c))
        return ml_fail(ML_INPUT,
                       "%s: has no rows of texts that belong together, which objective "
                       "contrastive needs; tokenize rows with anchor and positive",
                       path);
    if (c->objective.name == ML_OBJECTIVE_KTO) return ML_OK; /* takes their answers apart */
    if (!related && ml_dataset_has_pairs(data) == compares) return ML_OK;
    if (compares && !related)
        return ml_fail(ML_INPUT,
                       "%s: has no pairs, which objective %s compares; tokenize rows with prompt, "
                       "chosen and rejected",
                       path, ml_objective_name(c->objective.name));
    if (related)
        return ml_fail(ML_INPUT,
                       "%s: has rows of an anchor and its positive, which objective %s does not "
                       "read; set objective.name to contrastive",
                       path, ml_objective_name(c->objective.name));
    return ml_fail(ML_INPUT,
                   "%s: has pairs of chosen and rejected answers, but objective %s would learn "
                   "both; set objective.name to dpo or another that compares",
                   path, ml_objective_name(c->objective.name));
}

ml_status ml_session_check_vocabulary(const ml_base *base, const char *path, const ml_dataset *data)
{
    int64_t vocab = ml_base_spec(base)->vocab;
    const char *want = ml_base_tokenizer_hash(base), *found = ml_dataset_tokenizer_hash(data);
    if (ml_dataset_vocab(data) != vocab)
        return ml_fail(ML_INPUT,
                       "%s: made for a vocabulary of %" PRId64
                       " tokens, but the base %s has %" PRId64 "; tokenize it again with this base",
                       path, ml_dataset_vocab(data), ml_base_path(base), vocab);
    if (*want && *found && strcmp(want, found) != 0)
        return ml_fail(ML_INPUT,
                       "%s: made with tokenizer %.12s…, but the base %s has %.12s…; tokenize it "
                       "again with this base",
                       path, found, ml_base_path(base), want);
    return ML_OK;
}

static ml_status check_data(const session *s, const char *path, const ml_dataset *data)
{
    const ml_model_spec *spec = ml_base_spec(s->base);
    ml_status st = ml_session_check_vocabulary(s->base, path, data);
    if (st != ML_OK) return st;
    if (spec->token_types > 0 && ml_dataset_type_count(data) > spec->token_types)
        return ml_fail(ML_INPUT,
                       "%s: has tokens of type %" PRId64 ", but the base %s has %" PRId64
                       " types; tokenize it again with this base",
                       path, ml_dataset_type_count(data) - 1, ml_base_path(s->base),
                       spec->token_types);
    st = ml_session_check_labels(s->config, path, data);
    return st == ML_OK ? check_pairs(s->config, path, data) : st;
}

/* The texts of a row, and what the labels mean. */
static ml_status check_alike(const session *s)
{
    int64_t train = ml_dataset_related(s->train.dataset),
            valid = ml_dataset_related(s->valid.dataset);
    if (s->config->objective.name == ML_OBJECTIVE_KTO)
        return ML_OK; /* pairs on the one side are answers as those of the other */
    if (train == valid) return ml_dataset_check_labels(s->train.dataset, s->valid.dataset);
    return ml_fail(ML_INPUT,
                   "%s: has %" PRId64 " negatives a row, %s has %" PRId64
                   "; tokenize rows with as many",
                   s->config->data.valid, valid - 2, s->config->data.train.item[0].file, train - 2);
}

static ml_status check_longest(const session *s)
{
    const data_source *source = s->train.sampler ? &s->train : &s->valid;
    if (ml_grid_cp(s->grid) == 1 || !source->sampler) return ML_OK;
    return ml_shares_check_length(s->config, ml_grid_dp(s->grid),
                                  ml_sampler_most_tokens(source->sampler, 1));
}

/* ---- sequences ----------------------------------------------------------------------------- */

ml_sampler_order ml_session_order_of(const ml_run_config *c, bool training)
{
    return (ml_sampler_order){.shuffle = training && c->data.shuffle,
                              .group_prompts = c->data.group_prompts &&
                                               !ml_run_config_scores_labels(c) &&
                                               !ml_run_config_masks(c),
                              .seed = c->seed,
                              .whole = c->objective.name == ML_OBJECTIVE_REWARD,
                              .apart = c->objective.name == ML_OBJECTIVE_KTO,
                              .blocks = c->objective.pair_order == ML_PAIRS_BLOCKS};
}

ml_status ml_session_sample(const ml_run_config *c, const char *path, const ml_dataset *data,
                            int64_t max_len, bool training, ml_sampler **out)
{
    const ml_sampler_order order = ml_session_order_of(c, training);
    ml_status st = ml_sampler_create(out, data, max_len, &order);
    if (st != ML_USAGE) return st;
    if (ml_dataset_parts(data) == 0)
        (void)ml_fail_within(st, "%s", path);  /* else its part is named already */
    if (c->data.max_len == 0) return ML_INPUT; /* it is the base's context that is too short */
    return ml_run_config_refuse(c, "data.max_len", "%" PRId64 ": %s; raise it", max_len,
                                ml_error_text());
}

/* The sequences as s->max_len cuts them. */
static ml_status cut_source(session *s, const char *path, bool training, data_source *out)
{
    ml_sampler_destroy(out->sampler);
    out->sampler = NULL;
    return ml_session_sample(s->config, path, out->dataset, s->max_len, training, &out->sampler);
}

/* tokenize cuts texts with labels so that they keep the special token at their end. */
static void warn_of_cut(const session *s, const char *path, const data_source *source)
{
    int64_t cut = ml_sampler_cut(source->sampler);
    if (cut == 0 || !ml_base_spec(s->base)->both_ways || ml_grid_rank(s->grid) != 0 ||
        ml_dataset_label_kind(source->dataset) == ML_LABEL_NONE)
        return;
    ml_warn("%s: data.max_len %" PRId64 " cuts %" PRId64
            " sequences, which lose the special token at their end, as transformers' truncation "
            "does not; tokenize with --max-len %" PRId64,
            path, s->max_len, cut, s->max_len);
}

/* Of a micro-batch of so many sequences, or pairs. */
static int64_t most_tokens(const session *s, const data_source *source, int64_t micro)
{
    int64_t sequences = micro * ml_session_unit(s);
    return ml_max(ml_sampler_most_tokens(source->sampler, sequences),
                  sequences * source->unpaired.longest) +
           sequences * (s->prefix + s->infix);
}

static ml_status prepare_source(session *s, const char *path, bool training, data_source *out)
{
    ml_status st = check_data(s, path, out->dataset);
    if (st == ML_OK) st = cut_source(s, path, training, out);
    if (st == ML_OK) warn_of_cut(s, path, out);
    if (st == ML_OK && s->config->objective.name == ML_OBJECTIVE_KTO)
        st = ml_unpaired_prepare(s, out);
    return st;
}

ml_status ml_session_prepare_data(session *s)
{
    ml_status st = ML_OK;
    const ml_run_config *c = s->config;
    if (s->train.dataset) ML_TRY(prepare_source(s, c->data.train.item[0].file, true, &s->train));
    if (s->valid.dataset) ML_TRY(prepare_source(s, c->data.valid, false, &s->valid));
    if (s->train.dataset && s->valid.dataset) ML_TRY(check_alike(s));
    if (s->train.sampler)
        s->tokens = most_tokens(s, &s->train, ml_run_config_micro(c, ml_grid_dp(s->grid)));
    if (s->valid.sampler) s->tokens = ml_max(s->tokens, most_tokens(s, &s->valid, c->batch.micro));
    ML_TRY(check_longest(s));
done:
    return st;
}

ml_status ml_session_make_room_for_virtual(session *s)
{
    ml_status st = ML_OK;
    ML_TRY(ml_session_find_length(s->config, s->spec, s->prefix + s->infix, &s->max_len));
    if (!s->config->data.max_len) ML_TRY(cut_source(s, s->config->data.valid, false, &s->valid));
    s->tokens = most_tokens(s, &s->valid, s->config->batch.micro);
done:
    return st;
}

static void close_source(data_source *source)
{
    ml_sampler_destroy(source->sampler);
    ml_dataset_destroy(source->dataset);
    ml_memory_free(source->reference);
    ml_unpaired_destroy(&source->unpaired);
}

void ml_session_close_data(session *s)
{
    close_source(&s->train);
    close_source(&s->valid);
}
