/* mpilora sweep: which weights to adapt at a fixed number of trained parameters, and with which
 * rank (tables 5 and 6 of Hu et al. 2021): rows for compare, and their table. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>

#include "cli/cli.h"
#include "cli/experiment/compare.h"
#include "mpilora/plan.h"

static const char usage[] = "mpilora sweep weights CONFIG.yaml [--budget N] [option]...  |  "
                            "mpilora sweep ranks CONFIG.yaml "
                            "[--lora-ranks 1,2,4,8,64] [option]...";

enum { TARGETS = 64, SETS = 3 };

typedef struct sweep_point {
    char targets[TARGETS]; /* "q,v" */
    int64_t rank, trained;
} sweep_point;

typedef struct sweep {
    const char *path, *targets, *ranks;
    bool weights, plan; /* weights: else ranks; plan: nothing trains */
    int64_t budget;     /* -1: what the configuration trains */
    compare_words words;
    int64_t count;
    sweep_point point[COMPARE_ROWS];
} sweep;

/* ---- which points -------------------------------------------------------------------------- */

/* What LoRA trains there; NULL and 0: with the configuration's own targets and rank. By the plan,
 * so it is what training would count. */
static ml_status count_trained(const sweep *s, const char *targets, int64_t rank, int64_t *trained)
{
    ml_status st = ML_OK;
    ml_run_config config = {0};
    ml_plan plan;
    char set[SETS][TARGETS + 32];
    const char *sets[OPTION_REPEATS + SETS];
    int64_t n = s->words.sets.count;
    for (int64_t i = 0; i < n; i++) sets[i] = s->words.sets.items[i];
    snprintf(set[0], sizeof set[0], "method.name=lora");
    snprintf(set[1], sizeof set[1], "method.targets=[%s]", targets ? targets : "");
    snprintf(set[2], sizeof set[2], "method.rank=%" PRId64, rank);
    for (int i = 0; i < (targets ? SETS : 1); i++) sets[n++] = set[i];
    ML_TRY(ml_run_config_read(&config, s->path, sets, n));
    ML_TRY(ml_plan_create(&plan, &config, (int)ml_run_config_replica_ranks(&config), 1));
    *trained = plan.method[0].params_trainable;
done:
    ml_run_config_destroy(&config);
    return st;
}

/* The largest rank within the budget: each adds the same number of parameters. */
static ml_status choose_rank(const sweep *s, const char *targets, int64_t *rank)
{
    ml_status st = ML_OK;
    int64_t one, two;
    ML_TRY(count_trained(s, targets, 1, &one));
    ML_TRY(count_trained(s, targets, 2, &two));
    if (one > s->budget)
        return ml_fail(ML_USAGE,
                       "--budget: %" PRId64 " trained parameters are fewer than the %" PRId64
                       " of rank 1 on %s",
                       s->budget, one, targets);
    *rank = 1 + (s->budget - one) / (two - one);
done:
    return st;
}

static ml_status add_point(sweep *s, const char *targets, int64_t rank)
{
    if (s->count == COMPARE_ROWS)
        return ml_fail(ML_USAGE, "more than %d runs of a seed", COMPARE_ROWS);
    for (int64_t i = 0; i < s->count; i++)
        if (s->point[i].rank == rank && !strcmp(s->point[i].targets, targets))
            return ml_fail(ML_USAGE, "%s with rank %" PRId64 " stands there twice", targets, rank);
    sweep_point *p = &s->point[s->count++];
    snprintf(p->targets, sizeof p->targets, "%s", targets);
    p->rank = rank;
    return count_trained(s, targets, rank, &p->trained);
}

static ml_status add_points(sweep *s, const char *targets)
{
    ml_status st = ML_OK;
    int64_t rank[COMPARE_ROWS], ranks = 1;
    if (s->weights)
        ML_TRY(choose_rank(s, targets, rank));
    else
        ML_TRY(options_read_numbers("--lora-ranks", s->ranks, COMPARE_ROWS, rank, &ranks));
    for (int64_t i = 0; i < ranks; i++) ML_TRY(add_point(s, targets, rank[i]));
done:
    return st;
}

