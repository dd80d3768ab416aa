/* The kernels' paths of a run. Other paths have other bits, so a run keeps to those it began with:
 * its checkpoints name them, and so do config.yaml, summary.json, metrics.jsonl and the adapter. A
 * start on a processor that lacks them goes on with others. */
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "io/durable.h"
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

/* A directory that has not run before has no checkpoint whose paths another start would give up. */
bool begins_anew(const run *r)
{
    char path[ML_DURABLE_PATH];
    return r->options->fresh ||
           (ml_durable_path(path, "%s/checkpoints", r->config->run_dir) == ML_OK &&
            access(path, F_OK) != 0);
}

/* What the environment forces stands in the place of the key's value. */
static ml_status check_path(const run *r, const char *key, const char *name, const char *variable,
                            bool here)
{
    const char *forced = getenv(variable);
    if (here || (forced && *forced) || !r->anew) return ML_OK;
    return ml_run_config_refuse(r->config, key,
                                "%s, which cannot run here: not every processor of this start has "
                                "it for this base; auto takes what all of them have",
                                name);
}

ml_status check_new_paths(const run *r)
{
    const ml_run_config *c = r->config;
    const ml_kernels_paths common = ml_session_common_paths(&r->session);
    ml_status st = ML_OK;
    if (ml_grid_rank(r->session.grid) == 0)
        st = check_path(r, "kernels.product", c->backend, "MPILORA_PRODUCT_PATH",
                        ml_kernels_paths_have(&common, c->backend, NULL));
    if (ml_grid_rank(r->session.grid) == 0 && st == ML_OK)
        st = check_path(r, "kernels.vector", c->vector_path, "MPILORA_VECTOR_PATH",
                        ml_kernels_paths_have(&common, NULL, c->vector_path));
    return ml_grid_agree(r->session.grid, st);
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
