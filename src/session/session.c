/* Opening a session: grid, base, data, model, method, kernels, weights, in that order; every step
 * ends in an agreement of all ranks. */
#include "session/pipeline.h"

#include <inttypes.h>
#include <omp.h>

#include "mpilora/family.h"

/* ---- data ---------------------------------------------------------------------------------- */

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

static ml_status check_data(const session *s, const char *path, const ml_dataset *data)
{
    const ml_model_spec *spec = ml_base_spec(s->base);
    const char *want = ml_base_tokenizer_hash(s->base), *found = ml_dataset_tokenizer_hash(data);
    if (ml_dataset_vocab(data) != spec->vocab)
        return ml_fail(ML_INPUT,
                       "%s: made for a vocabulary of %" PRId64
                       " tokens, but the base %s has %" PRId64 "; tokenize it again with this base",
                       path, ml_dataset_vocab(data), ml_base_path(s->base), spec->vocab);
    if (*want && *found && strcmp(want, found) != 0)
        return ml_fail(ML_INPUT,
                       "%s: made with tokenizer %.12s…, but the base %s has %.12s…; tokenize it "
                       "again with this base",
                       path, found, ml_base_path(s->base), want);
    if (spec->token_types > 0 && ml_dataset_type_count(data) > spec->token_types)
        return ml_fail(ML_INPUT,
                       "%s: has tokens of type %" PRId64 ", but the base %s has %" PRId64
                       " types; tokenize it again with this base",
                       path, ml_dataset_type_count(data) - 1, ml_base_path(s->base),
                       spec->token_types);
    ml_status st = ml_session_check_labels(s->config, path, data);
    return st == ML_OK ? check_pairs(s->config, path, data) : st;
}

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

static void close_source(data_source *source)
{
    ml_sampler_destroy(source->sampler);
    ml_dataset_destroy(source->dataset);
    ml_memory_free(source->reference);
    ml_unpaired_destroy(&source->unpaired);
}

/* Of a micro-batch of so many sequences, or pairs. */
static int64_t most_tokens(const session *s, const data_source *source, int64_t micro)
{
    int64_t sequences = micro * ml_session_unit(s);
    return ml_max(ml_sampler_most_tokens(source->sampler, sequences),
                  sequences * source->unpaired.longest) +
           sequences * (s->prefix + s->infix);
}

static ml_status check_virtual(const ml_run_config *c, const ml_model_spec *spec, int64_t more)
{
    if (more < spec->context) return ML_OK;
    return ml_run_config_refuse(c, "method.prefix",
                                "with method.infix %" PRId64
                                " virtual tokens, but the context of %s is %" PRId64,
                                more, c->base, spec->context);
}

ml_status ml_session_find_length(const ml_run_config *c, const ml_model_spec *spec, int64_t more,
                                 int64_t *max_len)
{
    ml_status st = check_virtual(c, spec, more);
    if (st != ML_OK) return st;
    int64_t context = spec->context;
    *max_len = c->data.max_len ? c->data.max_len : context - more;
    if (*max_len <= context - more) return ML_OK;
    if (more == 0)
        return ml_run_config_refuse(c, "data.max_len",
                                    "%" PRId64 " is more than the context of %" PRId64
                                    " of %s; choose at most that",
                                    *max_len, context, c->base);
    return ml_run_config_refuse(
        c, "data.max_len",
        "%" PRId64 " and the %" PRId64
        " virtual tokens of method.prefix and method.infix are more than the context of %" PRId64
        " of %s; choose at most that together",
        *max_len, more, context, c->base);
}

ml_status ml_session_add_virtual(session *s, const ml_method_sizes *sizes)
{
    s->prefix = sizes->prefix;
    s->infix = sizes->infix;
    return check_virtual(s->config, s->spec, s->prefix + s->infix);
}