/* "q,q+v": weights between commas, those that are adapted together with + between them. */
static ml_status read_points(sweep *s)
{
    ml_status st = ML_OK;
    if (s->weights && s->budget == -1) ML_TRY(count_trained(s, NULL, 0, &s->budget));
    for (const char *at = s->targets;; at++) {
        char targets[TARGETS];
        size_t length = strcspn(at, ",");
        if (length == 0 || length >= sizeof targets)
            return ml_fail(ML_USAGE,
                           "--targets: \"%s\", expected weights with commas between them, or + for "
                           "those together: q,v,q+v",
                           s->targets);
        snprintf(targets, sizeof targets, "%.*s", (int)length, at);
        for (char *plus = targets; (plus = strchr(plus, '+'));) *plus = ',';
        ML_TRY(add_points(s, targets));
        at += length;
        if (!*at) break;
    }
done:
    return st;
}

static ml_status make_rows(const sweep *s, compare_row *rows)
{
    ml_status st = ML_OK;
    ml_text words = {0};
    int64_t count;
    for (int64_t i = 0; i < s->count; i++)
        ML_TRY(ml_text_printf(&words, "%slora:targets=[%s]:rank=%" PRId64, i > 0 ? "," : "",
                              s->point[i].targets, s->point[i].rank));
    ML_TRY(compare_rows_read(rows, &count, words.data));
done:
    ml_text_destroy(&words);
    return st;
}

/* ---- to read ------------------------------------------------------------------------------- */

static void print_head(const sweep *s, const char *last)
{
    if (s->weights) printf("at most %" PRId64 " trained parameters\n", s->budget);
    printf("%-14s %6s %12s%s\n", "weights", "rank", "trained", last);
}

static void print_point(const sweep_point *p)
{
    printf("%-14s %6" PRId64 " %12" PRId64, p->targets, p->rank, p->trained);
}

static void print_plan(const sweep *s)
{
    print_head(s, "");
    for (int64_t i = 0; i < s->count; i++) {
        print_point(&s->point[i]);
        printf("\n");
    }
}

static ml_status print_plan_json(const sweep *s)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < s->count; i++)
        json_array_append_new(list, json_pack("{s:s, s:I, s:I}", "targets", s->point[i].targets,
                                              "rank", (json_int_t)s->point[i].rank,
                                              "params_trainable", (json_int_t)s->point[i].trained));
    json_t *all = json_pack("{s:o, s:o}", "budget",
                            s->weights ? json_integer(s->budget) : json_null(), "rows", list);
    if (!all) return ml_fail(ML_RESOURCE, "out of memory: the plan as JSON");
    json_dumpf(all, stdout, JSON_INDENT(1));
    printf("\n");
    json_decref(all);
    return ML_OK;
}

static void print_table(const sweep *s, const compare_options *o, const compare_row *rows)
{
    printf("%s, %" PRId64 " seed%s: validation loss, median (least to most)", o->config_path,
           o->nseeds, o->nseeds > 1 ? "s" : "");
    if (!isnan(o->base_loss)) printf("; of the base alone: %.4f", o->base_loss);
    printf("\n");
    print_head(s, "       valid  (least to most)");
    for (int64_t i = 0; i < s->count; i++) {
        table_spread valid = compare_spread(&rows[i], "valid_loss");
        print_point(&s->point[i]);
        if (rows[i].done > 0)
            printf("  %10.4f  (%.4f to %.4f)", valid.median, valid.least, valid.most);
        if (rows[i].done < o->nseeds)
            printf("  %" PRId64 " of %" PRId64 " seeds: %s", rows[i].done, o->nseeds,
                   rows[i].status);
        printf("\n");
    }
    printf("table: %s/compare.csv, %s/compare.h5; plot: python3 analysis/sweep.py %s/compare.csv\n",
           o->out, o->out, o->out);
}

/* ---- command line -------------------------------------------------------------------------- */

