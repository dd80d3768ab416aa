/* What the trainable tensors of a new run begin as: the method's own values, virtual tokens from
 * tokens of the vocabulary, PiSSA's factors, or an adapter that is there.
 *
 * PiSSA: a new run decomposes the weights and keeps the factors in its directory; a resumed one
 * reads them there, so that it trains beside exactly the same weights. */
#include "train/run.h"

/* ---- virtual tokens: which tokens of the vocabulary they begin as -------------------------- */

/* Each anywhere in the vocabulary; the same on every grid. */
static void draw_tokens(const session *s, int64_t count, int32_t *token)
{
    ml_random_key key = ml_random_key_make(s->config->seed, "prefix.tokens");
    for (int64_t i = 0; i < count; i++)
        token[i] = (int32_t)(ml_random_uniform(key, 0, (uint64_t)i) * (double)s->spec->vocab);
}

/* Those of the text with what goes before every text, from its beginning again where it is too
 * short: PEFT's TEXT. */
static ml_status read_tokens(const session *s, int64_t count, int32_t *token)
{
    ml_status st = ML_OK;
    const char *text = s->config->method.prefix_text;
    int64_t length;
    ml_ids ids = {0};
    ml_tokenizer *tokenizer = NULL;
    const char *json = ml_base_tokenizer(s->base, &length);
    if (!length)
        return ml_fail(ML_INPUT,
                       "method.prefix_init: text, but the base %s has no tokenizer; import it from "
                       "a source that has one",
                       ml_base_path(s->base));
    ML_TRY(ml_tokenizer_create(&tokenizer, json, length));
    ML_TRY(ml_tokenizer_begin(tokenizer, &ids));
    int64_t first = ids.count;
    ML_TRY(ml_tokenizer_encode(tokenizer, text, (int64_t)strlen(text), true, &ids));
    if (ids.count == first)
        st = ml_fail(ML_USAGE, "method.prefix_text: has no token; give at least one word");
    for (int64_t i = 0; st == ML_OK && i < count; i++) token[i] = ids.data[i % ids.count];
done:
    ml_ids_destroy(&ids);
    ml_tokenizer_destroy(tokenizer);
    return st;
}

ml_status choose_start_tokens(run *r)
{
    ml_status st = ML_OK;
    const session *s = &r->session;
    int64_t count = s->prefix + s->infix;
    ml_prefix_init init = r->config->method.prefix_init;
    if (count == 0 || init == ML_PREFIX_RANDOM || ml_run_config_first_adapter(r->config))
        return ML_OK;
    ML_NEW(r->start_token, count, ML_MEM_OTHER, "tokens to start from");
    if (init == ML_PREFIX_TEXT)
        st = read_tokens(s, count, r->start_token);
    else
        draw_tokens(s, count, r->start_token);
done:
    return st;
}

/* Every replica takes the first one's numbers: processors may differ in the last bit of theirs. */
static void start_virtual(run *r)
{
    ml_parameters *p = &r->session.parameters;
    if (!r->start_token) return;
    ml_peft_start_virtual(r->session.peft, r->start_token);
    ml_grid_broadcast(r->session.grid, ML_GROUP_DP, 0, p->value,
                      p->local * (int64_t)sizeof *p->value);
}

/* ---- PiSSA --------------------------------------------------------------------------------- */

static ml_status write_initial(run *r, const char *path)
{
    session *s = &r->session;
    ml_adapter adapter = {0};
    ml_status st = ml_peft_collect(s->peft, s->grid, ml_base_source_hash(s->base), &adapter);
    if (st != ML_OK) return st;
    st = ml_grid_agree(s->grid,
                       ml_grid_rank(s->grid) == 0 ? ml_adapter_write(&adapter, path) : ML_OK);
    ml_adapter_destroy(&adapter);
    return st;
}

static ml_status read_initial(run *r, const char *path)
{
    session *s = &r->session;
    ml_adapter adapter = {0};
    ml_status st = ml_adapter_read_for(&adapter, path, s->base);
    if (st == ML_OK) st = ml_peft_load(s->peft, &adapter);
    ml_adapter_destroy(&adapter);
    return st;
}

ml_status start_pissa(run *r, bool resumed)
{
    ml_status st = ML_OK;
    session *s = &r->session;
    ml_text path = {0};
    ML_TRY(
        ml_grid_agree(s->grid, ml_text_printf(&path, "%s/initial-adapter.h5", r->config->run_dir)));
    if (resumed) {
        ML_TRY(ml_grid_agree(s->grid, read_initial(r, path.data)));
    } else {
        ML_TRY(ml_peft_decompose(s->peft, s->base, NULL, s->grid));
        ML_TRY(write_initial(r, path.data));
    }
    ML_TRY(ml_grid_agree(s->grid, ml_peft_take_out(s->peft)));
done:
    ml_text_destroy(&path);
    return st;
}

