/* Which head a run's model has: that of its objective, the base's own where the base has one, and
 * where it has none a new one, which begins with small random numbers and trains whole beside any
 * method. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>

#include "mpilora/family.h"
#include "session/base_json.h"
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

ml_status ml_session_settle_objective(ml_run_config *c, const ml_dataset *data)
{
    static const ml_objective readers[] = {
        [ML_LABEL_NONE] = ML_OBJECTIVE_SFT,       [ML_LABEL_CLASS] = ML_OBJECTIVE_CLASSIFY,
        [ML_LABEL_NUMBER] = ML_OBJECTIVE_REGRESS, [ML_LABEL_BITS] = ML_OBJECTIVE_CLASSIFY,
        [ML_LABEL_TOKENS] = ML_OBJECTIVE_TOKENS,  [ML_LABEL_WANTED] = ML_OBJECTIVE_KTO};
    bool related = ml_dataset_related(data) > 0;
    const ml_label_kind kind = ml_dataset_label_kind(data);
    ml_objective name = related ? ML_OBJECTIVE_CONTRASTIVE : readers[kind];
    if (!c->objective.by_data || name == ML_OBJECTIVE_SFT || name == ML_OBJECTIVE_KTO) return ML_OK;
    if (ml_grid_world_rank() == 0)
        ml_log("objective.name is not given: %s, for the data have %s%s", ml_objective_name(name),
               related ? "rows of texts that belong together" : "labels of the kind ",
               related ? "" : ml_label_kind_name(kind));
    return ml_run_config_choose_objective(c, name);
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

ml_status ml_session_check_masks(const ml_run_config *c, const ml_model_spec *spec)
{
    if (spec->both_ways && ml_family_predicts_masked(spec->family)) return ML_OK;
    return ml_run_config_refuse(c, "objective.name",
                                "mlm predicts a token from both sides of it, but %s (%s) is a "
                                "decoder; choose sft",
                                c->base, spec->family->title);
}

ml_status ml_session_choose_head(const ml_run_config *c, const ml_dataset *data,
                                 ml_model_spec *spec)
{
    const char *name = ml_objective_name(c->objective.name);
    int64_t labels;
    if (ml_run_config_masks(c) && spec->head == ML_HEAD_LANGUAGE) {
        spec->masked = !spec->transform;
        return ml_session_check_masks(c, spec);
    }
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
    if (ml_run_config_masks(c) && spec->head == ML_HEAD_LANGUAGE && !ml_model_predicts_masked(spec))
        return ml_fail(ML_INPUT,
                       "%s: has no head for masked tokens, which objective mlm needs%s; give the "
                       "adapter or the base that was trained with it",
                       c->base, adapted ? ", and the adapter has none either" : "");
    if (scores ? spec->head != head_of(c) : spec->head != ML_HEAD_LANGUAGE)
        return ml_fail(ML_INPUT,
                       "%s%s: has a head for %" PRId64 " label%s of %s and none for %s, which is "
                       "needed here; give one that was trained so, or another objective.name",
                       whose, c->base, spec->labels, spec->labels == 1 ? "" : "s",
                       spec->head == ML_HEAD_TOKENS ? "tokens" : "sequences",
                       ml_run_config_masks(c)         ? "masked tokens"
                       : !scores                      ? "the next token"
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

/* Deviations as the model's own configuration names them: of matrices, and where they are cut
 * off, in deviations; 0: nowhere. */
typedef struct beginnings {
    bool known;
    double range, cut;
} beginnings;

static double number_of(const json_t *root, const char *key, double otherwise)
{
    const json_t *value = json_object_get(root, key);
    return json_is_number(value) ? json_number_value(value) : otherwise;
}

static ml_status find_beginnings(const session *s, beginnings *out)
{
    ml_status st = ML_OK;
    json_t *root = NULL;
    if (out->known) return ML_OK;
    ML_TRY(ml_session_read_json(&root, s->base, "config.json"));
    out->known = true;
    out->range = number_of(root, "initializer_range", 0.02); /* transformers' in every family */
    if (s->spec->family->shrinking_heads)
        out->cut = number_of(root, "initializer_cutoff_factor", 2.0);
done:
    json_decref(root);
    return st;
}

/* As transformers has it of ModernBERT: of what goes back into the width by depth, of the scores by
 * width. */
static double deviation_of(const session *s, const ml_model_slot *slot, const beginnings *b)
{
    const ml_model_spec *spec = s->spec;
    if (!spec->family->shrinking_heads) return b->range;
    if (slot->row->role == ML_ROLE_CLASSIFY) return 1.0 / sqrt((double)spec->width);
    return b->range / sqrt(2.0 * (double)spec->layers);
}

/* Normal numbers of which those beyond the cut are drawn again. */
static void draw_cut(ml_random_key key, int64_t count, double deviation, double cut, float *out)
{
    enum { TIMES = 1000 };
    for (int64_t i = 0; i < count; i++) {
        double x = 0.0;
        for (uint64_t again = 0; again < TIMES; again++) {
            x = ml_random_normal(key, again, (uint64_t)i);
            if (fabs(x) <= cut) break;
        }
        out[i] = (float)(deviation * x);
    }
}

static void draw(const session *s, const ml_model_slot *slot, const beginnings *b)
{
    const ml_random_key key = ml_random_key_make(s->config->seed, slot->name);
    double deviation = deviation_of(s, slot, b);
    if (b->cut > 0.0)
        draw_cut(key, slot->count, deviation, b->cut, slot->data);
    else
        ml_random_normals(key, 0, 0, slot->count, deviation, slot->data);
}

bool ml_session_is_new(const session *s, const ml_model_slot *slot)
{
    return s->spec->head == ML_HEAD_LANGUAGE && ml_family_is_new(s->spec, slot->row);
}

ml_status ml_session_draw_head(session *s)
{
    beginnings b = {.known = false};
    for (int64_t i = 0; i < ml_model_slots(s->model); i++) {
        const ml_model_slot *slot = ml_model_slot_at(s->model, i);
        if (!ml_session_is_new(s, slot)) continue;
        if (slot->vector) { /* a norm's weight is 1, biases are 0 */
            float *value = slot->data;
            for (int64_t k = 0; k < slot->count; k++) value[k] = slot->row->bias ? 0.0F : 1.0F;
            continue;
        }
        ml_status st = find_beginnings(s, &b);
        if (st != ML_OK) return st;
        draw(s, slot, &b);
    }
    return ML_OK;
}
