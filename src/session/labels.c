/* Which head a run's model has: that of its objective, the base's own where the base has one, and
 * where it has none a new one, which begins with small random numbers and trains whole beside any
 * method. */
#include <inttypes.h>
#include <jansson.h>

#include "io/json.h"
#include "mpilora/family.h"
#include "session/session.h"

static ml_head_kind head_of(const ml_run_config *c)
{
    return c->objective.name == ML_OBJECTIVE_TOKENS ? ML_HEAD_TOKENS : ML_HEAD_SEQUENCE;
}

/* ---- the data ------------------------------------------------------------------------------ */

/* Whether an objective reads labels of a kind; NONE where it reads no labels. */
static bool reads_kind(const ml_run_config *c, ml_label_kind kind)
{
    switch (c->objective.name) {
    case ML_OBJECTIVE_CLASSIFY:
        return kind == ML_LABEL_CLASS || kind == ML_LABEL_BITS;
    case ML_OBJECTIVE_REGRESS:
        return kind == ML_LABEL_NUMBER;
    case ML_OBJECTIVE_TOKENS:
        return kind == ML_LABEL_TOKENS;
    default:
        return kind == ML_LABEL_NONE;
    }
}

/* Objective kto takes pairs apart, too. */
static ml_status check_judged(const ml_run_config *c, const char *path, const ml_dataset *data)
{
    bool judged = ml_dataset_label_kind(data) == ML_LABEL_WANTED || ml_dataset_has_pairs(data);
    return judged ? ML_OK
                  : ml_fail(ML_INPUT,
                            "%s: does not say which answers are wanted, as objective %s needs; "
                            "tokenize rows with prompt, completion and label true or false, or "
                            "pairs",
                            path, ml_objective_name(c->objective.name));
}

ml_status ml_session_check_labels(const ml_run_config *c, const char *path, const ml_dataset *data)
{
    static const char *const readers[] = {[ML_LABEL_CLASS] = "classify",
                                          [ML_LABEL_NUMBER] = "regress",
                                          [ML_LABEL_BITS] = "classify",
                                          [ML_LABEL_TOKENS] = "tokens"};
    const ml_label_kind kind = ml_dataset_label_kind(data);
    const char *name = ml_objective_name(c->objective.name);
    if (c->objective.name == ML_OBJECTIVE_KTO) return check_judged(c, path, data);
    if (reads_kind(c, kind)) return ML_OK;
    if (kind == ML_LABEL_NONE)
        return ml_fail(ML_INPUT,
                       "%s: has no labels, which objective %s needs; tokenize rows with a label "
                       "each",
                       path, name);
    if (kind == ML_LABEL_WANTED)
        return ml_fail(ML_INPUT,
                       "%s: has answers that are not wanted, which objective %s would learn; set "
                       "objective.name to kto",
                       path, name);
    return ml_fail(ML_INPUT,
                   "%s: has labels of the kind %s, which objective %s does not read; set "
                   "objective.name to %s",
                   path, ml_label_kind_name(kind), name, readers[kind]);
}

/* ---- the head ------------------------------------------------------------------------------ */

/* The one label of a reward model is its reward. */
static ml_status count_labels(const ml_run_config *c, const ml_dataset *data, int64_t *labels)
{
    *labels = 1;
    if (c->objective.name == ML_OBJECTIVE_REWARD || c->objective.name == ML_OBJECTIVE_REGRESS)
        return ML_OK;
    if (!data)
        return ml_run_config_refuse(c, "data.train",
                                    "is not there, but how many labels objective %s has is known "
                                    "from it alone",
                                    ml_objective_name(c->objective.name));
    *labels = ml_dataset_label_count(data);
    return ML_OK;
}

/* Classes may be fewer than the head has; of bits and numbers each score has a meaning. */
static bool fits(const ml_model_spec *spec, const ml_dataset *data, int64_t labels)
{
    bool classes = data && (ml_dataset_label_kind(data) == ML_LABEL_CLASS ||
                            ml_dataset_label_kind(data) == ML_LABEL_TOKENS);
    return classes ? labels <= spec->labels : labels == spec->labels;
}

