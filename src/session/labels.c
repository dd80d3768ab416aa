/* Which head a run's model has: that of its objective, the base's own where the base has one, and
 * where it has none a new one, which begins with small random numbers and trains whole beside any
 * method. */
#include <inttypes.h>
#include <jansson.h>

#include "io/json.h"
#include "mpilora/family.h"
#include "session/session.h"

/* The one label of a reward model is its reward. */
static ml_status count_labels(int64_t *labels)
{
    *labels = 1;
    return ML_OK;
}

ml_status ml_session_choose_head(const ml_run_config *c, ml_model_spec *spec)
{
    const char *name = ml_objective_name(c->objective.name);
    int64_t labels;
    if (!ml_run_config_scores_labels(c)) return ml_session_check_head(c, spec, false);
    ml_status st = count_labels(&labels);
    if (st != ML_OK) return st;
    if (!ml_family_scores(spec->family, ML_HEAD_SEQUENCE))
        return ml_run_config_refuse(c, "objective.name",
                                    "%s needs a head for labels, which models of the %s family "
                                    "have not in transformers either",
                                    name, spec->family->title);
    if (spec->head != ML_HEAD_LANGUAGE && spec->labels != labels)
        return ml_run_config_refuse(c, "base",
                                    "%s has a head for %" PRId64 " labels, but objective %s "
                                    "needs one for %" PRId64 "; take a base without a head",
                                    c->base, spec->labels, name, labels);
    spec->head = ML_HEAD_SEQUENCE;
    spec->labels = labels;
    return ML_OK;
}

ml_status ml_session_check_head(const ml_run_config *c, const ml_model_spec *spec, bool adapted)
{
    const char *name = ml_objective_name(c->objective.name);
    if (ml_run_config_scores_labels(c) == (spec->head != ML_HEAD_LANGUAGE)) return ML_OK;
    if (spec->head == ML_HEAD_LANGUAGE)
        return ml_fail(ML_INPUT,
                       "%s: has no head for labels, which objective %s needs%s; give the adapter "
                       "or the base that was trained with it",
                       c->base, name, adapted ? ", and the adapter has none either" : "");
    return ml_fail(ML_INPUT,
                   "%s%s: has a head for %" PRId64 " labels and none for tokens, which is needed "
                   "here; give one that was trained on tokens, or objective.name",
                   adapted ? "adapter of " : "", c->base, spec->labels);
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
    return slot->row->role == ML_ROLE_CLASSIFY && s->spec->head == ML_HEAD_LANGUAGE;
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
