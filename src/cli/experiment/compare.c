/* mpilora compare: methods on the same data, with the same sampler, optimizer and accounting. */
#include "cli/experiment/compare.h"

#include <inttypes.h>
#include <math.h>

#include "cli/cli.h"
#include "cli/support/options.h"
#include "io/durable.h"
#include "session/session.h"

static const char usage[] = "mpilora compare CONFIG.yaml --methods lora,full,bitfit,... [--ranks "
                            "N] [--seeds 1,2,3] [--out DIR]";

static ml_status run_rows(const compare_options *o, compare_row *rows, int64_t count)
{
    ml_status st = ML_OK;
    for (int64_t seed = 0; seed < o->nseeds; seed++) {
        ML_TRY(compare_run_seed(o, rows, count, seed));
        ML_TRY(compare_write(o, rows, count)); /* what is known so far */
    }
done:
    return st;
}

static ml_status check_vocabulary(const ml_base *base, const char *path)
{
    ml_dataset *data = NULL;
    ml_status st = ml_dataset_open(&data, path);
    if (st == ML_OK) st = ml_session_check_vocabulary(base, path, data);
    ml_dataset_destroy(data);
    return st;
}

/* Of data that were tokenized for another base every run would fail. */
static ml_status check_data(const ml_base *base, const ml_run_config *c)
{
    ml_status st = ML_OK;
    if (c->data.valid) ML_TRY(check_vocabulary(base, c->data.valid));
    for (int64_t i = 0; i < c->data.train.count; i++)
        ML_TRY(check_vocabulary(base, c->data.train.item[i].file));
done:
    return st;
}

static bool read_the_same(const ml_run_config *a, const ml_run_config *b)
{
    const ml_data_files *one = &a->data.train, *other = &b->data.train;
    bool same = !strcmp(a->base, b->base) && b->data.valid &&
                !strcmp(a->data.valid, b->data.valid) && one->count == other->count;
    for (int64_t i = 0; same && i < one->count; i++)
        same = !strcmp(one->item[i].file, other->item[i].file);
    return same;
}

/* What every start of `train` on these ranks would end with. */
static ml_status check_grid(const compare_options *o, const ml_run_config *c)
{
    const ml_grid_shape shape = {(int)c->parallel.tp, (int)c->parallel.cp, (int)c->parallel.pp};
    ml_status st = ml_grid_check_shape((int)o->ranks, shape);
    if (st != ML_OK) return ml_fail_within(st, "--ranks %" PRId64, o->ranks);
    return ml_session_check_replicas(c, (int)(o->ranks / ml_run_config_replica_ranks(c)));
}

/* A row's weights can be trained by its method, and what is compared has exact gradients. */
static ml_status check_row(const compare_options *o, const ml_run_config *own,
                           const compare_row *row)
{
    ml_run_config config = {0};
    ml_base *base = NULL;
    ml_status st = ML_OK;
    ML_TRY(compare_row_config(o, row, &config));
    if (config.loss.filter > 0.0)
        st = ml_run_config_refuse(&config, "loss.filter",
                                  "leaves out a part of the gradient that is another one for each "
                                  "method; compare and sweep need it off");
    if (st == ML_OK) st = check_grid(o, &config);
    if (st == ML_OK) st = ml_base_open(&base, config.base);
    if (st == ML_OK) st = ml_session_check_method(&config, ml_base_spec(base), NULL);
    if (st == ML_OK && !read_the_same(own, &config)) st = check_data(base, &config);
    if (st != ML_OK) st = ml_fail_within(st, "--methods: %s", row->words);
done:
    ml_base_close(base);
    ml_run_config_destroy(&config);
    return st;
}

static ml_status check_own(const ml_run_config *c)
{
    ml_base *base = NULL;
    ml_status st = ml_base_open(&base, c->base);
    if (st == ML_OK) st = check_data(base, c);
    ml_base_close(base);
    return st;
}

ml_status compare_run_all(compare_options *o, const ml_run_config *config, compare_row *rows,
                          int64_t count)
{
    ml_status st = ML_OK;
    char runs[ML_DURABLE_PATH];
    ML_TRY(ml_run_config_check_training(config));
    if (!config->data.valid) {
        st = ml_fail(ML_USAGE, "%s: data.valid: missing; methods are compared by their loss on it",
                     config->path);
        goto done;
    }
    ML_TRY(check_grid(o, config));
    ML_TRY(check_own(config));
    for (int64_t i = 0; i < count; i++) ML_TRY(check_row(o, config, &rows[i]));
    ML_TRY(launch_find_program(o->program));
    ML_TRY(ml_durable_path(runs, "%s/runs", o->out));
    ML_TRY(ml_durable_make_directories(runs));
    ML_TRY(table_check(o->out, "compare"));
    ML_TRY(compare_base(o));
    ML_TRY(run_rows(o, rows, count));
done:
    return st;
}

