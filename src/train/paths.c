/* The kernels' paths of a run. Other paths have other bits, so a run keeps to those it began with:
 * its checkpoints name them, and so do config.yaml, summary.json, metrics.jsonl and the adapter. A
 * start on a processor that lacks them goes on with others. */
#include <inttypes.h>

#include "train/run.h"

/* Manifests of the first version may not name any. */
static const char *name_of(const char *recorded) { return *recorded ? recorded : NULL; }

void choose_paths(const run *r, bool resumed, const char **product, const char **vector)
{
    const session *s = &r->session;
    const ml_run_config *c = r->config;
    const ml_kernels_paths common = ml_session_common_paths(s);
    *product = c->backend;
    *vector = c->vector_path;
    if (!resumed) return;
    const char *last_product = name_of(r->progress.backend),
               *last_vector = name_of(r->progress.vector_path);
    bool same_product = ml_kernels_paths_have(&common, last_product, NULL),
         same_vector = ml_kernels_paths_have(&common, NULL, last_vector);
    /* What config.yaml names may be the checkpoint's paths. */
    bool here = ml_kernels_paths_have(&common, c->backend, c->vector_path);
    *product = same_product ? last_product : here ? c->backend : NULL;
    *vector = same_vector ? last_vector : here ? c->vector_path : NULL;
    if (!(same_product && same_vector) && ml_grid_rank(s->grid) == 0)
        ml_warn("the checkpoint of step %" PRId64
                " was made with products by %s and vectors by %s, which not every processor of "
                "this start can run: the run goes on with others, and its bits may differ from "
                "here on",
                r->step, r->progress.backend, r->progress.vector_path);
}

void note_paths(run *r)
{
    const ml_kernels *k = r->session.kernels;
    snprintf(r->kernel, sizeof r->kernel, "%s/%s", k->backend, k->vector_path);
}

ml_status write_configuration(const run *r, ml_text *out)
{
    ml_run_config resolved = *r->config;
    char product[ML_PATH_NAME], vector[ML_PATH_NAME];
    snprintf(product, sizeof product, "%s", r->session.kernels->backend);
    snprintf(vector, sizeof vector, "%s", r->session.kernels->vector_path);
    resolved.backend = product;
    resolved.vector_path = vector;
    return ml_run_config_write(&resolved, out);
}
