/* numerics: grid promises the same bits on every grid; what cannot promise them yet is refused. */
#include "config/table.h"

bool ml_run_config_is_exact(const ml_run_config *c) { return c->numerics == ML_NUMERICS_GRID; }

bool ml_run_config_comes_in_pieces(const ml_run_config *c)
{
    bool new_head = ml_run_config_scores_labels(c) || ml_run_config_masks(c);
    return !new_head && c->method.name == ML_METHOD_LORA && c->method.bias == ML_BIAS_NONE &&
           c->method.modules_to_save.count == 0 && c->method.trainable_tokens.count == 0 &&
           c->method.trainable_head_tokens.count == 0;
}

static bool is_path(const char *given, const char *path) { return given && !strcmp(given, path); }

ml_status numerics_check(ml_run_config *c)
{
    const bool forced = c->backend && !is_path(c->backend, "auto");
    const struct {
        const char *key;
        bool wrong;
        const char *why;
    } all[] = {
        {"kernels.product", forced && !is_path(c->backend, "native"),
         "of the products native alone has one order of summation for any number of rows and "
         "threads; set it to native, or leave it out"},
        {"kernels.vector", is_path(c->vector_path, "ref"),
         "ref has an order of its own; choose avx512, avx2 or generic, or leave it out"},
        {"loss.filter", c->loss.filter > 0.0,
         "what is left out depends on the rows that stand beside each other; set it to off"}};
    if (!ml_run_config_is_exact(c)) return ML_OK;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].wrong)
            return ml_run_config_refuse(c, all[i].key, "numerics is grid: %s, or numerics to fast",
                                        all[i].why);
    if (!ml_run_config_comes_in_pieces(c)) c->batch.micro = 1;
    if (forced) return ML_OK;
    ml_memory_free(c->backend);
    c->backend = ml_memory_string("native");
    return c->backend ? ML_OK : ML_RESOURCE;
}
