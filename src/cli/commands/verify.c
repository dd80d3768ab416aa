/* mpilora verify: everything that carries a hash is hashed, one line each; digests of what files
 * hold; two runs beside each other. */
#include <inttypes.h>
#include <jansson.h>

#include "cli/cli.h"
#include "cli/support/options.h"
#include "mpilora/inspect.h"

enum { MOST = 1024 };
static const char usage[] = "mpilora verify PATH… | --digest PATH… | --same RUN_A RUN_B [--json]";

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
    bool json, digest, same;
} given;

static const option options[] = {
    {"--digest", OPTION_FLAG, offsetof(given, digest), NULL,
     "print the SHA-256 of what each PATH holds: of a checkpoint (of a run the newest) the tensors "
     "that train, their moments, step and cursor; of an adapter its tensors; of a base or a data "
     "set its contents; neither grid nor folder has a part in it",
     NULL},
    {"--same", OPTION_FLAG, offsetof(given, same), NULL,
     "compare two runs: the first step whose figures differ, and evaluation, with run.trace the "
     "first gradient and its rank, and the first tensor of the newest checkpoint that both have; "
     "what one has alone, "
     "as later steps or a newer checkpoint, is a difference, too",
     NULL},
    {"--json", OPTION_FLAG, offsetof(given, json), NULL, "one JSON object on standard output",
     NULL},
    {NULL, OPTION_FLAG, 0, NULL, NULL, NULL}};

/* ---- PATH… --------------------------------------------------------------------------------- */

static ml_status verify_all(const char *const *paths, bool as_json)
{
    ml_status st = ML_OK;
    const char *first_wrong = NULL;
    int64_t wrong = 0;
    ml_text json = {0};
    ML_TRY(check_all(paths, as_json, &json, &wrong, &first_wrong));
    if (as_json) printf("{\"ok\":%s,\"paths\":[%s]}\n", wrong ? "false" : "true", json.data);
    if (wrong)
        st = ml_fail(ML_INPUT,
                     "%s: not whole, or what it is cannot be told (%" PRId64 " such %s); %s",
                     first_wrong, wrong, wrong == 1 ? "path" : "paths",
                     as_json ? "see \"checked\"" : "see the lines that begin with WRONG");
done:
    ml_text_destroy(&json);
    return st;
}

/* ---- --digest ------------------------------------------------------------------------------ */

/* Lines as sha256sum has them. */
static ml_status print_digests(const char *const *paths, bool as_json)
{
    ml_status st = ML_OK;
    ml_text json = {0};
    char hex[ML_SHA256_HEX];
    for (int64_t i = 0; paths[i]; i++) {
        if (i > 0) ML_TRY(ml_text_printf(&json, ","));
        ML_TRY(ml_digest(paths[i], &json, hex));
        if (!as_json) printf("%s  %s\n", hex, paths[i]);
        fflush(stdout);
    }
    if (as_json) printf("{\"digests\":[%s]}\n", json.data);
done:
    ml_text_destroy(&json);
    return st;
}

/* ---- --same -------------------------------------------------------------------------------- */

static void print_compared(const ml_text *text)
{
    json_t *object = json_loadb(text->data, (size_t)text->length, 0, NULL);
    const json_t *list = json_object_get(object, "compared");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        const json_t *same = json_object_get(item, "same");
        printf("%-6s %s: %s\n",
               json_is_null(same)   ? "-"
               : json_is_true(same) ? "same"
                                    : "DIFFER",
               json_string_value(json_object_get(item, "what")),
               json_string_value(json_object_get(item, "text")));
    }
    json_decref(object);
}

static ml_status compare_runs(const char *const *paths, bool as_json)
{
    bool same = false;
    ml_text json = {0};
    if (!paths[0] || !paths[1] || paths[2])
        return ml_fail(ML_USAGE, "verify --same takes two directories of runs; usage: %s", usage);
    ml_status st = ml_same(paths[0], paths[1], &json, &same);
    if (st == ML_OK && as_json) printf("%s\n", json.data);
    if (st == ML_OK && !as_json) print_compared(&json);
    if (st == ML_OK && !same)
        st = ml_fail(ML_INPUT, "%s and %s are not the same; %s", paths[0], paths[1],
                     as_json ? "see \"compared\"" : "see the lines that begin with DIFFER");
    ml_text_destroy(&json);
    return st;
}

static ml_status run(int argc, char **argv)
{
    static const char *paths[MOST + 1];
    given given = {0};
    ml_status st = options_read(argc, argv, options, &given, 1, MOST, paths, usage);
    if (st != ML_OK) return st;
    if (given.same && given.digest)
        return ml_fail(ML_USAGE, "--digest and --same are two questions; usage: %s", usage);
    if (given.same) return compare_runs(paths, given.json);
    return given.digest ? print_digests(paths, given.json) : verify_all(paths, given.json);
}

const ml_command ml_command_verify = {
    .name = "verify",
    .summary =
        "whether files are whole, digests of what they hold, and whether two runs are the same",
    .usage = usage,
    .about = "PATH is a run's directory (all checkpoints, adapter.h5 or model.h5, metrics.jsonl "
             "and the rest), a checkpoint, a base, a data set, adapter.h5 or a PEFT directory. "
             "Everything in it is read and hashed; nothing is changed. One line each: ok and what "
             "it is, or WRONG and why. Exit code 0 where all is right, else 3; the same "
             "with --same where two runs differ.",
    .options = options,
    .run = run,
    .parallel = false,
};