ml_status compare_check_done(const compare_options *o, const compare_row *rows, int64_t count)
{
    if (compare_any_done(rows, count)) return ML_OK;
    return ml_fail(ML_INPUT, "no run ended well; what each said is in %s/runs", o->out);
}

ml_status compare_options_read(compare_options **out, ml_run_config *config, const char *path,
                               const compare_words *w)
{
    ml_status st = ML_OK;
    compare_options *o = NULL;
    if (w->ranks < 1 || w->ranks > 1 << 20)
        return ml_fail(ML_USAGE, "--ranks: %" PRId64 ", expected at least 1", w->ranks);
    if (w->threads < 0)
        return ml_fail(ML_USAGE, "--threads: %" PRId64 ", expected at least 1", w->threads);
    if (w->together < 1 || w->together > ML_MOST_RUNS)
        return ml_fail(ML_USAGE, "--together: %" PRId64 ", expected 1 to %d", w->together,
                       (int)ML_MOST_RUNS);
    ML_TRY(ml_run_config_read(config, path, w->sets.items, w->sets.count));
    ML_TRY(ml_run_config_check_single(config));
    ML_NEW(o, 1, ML_MEM_OTHER, "a comparison");
    *o = (compare_options){.config_path = path,
                           .out = w->out,
                           .launcher = w->launcher ? w->launcher : launch_default(),
                           .sets = w->sets.items,
                           .nsets = w->sets.count,
                           .ranks = w->ranks,
                           .threads = launch_threads(w->threads, w->ranks),
                           .together = w->together,
                           .base_loss = NAN};
    if (w->seeds)
        ML_TRY(compare_seeds_read(o, w->seeds));
    else
        o->seed[o->nseeds++] = config->seed;
    *out = o;
    o = NULL;
done:
    ml_memory_free(o);
    return st;
}

typedef struct given {
    const char *methods;
    compare_words words;
} given;

static const option options[] = {{"--methods", OPTION_TEXT, offsetof(given, methods), "LIST",
                                  "what is compared, with commas between; a method may change the "
                                  "configuration, as lora:rank=4:targets=[q,k],full:optim.lr=1e-5",
                                  NULL},
                                 COMPARE_OPTIONS(given, words, "compare"),
                                 {NULL, OPTION_FLAG, 0, NULL, NULL, NULL}};

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    const char *path = NULL;
    given g = {0};
    compare_options *o = NULL;
    compare_row *rows = NULL;
    ml_run_config config = {0};
    int64_t count;
    ML_TRY(options_read(argc, argv, options, &g, 1, 1, &path, usage));
    if (!g.methods) return ml_fail(ML_USAGE, "--methods is missing; usage: %s", usage);
    ML_TRY(compare_options_read(&o, &config, path, &g.words));
    ML_NEW(rows, COMPARE_ROWS, ML_MEM_OTHER, "the rows of a comparison");
    ML_TRY(compare_rows_read(rows, &count, g.methods));
    ML_TRY(compare_run_all(o, &config, rows, count));
    if (g.words.json)
        ML_TRY(compare_print_json(o, rows, count));
    else
        compare_print(o, rows, count);
    ML_TRY(compare_check_done(o, rows, count));
done:
    ml_memory_free(rows);
    ml_memory_free(o);
    ml_run_config_destroy(&config);
    return st;
}

const ml_command ml_command_compare = {
    .name = "compare",
    .summary =
        "several methods on the same data: parameters, memory, bytes, speed and loss as a table",
    .usage = usage,
    .about = "Trains with every method in turn, on the same data with the same sampler, optimizer "
             "and accounting, and writes one table: OUT/compare.csv (medians over the seeds, least "
             "and most) and OUT/compare.h5 (every run). Not to be started under mpirun: it starts "
             "the ranks itself. A run that fails is a row that says why; started again, the "
             "command goes on where it was stopped.",
    .options = options,
    .notes = "In --methods a key without a dot is one of method, except base: lora:base=other.h5 "
             "trains on another base of the same tokenizer. method.init of the configuration is "
             "for lora alone. analysis/compare.py draws validation loss over trained parameters.",
    .run = run,
    .parallel = false,
};