/* An encoder sees the token that a causal objective would have it predict. */
static ml_status check_direction(const ml_run_config *c, const ml_model_spec *spec, bool training)
{
    bool scores = ml_run_config_scores_labels(c);
    if (ml_run_config_masks(c)) return ml_session_check_masks(c, spec);
    if (!spec->both_ways || (!training && !c->data.valid)) return ML_OK;
    if (ml_run_config_contrasts(c)) return ML_OK;
    if (scores && ml_family_scores(spec->family, ML_HEAD_SEQUENCE)) return ML_OK;
    if (scores)
        return ml_run_config_refuse(
            c, "objective.name", "%s needs a head for labels, and %s (%s) cannot have one yet",
            ml_objective_name(c->objective.name), c->base, spec->family->title);
    return ml_run_config_refuse(c, "objective.name",
                                "%s predicts the next token, but %s is an encoder (%s), which sees "
                                "it; mpilora embed makes vectors of texts",
                                ml_objective_name(c->objective.name), c->base, spec->family->title);
}

static ml_status open_masking(session *s)
{
    ml_status st = ML_OK;
    if (!ml_run_config_masks(s->config)) return ML_OK;
    ML_TRY(ml_session_check_masks(s->config, s->spec));
    ML_TRY(ml_masking_create(&s->masking, s->config, s->base));
done:
    return st;
}

static ml_status open_base(session *s, bool training)
{
    ml_status st = ML_OK;
    const ml_run_config *c = s->config;
    ML_TRY(ml_base_open(&s->base, c->base));
    s->spec = ml_base_spec(s->base);
    if (training && ml_method_has_prefix(c->method.name))
        ML_TRY(ml_session_add_virtual(s, &c->method.sizes));
    ML_TRY(ml_session_find_length(c, s->spec, s->prefix + s->infix, &s->max_len));
    ML_TRY(open_masking(s));
done:
    return st;
}

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

