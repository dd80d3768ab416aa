/* The singular values of W, and of ΔW = scale·B·A where there is an adapter, at every module of a
 * study: W's by ScaLAPACK over all ranks, ΔW's on each rank from the small factors. */
#include "analyze/spectrum.h"
#include "analyze/directions.h"
#include "analyze/singular_values.h"
#include "analyze/weights.h"

void ml_spectra_destroy(ml_spectrum *s, int64_t count)
{
    for (int64_t i = 0; s && i < count; i++) {
        ml_memory_free(s[i].weight);
        ml_memory_free(s[i].delta);
    }
    ml_memory_free(s);
}

ml_status spectrum_check_memory(const ml_study *study, int64_t memory)
{
    ml_svd_plan most = {0}, plan;
    ml_status st = svd_check_build();
    if (st != ML_OK) return st;
    for (int64_t i = 0; i < study->count; i++) {
        ml_svd_plan_make(&plan, study->modules[i].out, study->modules[i].in,
                         ml_grid_size(study->grid));
        if (plan.bytes > most.bytes) most = plan;
    }
    return ml_svd_check(&most, study->grid, memory);
}

ml_status spectrum_of_weight(const ml_study *study, const ml_study_module *module, double *sigma)
{
    ml_svd_plan plan;
    weight_reader reader = {study, module};
    ml_svd_plan_make(&plan, module->out, module->in, ml_grid_size(study->grid));
    ml_status st = ml_singular_values(sigma, &plan, study->grid, weight_reader_rows, &reader);
    return st == ML_OK || st == ML_INPUT ? st : ml_fail_within(st, "%s", module->name);
}

static ml_status make_room(ml_spectrum *s, const ml_study_module *module)
{
    ml_status st = ML_OK;
    s->weights = ml_min(module->in, module->out);
    s->deltas = module->pair[0] ? module->pair[0]->rank : 0;
    ML_NEW(s->weight, s->weights, ML_MEM_OTHER, "a spectrum");
    ML_NEW(s->delta, s->deltas, ML_MEM_OTHER, "a spectrum");
done:
    return st;
}

/* ΔW's is small: every rank computes it. */
static ml_status find_delta(ml_spectrum *s, const ml_adapter_pair *pair)
{
    directions left = {0}, right = {0};
    ml_status st = directions_of_delta(&left, &right, pair);
    if (st == ML_OK) memcpy(s->delta, left.sigma, (size_t)s->deltas * sizeof *s->delta);
    directions_destroy(&left);
    directions_destroy(&right);
    return st == ML_OK ? ML_OK : ml_fail_within(st, "%s", pair->module);
}

static ml_status prepare(ml_spectrum *s, const ml_study *study)
{
    ml_status st = ML_OK;
    for (int64_t i = 0; i < study->count && st == ML_OK; i++) {
        const ml_adapter_pair *pair = study->modules[i].pair[0];
        st = make_room(&s[i], &study->modules[i]);
        if (st == ML_OK && pair) st = find_delta(&s[i], pair);
    }
    return st;
}

ml_status ml_spectra_compute(ml_spectrum **out, const ml_study *study, int64_t memory)
{
    ml_status st = spectrum_check_memory(study, memory);
    if (st != ML_OK) return st;
    ml_spectrum *s = ml_memory_alloc(study->count, sizeof *s, ML_MEM_OTHER, "spectra");
    ML_TRY(ml_grid_agree(study->grid, s ? prepare(s, study) : ML_RESOURCE));
    for (int64_t i = 0; i < study->count; i++)
        ML_TRY(spectrum_of_weight(study, &study->modules[i], s[i].weight));
    *out = s;
    s = NULL;
done:
    ml_spectra_destroy(s, study->count);
    return st;
}
