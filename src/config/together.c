/* Which runs may train together on one copy of the frozen weights: those that have in common what
 * belongs to the model and the job, and of which each trains nothing but adapters of its own. */
#include "mpilora/config.h"

static const char *name_of(const ml_run_config *c) { return c->run_dir ? c->run_dir : "a run"; }

ml_status ml_run_config_check_single(const ml_run_config *c)
{
    if (c->runs.count == 0) return ML_OK;
    return ml_run_config_refuse(
        c, "runs",
        "are read by train and plan alone; --set runs=null leaves the run that "
        "stands beside them, other --set make it one of them");
}

/* What these train is added to the outputs of linear layers, row by row: each row can have another
 * run's. */
static bool is_on_outputs(ml_method method)
{
    return method == ML_METHOD_LORA || method == ML_METHOD_ADAPTER_H ||
           method == ML_METHOD_ADAPTER_L || method == ML_METHOD_ADAPTER_P ||
           method == ML_METHOD_ADAPTER_DROP || method == ML_METHOD_COMPACTER;
}

static ml_status check_method(const ml_run_config *c)
{
    static const char frozen[] = "tensors of the base cannot train where others share them";
    const struct {
        const char *key;
        bool wrong;
        const char *why;
    } all[] = {
        {"method.name", !is_on_outputs(c->method.name),
         "only lora, adapter_h, adapter_l, adapter_p, adapter_drop and compacter train beside "
         "others"},
        {"parallel.cp", c->parallel.cp > 1, "sequences are shared out of one run at a time"},
        {"method.init", ml_run_config_is_pissa(c), "pissa changes the weights that all share"},
        {"method.modules_to_save", c->method.modules_to_save.count > 0, frozen},
        {"method.bias", c->method.bias != ML_BIAS_NONE, frozen},
        {"method.trainable_tokens", c->method.trainable_tokens.count > 0, frozen},
        {"method.trainable_head_tokens", c->method.trainable_head_tokens.count > 0, frozen},
        {"loss.filter", c->loss.filter > 0.0,
         "which rows lose small probabilities depends on those of other runs beside them"},
        {"objective.name", ml_run_config_contrasts(c),
         "the vectors of a step's texts are compared with each other alone"}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].wrong)
            return ml_run_config_refuse(c, all[i].key,
                                        "%s; take it out of %s, or train that run alone",
                                        all[i].why, name_of(c));
    return ML_OK;
}

/* The next component of a path, without what says nothing: "/", "./". */
static const char *next_part(const char *at, size_t *length)
{
    for (;;) {
        at += strspn(at, "/");
        *length = strcspn(at, "/");
        if (*length != 1 || *at != '.') return at;
        at++;
    }
}

/* Whether a directory is `in`, or lies in it, as they are spelt. */
static bool lies_in(const char *directory, const char *in)
{
    size_t a, b;
    if ((*directory == '/') != (*in == '/')) return false;
    for (;; directory += a, in += b) {
        directory = next_part(directory, &a);
        in = next_part(in, &b);
        if (b == 0) return true;
        if (a != b || strncmp(directory, in, a) != 0) return false;
    }
}

/* Whether the head gives a gradient to an adapter: then log p of all answers are found before
 * anything goes back, else the gradients of weight one are, and weighed later, with other bits. */
static bool adapts_head(const ml_run_config *c)
{
    return c->method.name == ML_METHOD_LORA && (c->method.targets & ML_TARGET_HEAD);
}

static bool compares_answers(const ml_run_config *c)
{
    return ml_run_config_has_figures(c) && !ml_run_config_scores_labels(c);
}

/* What would give runs of `numerics: grid` other bits than each of them has alone. */
static ml_status check_numerics(const ml_run_config *first, const ml_run_config *c)
{
    if (!ml_run_config_is_exact(c)) return ML_OK;
    if (ml_run_config_has_figures(first) != ml_run_config_has_figures(c))
        return ml_run_config_refuse(c, "objective.name",
                                    "numerics is grid, but %s beside %s is computed otherwise than "
                                    "alone; train them apart, or set numerics to fast",
                                    ml_objective_name(c->objective.name),
                                    ml_objective_name(first->objective.name));
    if (compares_answers(c) && adapts_head(first) != adapts_head(c))
        return ml_run_config_refuse(
            c, "method.targets",
            "numerics is grid, but of %s and %s one alone adapts the head, beside which answers "
            "are "
            "weighed otherwise than alone; train them apart, or set numerics to fast",
            name_of(first), name_of(c));
    return ML_OK;
}

static bool same_text(const char *a, const char *b) { return a == b || (a && b && !strcmp(a, b)); }

ml_status ml_run_config_check_together(const ml_run_config *first, const ml_run_config *c)
{
    const struct {
        const char *key;
        bool same;
    } all[] = {{"base", same_text(first->base, c->base)},
               {"precision", first->precision == c->precision},
               {"numerics", first->numerics == c->numerics},
               {"parallel.tp", first->parallel.tp == c->parallel.tp},
               {"parallel.pp", first->parallel.pp == c->parallel.pp},
               {"memory.activations", first->memory.activations == c->memory.activations},
               {"memory.limit", first->memory.limit == c->memory.limit},
               {"memory.share_frozen", first->memory.share_frozen == c->memory.share_frozen},
               {"memory.load", first->memory.load == c->memory.load},
               {"kernels.product", same_text(first->backend, c->backend)},
               {"kernels.vector", same_text(first->vector_path, c->vector_path)},
               {"kernels.measure", first->measure == c->measure},
               {"run.wait_limit", first->wait_limit == c->wait_limit},
               {"optim.label_smoothing", first->optim.label_smoothing == c->optim.label_smoothing}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!all[i].same)
            return ml_run_config_refuse(c, all[i].key,
                                        "differs between %s and %s, but is one for all runs of a "
                                        "job; give them the same, or train them apart",
                                        name_of(first), name_of(c));
    ml_status st = check_numerics(first, c);
    if (st != ML_OK) return st;
    if (first != c && c->run_dir && first->run_dir &&
        (lies_in(c->run_dir, first->run_dir) || lies_in(first->run_dir, c->run_dir)))
        return ml_run_config_refuse(
            c, "run.dir", "%s and %s: runs of a job need directories of their own, none in another",
            first->run_dir, c->run_dir);
    return check_method(c);
}