static ml_status open_data(session *s, bool training)
{
    ml_status st = ML_OK;
    const ml_run_config *c = s->config;
    if (training) ML_TRY(ml_session_open_files(&s->train.dataset, &c->data.train, s->grid));
    if (c->data.valid)
        ML_TRY(ml_grid_agree(s->grid,
                             ml_dataset_open_together(&s->valid.dataset, c->data.valid, s->grid)));
done:
    return st;
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

static ml_status prepare_source(session *s, const char *path, bool training, data_source *out)
{
    ml_status st = check_data(s, path, out->dataset);
    if (st == ML_OK) st = cut_source(s, path, training, out);
    if (st == ML_OK) warn_of_cut(s, path, out);
    if (st == ML_OK && s->config->objective.name == ML_OBJECTIVE_KTO)
        st = ml_unpaired_prepare(s, out);
    return st;
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
    return ml_shares_check_length(s->config, ml_sampler_most_tokens(source->sampler, 1));
}

int64_t ml_session_own_tokens(const session *s)
{
    return ml_shares_tokens(ml_grid_cp(s->grid), s->tokens,
                            s->config->batch.micro * ml_session_unit(s));
}

static ml_status prepare_data(session *s)
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

static ml_status check_batch(const session *s)
{
    const ml_run_config *c = s->config;
    if (c->batch.sequences >= ml_grid_dp(s->grid)) return ML_OK;
    return ml_run_config_refuse(
        c, "batch.sequences",
        "%" PRId64
        " is less than the %d data-parallel replicas; give each replica at least one sequence",
        c->batch.sequences, ml_grid_dp(s->grid));
}

/* The rows of distances between tokens are all sequences' together. */
static ml_status check_distances(const ml_run_config *c, const ml_model_spec *spec)
{
    if (!ml_run_config_is_exact(c) || !ml_model_is_relative(spec) || c->batch.micro == 1)
        return ML_OK;
    return ml_run_config_refuse(c, "batch.micro",
                                "numerics is grid, and sequences of %s share what stands for their "
                                "distances; set batch.micro to 1, or numerics to fast",
                                c->base);
}

/* What is to be done with the data, and whether the base can. */
static ml_status settle_objective(session *s, bool training)
{
    ml_status st = ML_OK;
    const ml_dataset *data = s->train.dataset ? s->train.dataset : s->valid.dataset;
    if (data && s->config->objective.by_data) {
        s->settled = *s->config;
        s->config = &s->settled;
        ML_TRY(ml_session_settle_objective(&s->settled, data));
    }
    ML_TRY(check_direction(s->config, s->spec, training));
    ML_TRY(check_distances(s->config, s->spec));
    ML_TRY(ml_stages_check(s->spec, ml_grid_pp(s->grid)));
    ML_TRY(ml_shares_check_config(s->config, s->spec, training));
    ML_TRY(ml_session_choose_pooling(s));
done:
    return st;
}

static ml_status find_data(session *s, bool training)
{
    ml_status st = ML_OK;
    ML_TRY(open_data(s, training));
    ML_TRY(ml_grid_agree(s->grid, settle_objective(s, training)));
    ML_TRY(ml_session_agree_on_files(s));
    ML_TRY(ml_grid_agree(s->grid, prepare_data(s)));
done:
    return st;
}

static ml_status check_rounding(const session *s)
{
    if (!s->config->rounds_activations || s->spec->formats) return ML_OK;
    return ml_fail(ML_USAGE,
                   "--activations q8: is for weights in blocks, but %s keeps none in blocks; "
                   "import it with --quantise or --dtype keep, or leave the option out",
                   ml_base_path(s->base));
}

ml_status ml_session_open(session *s, const ml_run_config *config, bool training)
{
    ml_status st = ML_OK;
    *s = (session){.config = config};
    ML_TRY(ml_grid_create_shape(&s->grid, ml_session_grid_shape(config)));
    if (config->wait_limit > 0.0)
        ML_TRY(ml_grid_agree(s->grid, ml_grid_limit_waits(s->grid, config->wait_limit)));
    if (training) ML_TRY(check_batch(s));
    ML_TRY(ml_grid_agree(s->grid, open_base(s, training)));
    ML_TRY(ml_grid_agree(s->grid, check_rounding(s)));
    ML_TRY(find_data(s, training));
done:
    return st;
}

ml_status ml_session_open_beside(session *s, const ml_run_config *config, const session *host)
{
    ml_status st = ML_OK;
    *s = (session){
        .config = config, .host = host, .grid = host->grid, .base = host->base, .spec = host->spec};
    ML_TRY(check_batch(s));
    ML_TRY(ml_session_find_length(config, s->spec, 0, &s->max_len));
    ML_TRY(ml_grid_agree(s->grid, open_masking(s)));
    ML_TRY(find_data(s, true));
done:
    return st;
}

/* ---- model and method ---------------------------------------------------------------------- */

ml_status ml_session_create_model(session *s, const ml_model_spec *spec, int64_t in_flight)
{
    const ml_grid *g = s->grid;
    int pp = ml_grid_pp(g);
    ml_status st = ml_model_create(&s->model, spec, g, ml_grid_tp(g), ml_grid_tp_rank(g),
                                   s->config->precision);
    if (st == ML_OK && ml_run_config_is_exact(s->config)) {
        ml_model_cut_pieces(s->model);
        st = ml_model_sum_leaves(s->model);
    }
    if (st != ML_OK) return st;
    ml_model_share_tokens(s->model, g, ml_grid_cp(g), s->tokens);
    return pp == 1 ? ML_OK : ml_model_hold_stage(s->model, g, pp, ml_grid_stage(g), in_flight);
}

static ml_status create_model(session *s, const ml_model_spec *spec)
{
    const ml_grid *g = s->grid;
    return ml_session_create_model(
        s, spec, ml_stages_in_flight(s->config, ml_grid_dp(g), ml_grid_pp(g), ml_grid_stage(g)));
}

static void place_parameters(session *s)
{
    ml_stages_place(s->model, ml_grid_pp(s->grid), ml_grid_stage(s->grid), &s->parameters);
    ml_parameters_lay_out(&s->parameters);
}

void ml_session_lay_out(session *s)
{
    place_parameters(s);
    if (ml_run_config_is_exact(s->config)) ml_parameters_sum_exactly(&s->parameters);
    if (s->config->memory.shard_optimizer)
        ml_parameters_divide_moments(&s->parameters, ml_grid_replicas(s->grid),
                                     ml_grid_replica(s->grid), 0);
}

ml_status ml_session_check_stages(const session *s)
{
    if (!ml_run_config_is_exact(s->config) || s->parameters.repeated == 0) return ML_OK;
    return ml_run_config_refuse(
        s->config, "parallel.pp",
        "numerics is grid, but stages have a trained tensor in common (a tied embedding), whose "
        "gradient one stage sums in another order; take pp 1, or numerics to fast");
}

ml_status ml_session_check_full(const ml_run_config *c, const ml_model_spec *spec,
                                const char *instead)
{
    if (c->method.name != ML_METHOD_FULL || !spec->formats) return ML_OK;
    return ml_run_config_refuse(c, "method.name",
                                "full trains every weight, but %s keeps them in blocks, which "
                                "cannot be updated; %s",
                                c->base, instead ? instead : "import the model with --dtype bf16");
}

static ml_status attach_method(session *s)
{
    ml_status st = ML_OK;
    const ml_run_config *c = s->config;
    ML_TRY(ml_session_check_full(c, s->spec, NULL));
    ml_model_spec spec = ml_peft_model_spec(s->spec, c->method.name, &c->method.sizes);
    ml_peft_untie(&spec, c->method.name, &c->method.modules_to_save);
    ML_TRY(ml_session_choose_head(c, s->train.dataset, &spec));
    if (spec.masked && ml_grid_rank(s->grid) == 0)
        ml_warn("%s: has no head for masked tokens; a new one is drawn, trains whole beside the "
                "method and is saved with it",
                c->base);
    ML_TRY(create_model(s, &spec));
    ML_TRY(ml_peft_attach_configured(&s->peft, s->model, &s->parameters, c, c->method.name));
done:
    return st;
}

/* The ranks' largest need decides, so that all take the same mode. */
ml_status ml_session_settle_activations(session *s, int64_t more)
{
    const ml_run_config *c = s->config;
    const ml_session_shape shape = ml_session_shape_of(s);
    int64_t need[ML_ACTIVATION_MODES];
    ml_activation_mode mode;
    ml_session_needs(s->model, s->peft, &s->parameters, &shape, need);
    for (int mode = 0; mode < ML_ACTIVATION_MODES; mode++) need[mode] += more;
    ml_grid_max_int64(s->grid, ML_GROUP_WORLD, need, ML_ACTIVATION_MODES);
    if (!ml_session_choose_activations(c, need, &mode))
        return ml_run_config_refuse(
            c, "memory.limit",
            "%" PRId64 " bytes, but a process needs %" PRId64
            " with memory.activations %s (MPI and libraries included)%s",
            c->memory.limit, need[mode], ml_activation_mode_name(mode),
            c->memory.activations == ML_KEEP_AUTO
                ? ", the least of all; lower batch.micro or data.max_len, or use more ranks"
                : "; choose auto, or raise the limit");
    ml_model_set_activations(s->model, mode, 0);
    s->activations = mode;
    return ML_OK;
}

ml_status ml_session_attach_method(session *s)
{
    ml_status st = ml_grid_agree(s->grid, attach_method(s));
    if (st != ML_OK) return st;
    ml_session_lay_out(s);
    st = ml_grid_agree(s->grid, ml_session_check_stages(s));
    if (st != ML_OK) return st;
    return ml_session_settle_activations(s, 0);
}

/* In the sequences of data.valid, where the file was opened before it was known that an adapter
 * has some. */
static ml_status make_room_for_virtual(session *s)
{
    ml_status st = ML_OK;
    ML_TRY(ml_session_find_length(s->config, s->spec, s->prefix + s->infix, &s->max_len));
    if (!s->config->data.max_len) ML_TRY(cut_source(s, s->config->data.valid, false, &s->valid));
    s->tokens = most_tokens(s, &s->valid, s->config->batch.micro);
done:
    return st;
}

static ml_status attach_adapter(session *s, const ml_adapter *adapter)
{
    ml_status st = ML_OK;
    const ml_adapter none = {.method = ML_METHOD_LORA};
    const ml_adapter *a = adapter ? adapter : &none;
    ml_model_spec spec = ml_peft_model_spec(s->spec, a->method, &a->sizes);
    ml_peft_untie_for(&spec, a);
    ML_TRY(ml_adapter_take_head(a, &spec));
    if (s->valid.dataset) /* else hidden states are wanted, which are in front of any head */
        ML_TRY(ml_session_check_head(s->config, s->valid.dataset, &spec, adapter != NULL));
    ML_TRY(create_model(s, &spec));
    if (!adapter) return ML_OK;
    if (ml_method_has_prefix(a->method)) {
        ML_TRY(ml_session_add_virtual(s, &a->sizes));
        if (s->valid.sampler) ML_TRY(make_room_for_virtual(s));
    }
    ML_TRY(ml_peft_attach_adapter(&s->peft, s->model, &s->parameters, adapter));
done:
    return st;
}

ml_status ml_session_attach_adapter(session *s, const ml_adapter *adapter)
{
    ml_status st = ml_grid_agree(s->grid, attach_adapter(s, adapter));
    if (st == ML_OK) place_parameters(s);
    return st;
}

static ml_status attach_bank(session *s, int64_t count, const ml_adapter *adapters)
{
    const ml_model_spec spec = ml_bank_model_spec(s->spec, count, adapters);
    ml_model_spec scoring = *s->spec;
    ml_status st = ML_OK;
    for (int64_t i = 0; st == ML_OK && i < count; i++)
        st = ml_adapter_take_head(&adapters[i], &scoring);
    if (st == ML_OK) st = ml_session_check_head(s->config, NULL, &scoring, count > 0);
    if (st == ML_OK) st = create_model(s, &spec);
    return st == ML_OK ? ml_bank_create(&s->bank, s->model, s->spec, count, adapters) : st;
}

ml_status ml_session_attach_bank(session *s, int64_t count, const ml_adapter *adapters)
{
    return ml_grid_agree(s->grid, attach_bank(s, count, adapters));
}

/* ---- kernels, then memory, then weights ---------------------------------------------------- */

ml_kernels_paths ml_session_common_paths(const session *s)
{
    enum { BITS = 16 };
    const ml_kernels_paths own = ml_kernels_available(ml_model_weight_dtype(s->model));
    ml_kernels_paths common = {0, 0};
    int64_t lacks[2 * BITS];
    for (int i = 0; i < BITS; i++) {
        lacks[i] = !(own.backends >> i & 1);
        lacks[BITS + i] = !(own.vector_paths >> i & 1);
    }
    ml_grid_max_int64(s->grid, ML_GROUP_WORLD, lacks, 2 * BITS);
    for (int i = 0; i < BITS; i++) {
        common.backends |= (unsigned)!lacks[i] << i;
        common.vector_paths |= (unsigned)!lacks[BITS + i] << i;
    }
    return common;
}

/* What the environment has forced. */
static ml_status check_paths(const session *s)
{
    const ml_kernels *k = s->kernels;
    bool invariant = !strcmp(k->backend, "native") && strcmp(k->vector_path, "ref") != 0;
    if (!ml_run_config_is_exact(s->config) || invariant) return ML_OK;
    return ml_run_config_refuse(
        s->config, "numerics",
        "grid, but the environment forces product path %s and vector path %s; let the product be "
        "native, and the vector path avx512, avx2 or generic, or set numerics to fast",
        k->backend, k->vector_path);
}

/* Rank 0 measures, the others take its choice. */
static ml_status create_kernels(session *s, const char *backend, const char *vector_path)
{
    ml_status st = ML_OK;
    ml_weight shapes[ML_MODEL_SHAPES];
    const ml_kernels_paths common = ml_session_common_paths(s);
    ml_kernels_options o = {.backend = backend,
                            .vector_path = vector_path,
                            .among = &common,
                            .recall = s->config->measure == ML_MEASURE_ONCE,
                            .rounded = s->config->rounds_activations,
                            .ordered = ml_run_config_is_exact(s->config),
                            .keep = true};
    struct {
        char product[32], vector[32];
    } choice = {"", ""};
    ml_model_kernel_options(s->model, ml_session_own_tokens(s), &o, shapes);
    bool first = ml_grid_rank(s->grid) == 0;
    ML_TRY(ml_grid_agree(s->grid, first ? ml_kernels_create(&s->kernels, &o) : ML_OK));
    if (first) {
        snprintf(choice.product, sizeof choice.product, "%s", s->kernels->backend);
        snprintf(choice.vector, sizeof choice.vector, "%s", s->kernels->vector_path);
    }
    ml_grid_broadcast(s->grid, ML_GROUP_WORLD, 0, &choice, (int64_t)sizeof choice);
    o.backend = choice.product;
    o.vector_path = choice.vector;
    ML_TRY(ml_grid_agree(s->grid, first ? ML_OK : ml_kernels_create(&s->kernels, &o)));
    ml_model_use_kernels(s->model, s->kernels);
    ML_TRY(check_paths(s));
done:
    return st;
}

static ml_status allocate_parameters(session *s, bool training)
{
    ml_status st = ml_parameters_allocate(&s->parameters, training);
    return st == ML_OK && s->peft ? ml_peft_bind(s->peft) : st;
}

static ml_status create_packer(session *s)
{
    int64_t sequences = s->config->batch.micro * ml_session_unit(s);
    ml_status st = ml_packer_create(&s->packer, s->tokens, sequences,
                                    s->max_len + s->prefix + s->infix, ml_model_get_spec(s->model));
    if (st == ML_OK && ml_run_config_contrasts(s->config))
        st = ml_packer_add_vectors(&s->packer, sequences, s->spec->width);
    if (st == ML_OK) st = ml_shares_create(&s->packer.shares, ml_grid_cp(s->grid), sequences);
    return st;
}

/* For the neighbours that there are. */
static ml_status allocate_messages(session *s)
{
    ml_status st = ML_OK;
    int pp = ml_grid_pp(s->grid), stage = ml_grid_stage(s->grid);
    int64_t own = ml_session_own_tokens(s), n = own * s->spec->width;
    if (pp > 1 && n > INT32_MAX)
        return ml_run_config_refuse(s->config, "batch.micro",
                                    "a micro-batch of %" PRId64 " tokens of width %" PRId64
                                    " is more than one message between stages holds; lower it",
                                    own, s->spec->width);
    if (stage < pp - 1) ML_NEW(s->sent[ML_TO_NEXT], n, ML_MEM_COMMUNICATION, "a message");
    if (stage > 0) ML_NEW(s->sent[ML_TO_PREVIOUS], n, ML_MEM_COMMUNICATION, "a message");
done:
    return st;
}

static ml_status allocate_passes(session *s, bool training)
{
    ml_model_share_tokens(s->model, s->grid, ml_grid_cp(s->grid), s->tokens);
    ml_status st = ml_model_reserve(s->model, ml_session_own_tokens(s), training);
    if (st == ML_OK) st = allocate_messages(s);
    return st == ML_OK ? create_packer(s) : st;
}

ml_status ml_session_build(session *s, bool training, const char *backend, const char *vector_path)
{
    ml_status st = ML_OK;
    ML_TRY(create_kernels(s, backend, vector_path));
    ML_TRY(ml_grid_agree(s->grid, allocate_parameters(s, training)));
    ML_TRY(ml_session_store_weights(s));
    ML_TRY(ml_grid_agree(s->grid, allocate_passes(s, training)));
    ML_TRY(ml_session_read_weights(s));
done:
    return st;
}

ml_status ml_session_build_beside(session *s)
{
    ml_status st = allocate_parameters(s, true);
    return ml_grid_agree(s->grid, st == ML_OK ? create_packer(s) : st);
}

static void close_own(session *s)
{
    ml_bank_destroy(s->bank);
    ml_model_destroy(s->model);
    ml_shared_destroy(s->shared);
    ml_kernels_destroy(s->kernels);
    ml_base_close(s->base);
}

void ml_session_close(session *s)
{
    ml_packer_destroy(&s->packer);
    ml_memory_free(s->sent[ML_TO_NEXT]);
    ml_memory_free(s->sent[ML_TO_PREVIOUS]);
    ml_masking_destroy(s->masking);
    ml_session_free_ahead(s);
    ml_contrast_destroy(&s->contrast);
    ml_peft_destroy(s->peft);
    if (!s->host) close_own(s);
    ml_parameters_destroy(&s->parameters);
    close_source(&s->train);
    close_source(&s->valid);
    if (!s->host) ml_grid_destroy(s->grid);
    *s = (session){0};
}
