/* mpilora verify: everything that carries a hash is hashed, one line each. */
#include <inttypes.h>
#include <jansson.h>

#include "cli/cli.h"
#include "cli/support/options.h"
#include "mpilora/inspect.h"

enum { MOST = 1024 };
static const char usage[] = "mpilora verify PATH… [--json]";

static void print_lines(const ml_text *text)
{
    json_t *object = json_loadb(text->data, (size_t)text->length, 0, NULL);
    const json_t *list = json_object_get(object, "checked");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        printf("%-5s %s: %s\n", json_is_true(json_object_get(item, "ok")) ? "ok" : "WRONG",
               json_string_value(json_object_get(item, "path")),
               json_string_value(json_object_get(item, "what")));
    }
    json_decref(object);
}

/* All paths into one array; the lines of each as soon as they are known, for hashing takes its
 * time. How many are wrong, and the first of them. */
static ml_status check_all(const char *const *paths, bool as_json, ml_text *json, int64_t *wrong,
                           const char **first_wrong)
{
    ml_status st = ML_OK;
    for (int64_t i = 0; paths[i]; i++) {
        ml_text one = {0};
        bool whole = false;
        st = ml_verify(paths[i], &one, &whole);
        if (st == ML_OK) st = ml_text_printf(json, "%s%s", i ? "," : "", one.data);
        if (st == ML_OK && !as_json) print_lines(&one);
        fflush(stdout);
        if (!whole && (*wrong)++ == 0) *first_wrong = paths[i];
        ml_text_destroy(&one);
        if (st != ML_OK) return st;
    }
    return st;
}

typedef struct given {
    bool json;
} given;

static const option options[] = {{"--json", OPTION_FLAG, offsetof(given, json), NULL,
                                  "one JSON object on standard output", NULL},
                                 {NULL, OPTION_FLAG, 0, NULL, NULL, NULL}};

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    static const char *paths[MOST + 1];
    given given = {0};
    const char *first_wrong = NULL;
    int64_t wrong = 0;
    ml_text json = {0};
    ML_TRY(options_read(argc, argv, options, &given, 1, MOST, paths, usage));
    ML_TRY(check_all(paths, given.json, &json, &wrong, &first_wrong));
    if (given.json) printf("{\"ok\":%s,\"paths\":[%s]}\n", wrong ? "false" : "true", json.data);
    if (wrong)
        st = ml_fail(ML_INPUT,
                     "%s: not whole, or what it is cannot be told (%" PRId64 " such %s); %s",
                     first_wrong, wrong, wrong == 1 ? "path" : "paths",
                     given.json ? "see \"checked\"" : "see the lines that begin with WRONG");
done:
    ml_text_destroy(&json);
    return st;
}

const ml_command ml_command_verify = {
    .name = "verify",
    .summary = "whether runs, bases, data sets and adapters are whole: every hash is checked",
    .usage = usage,
    .about = "PATH is a run's directory (all checkpoints, adapter.h5 or model.h5, metrics.jsonl "
             "and the rest), a checkpoint, a base, a data set, adapter.h5 or a PEFT directory. "
             "Everything in it is read and hashed; nothing is changed. One line each: ok and what "
             "it is, or WRONG and why. Exit code 0 where all is right, else 3.",
    .options = options,
    .run = run,
    .parallel = false,
};