static const option options[] = {
    {"--budget", OPTION_INT, offsetof(sweep, budget), "N",
     "weights: trained parameters at most; else what the configuration trains", NULL},
    {"--lora-ranks", OPTION_TEXT, offsetof(sweep, ranks), "LIST", "ranks: which; else 1,2,4,8,64",
     NULL},
    {"--targets", OPTION_TEXT, offsetof(sweep, targets), "LIST",
     "choices with commas between them, weights of one choice with +; else q,k,v,o,q+k,q+v,q+k+v+o "
     "(ranks: q,q+v,q+k+v+o)",
     NULL},
    {"--plan", OPTION_FLAG, offsetof(sweep, plan), NULL,
     "print the list with ranks and trained parameters, train nothing", NULL},
    COMPARE_OPTIONS(sweep, words, "sweep"),
    {NULL, OPTION_FLAG, 0, NULL, NULL, NULL}};

static ml_status read_options(int argc, char **argv, sweep *s)
{
    ml_status st = ML_OK;
    const char *word[2] = {NULL};
    s->budget = -1;
    ML_TRY(options_read(argc, argv, options, s, 2, 2, word, usage));
    s->weights = !strcmp(word[0], "weights");
    s->path = word[1];
    if (!s->weights && strcmp(word[0], "ranks"))
        return ml_fail(ML_USAGE, "\"%s\", expected weights or ranks; usage: %s", word[0], usage);
    if (s->weights && s->ranks)
        return ml_fail(ML_USAGE,
                       "--lora-ranks: belongs to sweep ranks; the budget decides the ranks here");
    if (!s->weights && s->budget != -1)
        return ml_fail(ML_USAGE, "--budget: belongs to sweep weights");
    if (s->budget < 1 && s->budget != -1)
        return ml_fail(ML_USAGE, "--budget: %" PRId64 ", expected at least 1", s->budget);
    if (!s->targets) s->targets = s->weights ? "q,k,v,o,q+k,q+v,q+k+v+o" : "q,q+v,q+k+v+o";
    if (!s->ranks) s->ranks = "1,2,4,8,64";
done:
    return st;
}

static ml_status train(const sweep *s, compare_options *o, const ml_run_config *config)
{
    ml_status st = ML_OK;
    compare_row *rows = NULL;
    ML_NEW(rows, COMPARE_ROWS, ML_MEM_OTHER, "the rows of a comparison");
    ML_TRY(make_rows(s, rows));
    ML_TRY(compare_run_all(o, config, rows, s->count));
    if (s->words.json)
        ML_TRY(compare_print_json(o, rows, s->count));
    else
        print_table(s, o, rows);
    ML_TRY(compare_check_done(o, rows, s->count));
done:
    ml_memory_free(rows);
    return st;
}

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    sweep *s = NULL;
    compare_options *o = NULL;
    ml_run_config config = {0};
    ML_NEW(s, 1, ML_MEM_OTHER, "a sweep");
    ML_TRY(read_options(argc, argv, s));
    ML_TRY(compare_options_read(&o, &config, s->path, &s->words));
    if (config.method.rank_pattern.count > 0) {
        st =
            ml_fail(ML_USAGE,
                    "%s: method.rank_pattern: a sweep gives every layer the same rank; take it out",
                    s->path);
        goto done;
    }
    ML_TRY(read_points(s));
    if (s->plan && s->words.json)
        ML_TRY(print_plan_json(s));
    else if (!s->words.json)
        print_plan(s);
    fflush(stdout);
    if (!s->plan) ML_TRY(train(s, o, &config));
done:
    ml_memory_free(o);
    ml_memory_free(s);
    ml_run_config_destroy(&config);
    return st;
}

const ml_command ml_command_sweep = {
    .name = "sweep",
    .summary = "which weights LoRA should adapt at a fixed budget, and with which rank, as a table",
    .usage = usage,
    .about = "The paper's tables 5 and 6. weights: the same number of trained parameters on "
             "different weights, each with the largest rank that is within the budget. ranks: "
             "every rank on every choice of weights. Prints the list, trains with each, and prints "
             "validation losses; the runs are compare's: OUT/compare.csv and OUT/compare.h5 have "
             "everything, and started again the command goes on where it was stopped.",
    .options = options,
    .notes = "alpha stays the configuration's for all of them. analysis/sweep.py draws the losses; "
             "jobs/sweep.py submits combinations of any other keys.",
    .run = run,
    .parallel = false,
};
