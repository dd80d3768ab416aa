/* mpilora tokenize: a text file to a data set for one base's vocabulary. */
#include <inttypes.h>

#include "cli/cli.h"
#include "cli/support/options.h"
#include "io/durable.h"
#include "mpilora/data.h"
#include "mpilora/store.h"

#define USAGE \
    "mpilora tokenize --base BASE.h5 IN OUT.h5 [--format jsonl|e2e|text|ids] [--max-len N]"

static const char help[] =
    "usage: " USAGE "\n\n"
    "Makes the data set OUT.h5 (tokens, sequence offsets, a loss mask a token) of the text file "
    "IN.\n\n"
    "  --base BASE.h5   the base file whose tokenizer and vocabulary are taken\n"
    "  --format         what IN is; without it the first line tells:\n"
    "      jsonl   a line: {\"prompt\": \"…\", \"completion\": \"…\"} or {\"text\": \"…\"}\n"
    "      e2e     a line: meaning representation||text\n"
    "      text    plain text; an empty line ends a document; a document longer than --max-len "
    "(else the model's\n"
    "              context) becomes several sequences\n"
    "      ids     a line: {\"input_ids\": [1, 2], \"labels\": [-100, 2]}; a label is the token "
    "itself or -100 (no target);\n"
    "              without labels every token is a target\n"
    "  --max-len N      the length that training will cut at, for the report and for text; at most "
    "the model's context\n\n"
    "Prompt and completion are tokenised apart, without added blanks; the loss is on the "
    "completion and on the end-of-text token\n"
    "that follows it, or on a whole text. Text that spells a special token stays text. Sequences "
    "are stored whole: training\n"
    "cuts those beyond data.max_len, and the report says how many these are. An existing OUT.h5 is "
    "replaced only on success.\n";

static ml_status read_format(const char *name, ml_text_format *out)
{
    static const ml_text_format all[] = {ML_FORMAT_JSONL, ML_FORMAT_E2E, ML_FORMAT_TEXT,
                                         ML_FORMAT_IDS};
    *out = ML_FORMAT_GUESS;
    for (size_t i = 0; name && i < sizeof all / sizeof *all; i++)
        if (!strcmp(name, ml_text_format_name(all[i]))) *out = all[i];
    if (name && *out == ML_FORMAT_GUESS)
        return ml_fail(ML_USAGE, "--format %s: expected jsonl, e2e, text or ids", name);
    return ML_OK;
}

static void print_report(const ml_tokenize_options *options, const ml_tokenize_report *r)
{
    printf("%s: %" PRId64 " sequences, %" PRId64 " tokens, %" PRId64 " targets (from %s as %s)\n",
           options->out, r->sequences, r->tokens, r->targets, options->in,
           ml_text_format_name(r->format));
    printf("lengths: min %" PRId64 ", median %g, mean %.1f, p95 %" PRId64 ", max %" PRId64 "\n",
           r->shortest, r->median, r->mean, r->p95, r->longest);
    const char *limit = options->max_len ? "--max-len" : "the model's context";
    if (r->split_documents)
        printf("%" PRId64 " documents were longer than %" PRId64
               " tokens (%s) and became several sequences\n",
               r->split_documents, r->limit, limit);
    if (r->longer)
        printf("%" PRId64 " sequences are longer than %" PRId64
               " tokens (%s): training cuts %" PRId64 " tokens off them; %" PRId64
               " of them lose every target and are skipped\n",
               r->longer, r->limit, limit, r->cut_tokens, r->without_target);
    else
        printf("none is longer than %" PRId64 " tokens (%s): nothing will be cut\n", r->limit,
               limit);
    if (r->lost_bytes)
        ml_warn("%" PRId64 " bytes have no token in this vocabulary and were left out",
                r->lost_bytes);
}

static ml_status check_out(const char *base, const char *out)
{
    if (!ml_durable_is_same(base, out)) return ML_OK;
    return ml_fail(ML_USAGE, "%s is the base file itself; the data set needs a name of its own",
                   out);
}

static ml_status check_fit(const ml_tokenize_options *options, const char *base)
{
    int64_t size = options->tokenizer ? ml_tokenizer_size(options->tokenizer) : 0;
    if (size <= options->vocab) return ML_OK;
    return ml_fail(ML_INPUT,
                   "%s: its tokenizer has %" PRId64
                   " tokens, but the model's vocabulary only %" PRId64,
                   base, size, options->vocab);
}

static ml_status read_line(int argc, char **argv, ml_tokenize_options *options, const char **base)
{
    const char *format = NULL, *words[2];
    int64_t max_len = INT64_MIN; /* not given */
    *base = NULL;
    const option table[] = {{"--base", OPTION_TEXT, base},
                            {"--format", OPTION_TEXT, &format},
                            {"--max-len", OPTION_INT, &max_len},
                            {NULL, OPTION_FLAG, NULL}};
    ml_status st = options_read(argc, argv, table, 2, 2, words, USAGE);
    if (st != ML_OK) return st;
    if (!*base) return ml_fail(ML_USAGE, "--base is missing; usage: " USAGE);
    if (max_len != INT64_MIN && max_len < 2)
        return ml_fail(ML_USAGE, "--max-len %" PRId64 ": expected at least 2 tokens", max_len);
    options->in = words[0];
    options->out = words[1];
    options->max_len = ml_max(max_len, 0);
    return read_format(format, &options->format);
}

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    const char *path, *json;
    ml_base *base = NULL;
    ml_tokenize_options options = {0};
    ml_tokenize_report report;
    int64_t length;
    ML_TRY(read_line(argc, argv, &options, &path));
    ML_TRY(check_out(path, options.out));
    ML_TRY(ml_base_open(&base, path));
    options.vocab = ml_base_spec(base)->vocab;
    options.context = ml_base_spec(base)->context;
    json = ml_base_tokenizer(base, &length);
    options.tokenizer_hash = length ? ml_base_tokenizer_hash(base) : "";
    if (length) ML_TRY(ml_tokenizer_create(&options.tokenizer, json, length));
    ML_TRY(check_fit(&options, path));
    ML_TRY(ml_tokenize_file(&options, &report));
    print_report(&options, &report);
done:
    ml_tokenizer_destroy(options.tokenizer);
    ml_base_close(base);
    return st;
}

const ml_command ml_command_tokenize = {.name = "tokenize",
                                        .summary = "make a data set of a text file",
                                        .help = help,
                                        .run = run,
                                        .parallel = false};