ml_status ml_session_choose_head(const ml_run_config *c, const ml_dataset *data,
                                 ml_model_spec *spec)
{
    const char *name = ml_objective_name(c->objective.name);
    int64_t labels;
    if (!ml_run_config_scores_labels(c) || spec->head != ML_HEAD_LANGUAGE)
        return ml_session_check_head(c, data, spec, false);
    ml_status st = count_labels(c, data, &labels);
    if (st != ML_OK) return st;
    if (!ml_family_scores(spec->family, head_of(c)))
        return ml_run_config_refuse(c, "objective.name",
                                    "%s needs a head for labels, which models of the %s family "
                                    "have not in transformers either",
                                    name, spec->family->title);
    spec->head = head_of(c);
    spec->labels = labels;
    return ML_OK;
}

ml_status ml_session_check_head(const ml_run_config *c, const ml_dataset *data,
                                const ml_model_spec *spec, bool adapted)
{
    const char *name = ml_objective_name(c->objective.name), *whose = adapted ? "adapter of " : "";
    bool scores = ml_run_config_scores_labels(c);
    int64_t labels;
    if (scores && spec->head == ML_HEAD_LANGUAGE)
        return ml_fail(ML_INPUT,
                       "%s: has no head for labels, which objective %s needs%s; give the adapter "
                       "or the base that was trained with it",
                       c->base, name, adapted ? ", and the adapter has none either" : "");
    if (ml_run_config_contrasts(c) && spec->head != ML_HEAD_LANGUAGE)
        return ml_fail(ML_INPUT,
                       "%s%s: has a head for %" PRId64 " label%s, which objective contrastive "
                       "would leave as it is: vectors are made of what stands before any head; "
                       "give one without",
                       whose, c->base, spec->labels, spec->labels == 1 ? "" : "s");
    if (scores ? spec->head != head_of(c) : spec->head != ML_HEAD_LANGUAGE)
        return ml_fail(ML_INPUT,
                       "%s%s: has a head for %" PRId64 " label%s of %s and none for %s, which is "
                       "needed here; give one that was trained so, or another objective.name",
                       whose, c->base, spec->labels, spec->labels == 1 ? "" : "s",
                       spec->head == ML_HEAD_TOKENS ? "tokens" : "sequences",
                       !scores                        ? "the next token"
                       : head_of(c) == ML_HEAD_TOKENS ? "tokens"
                                                      : "sequences");
    if (!scores) return ML_OK;
    ml_status st = count_labels(c, data, &labels);
    if (st == ML_OK && !fits(spec, data, labels))
        return ml_fail(ML_INPUT,
                       "%s%s: has a head for %" PRId64 " label%s, but the data have %" PRId64
                       "; give one that was trained on these labels, or a base without a head",
                       whose, c->base, spec->labels, spec->labels == 1 ? "" : "s", labels);
    return st;
}

/* ---- what a new head begins with ----------------------------------------------------------- */

/* The deviation that the model's own configuration names. */
static ml_status find_range(const session *s, double *range)
{
    ml_status st = ML_OK;
    ml_text text = {0};
    json_t *root = NULL;
    *range = 0.02; /* transformers' default in every family */
    ML_TRY(ml_base_read_file(s->base, "config.json", &text));
    if (text.length == 0) goto done;
    ML_TRY(ml_json_read(&root, "config.json", text.data, text.length));
    const json_t *value = json_object_get(root, "initializer_range");
    if (json_is_number(value)) *range = json_number_value(value);
done:
    json_decref(root);
    ml_text_destroy(&text);
    return st;
}

bool ml_session_is_new(const session *s, const ml_model_slot *slot)
{
    if (s->spec->head != ML_HEAD_LANGUAGE) return false;
    return slot->row->role == ML_ROLE_CLASSIFY ||
           (slot->row->role == ML_ROLE_POOL && !s->spec->pool);
}

ml_status ml_session_draw_head(session *s)
{
    double range = 0.0;
    for (int64_t i = 0; i < ml_model_slots(s->model); i++) {
        ml_model_slot *slot = ml_model_slot_at(s->model, i);
        if (!ml_session_is_new(s, slot)) continue;
        if (slot->row->bias) {
            memset(slot->data, 0, (size_t)slot->count * sizeof(float));
            continue;
        }
        ml_status st = range > 0.0 ? ML_OK : find_range(s, &range);
        if (st != ML_OK) return st;
        ml_random_normals(ml_random_key_make(s->config->seed, slot->name), 0, 0, slot->count, range,
                          slot->data);
    }
    return ML_OK;
}