/* ---- LoftQ --------------------------------------------------------------------------------- */

/* Whether every matrix in a layer of `a` is in `b`, too; tokens may have been added. */
static bool has_matrices(const ml_model_spec *a, const ml_model_spec *b)
{
    int64_t count = ml_model_tensor_count(b), j = 0;
    for (int64_t i = 0; i < ml_model_tensor_count(a); i++) {
        ml_model_tensor t, other = {0};
        ml_model_tensor_at(a, i, &t);
        if (t.layer < 0 || t.norm_or_bias) continue;
        while (j < count && strcmp(other.name, t.name) != 0) ml_model_tensor_at(b, j++, &other);
        if (strcmp(other.name, t.name) != 0 || other.rows != t.rows || other.cols != t.cols)
            return false;
    }
    return true;
}

/* That the original has the same matrices; a warning where it came from another source. */
static ml_status check_original(const session *s, const ml_base *original)
{
    const ml_model_spec *b = ml_base_spec(original);
    const char *path = ml_base_path(original);
    if (!has_matrices(s->spec, b))
        return ml_fail(ML_INPUT,
                       "method.original: %s is another model than the base %s: its matrices "
                       "differ",
                       path, ml_base_path(s->base));
    if (b->formats)
        return ml_fail(ML_INPUT,
                       "method.original: %s has blocks itself; name the base before it was rounded",
                       path);
    if (strcmp(ml_base_source_hash(s->base), ml_base_source_hash(original)) != 0)
        ml_warn("method.original: %s was imported from other files than the base %s: its weights "
                "are taken for what the base should be",
                path, ml_base_path(s->base));
    return ML_OK;
}

ml_status open_original(run *r)
{
    const session *s = &r->session;
    ml_status st = ML_OK;
    if (!ml_run_config_is_loftq(r->config) || r->original) return ML_OK;
    st = ml_base_open(&r->original, r->config->method.original);
    return st == ML_OK ? check_original(s, r->original) : ml_fail_within(st, "method.original");
}

ml_status start_loftq(run *r)
{
    ml_status st = ML_OK;
    const session *s = &r->session;
    ML_TRY(ml_grid_agree(s->grid, open_original(r)));
    ML_TRY(ml_grid_agree_on_file("method.original", r->config->method.original,
                                 ml_base_content_hash(r->original)));
    ML_TRY(ml_peft_decompose(s->peft, s->base, r->original, s->grid));
done:
    close_original(r);
    return st;
}

void close_original(run *r)
{
    ml_base_close(r->original);
    r->original = NULL;
}

/* ---- any other method ---------------------------------------------------------------------- */

/* A head for labels has no place beside one for tokens. */
static ml_status check_head(const run *r)
{
    ml_model_spec spec = *ml_base_spec(r->session.base);
    ml_status st = ml_adapter_take_head(&r->first, &spec);
    if (st != ML_OK || spec.head == r->session.spec->head || ml_run_config_scores_labels(r->config))
        return st;
    return ml_fail(ML_USAGE,
                   "method.init: the adapter has a head for labels, of which objective %s makes no "
                   "use; set objective.name to one that has labels, or take another adapter",
                   ml_objective_name(r->config->objective.name));
}

/* As the method has it; of a new run also that the method takes it. */
static ml_status fit_first(run *r)
{
    ml_status st = ML_OK;
    const session *s = &r->session;
    ML_TRY(check_head(r));
    ML_TRY(ml_adapter_split_fused(&r->first, ml_base_spec(s->base), r->config->method.targets));
    if (r->anew) ML_TRY(ml_peft_check(s->peft, &r->first));
done:
    return st == ML_OK ? st : ml_fail_within(st, "%s", ml_run_config_first_adapter(r->config));
}

ml_status read_first_adapter(run *r)
{
    ml_status st = ML_OK;
    const session *s = &r->session;
    const char *path = ml_run_config_first_adapter(r->config);
    if (!path) return ML_OK;
    ML_TRY(ml_grid_agree(s->grid, ml_adapter_read_for(&r->first, path, s->base)));
    ML_TRY(ml_grid_agree_on_file("the adapter", path, r->first.hash));
    memcpy(r->first_hash, r->first.hash, sizeof r->first_hash);
    r->belongs_to_blocks = r->first.base_content_hash[0] != '\0';
    ML_TRY(ml_grid_agree(s->grid, fit_first(r)));
done:
    return st;
}

ml_status initial_values(run *r)
{
    ml_status st = ML_OK;
    session *s = &r->session;
    const char *path = ml_run_config_first_adapter(r->config);
    ml_peft_initialise(s->peft);
    start_virtual(r);
    if (path) st = ml_peft_load(s->peft, &r->first);
    return st == ML_OK ? st : ml_fail_within(st, "%s", path);
}
