#include "cli/support/run_list.h"

static ml_status read_one(ml_run_config *out, const char *path, const ml_run_item *item,
                          const option_list *sets)
{
    ml_status st = ML_OK;
    const char **all = NULL;
    int64_t n = 0;
    ML_NEW(all, 1 + item->sets + sets->count, ML_MEM_OTHER, "what a run sets");
    for (int64_t i = 0; i < sets->count; i++) all[n++] = sets->items[i];
    all[n++] = "runs=null"; /* which may be one of them */
    for (int64_t i = 0; i < item->sets; i++) all[n++] = item->set[i];
    ML_TRY(ml_run_config_read(out, path, all, n));
    ml_run_config_warn_unread(out);
done:
    ml_memory_free(all);
    return st == ML_OK ? st : ml_fail_within(st, "%s", item->set[0] + strlen("run.dir="));
}

ml_status run_list_read(ml_run_config **out, const char *path, const ml_run_list *runs,
                        const option_list *sets)
{
    ml_status st = ML_OK;
    *out = NULL;
    ML_NEW(*out, runs->count, ML_MEM_OTHER, "the configurations of several runs");
    for (int64_t i = 0; i < runs->count; i++)
        ML_TRY(read_one(&(*out)[i], path, &runs->item[i], sets));
done:
    return st;
}

/* One that was not read owns nothing: memory comes as zeros, and a failed read leaves none. */
void run_list_destroy(ml_run_config *config, int64_t count)
{
    for (int64_t i = 0; config && i < count; i++) ml_run_config_destroy(&config[i]);
    ml_memory_free(config);
}
