/* mpilora tokenize: a text file to a data set for one base's vocabulary. */
#include <inttypes.h>

#include "cli/cli.h"
#include "cli/support/chat_template.h"
#include "cli/support/options.h"
#include "io/durable.h"
#include "mpilora/data.h"
#include "mpilora/store.h"

static const char usage[] =
    "mpilora tokenize --base BASE.h5 IN OUT.h5 [--format jsonl|e2e|text|ids|glue|conll] [--task T] "
    "[--max-len N] "
    "[--special-tokens text|ids] [--chat-template FILE] [--loss assistant|last|all] "
    "[--date DATE] [--labels CLASSES]";

static ml_status read_format(const char *name, ml_text_format *out)
{
    static const ml_text_format all[] = {ML_FORMAT_JSONL, ML_FORMAT_E2E,  ML_FORMAT_TEXT,
                                         ML_FORMAT_IDS,   ML_FORMAT_GLUE, ML_FORMAT_CONLL};
    *out = ML_FORMAT_GUESS;
    for (size_t i = 0; name && i < sizeof all / sizeof *all; i++)
        if (!strcmp(name, ml_text_format_name(all[i]))) *out = all[i];
    if (name && *out == ML_FORMAT_GUESS)
        return ml_fail(ML_USAGE, "--format %s: expected jsonl, e2e, text, ids, glue or conll",
                       name);
    return ML_OK;
}

static void print_labels(const ml_tokenize_report *r)
{
    if (r->label_kind == ML_LABEL_NONE) return;
    if (r->label_kind == ML_LABEL_WANTED) {
        printf("labels: of each answer whether it is wanted\n");
        return;
    }
    if (r->label_kind == ML_LABEL_NUMBER) {
        printf("labels: numbers\n");
        return;
    }
    printf("labels: %" PRId64 " %s", r->label_count,
           r->label_kind == ML_LABEL_BITS     ? "bits a sequence"
           : r->label_kind == ML_LABEL_TOKENS ? "classes of tokens"
                                              : "classes");
    if (r->labels_met && r->labels_met < r->label_count)
        printf(", of which %" PRId64 " occur", r->labels_met);
    printf("\n");
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
    else if (r->cut_texts)
        printf("%" PRId64 " texts are longer than %" PRId64
               " tokens (%s) and were cut to that: %" PRId64 " tokens are left out\n",
               r->cut_texts, r->limit, limit, r->cut_tokens);
    else
        printf("none is longer than %" PRId64 " tokens (%s): nothing will be cut\n", r->limit,
               limit);
    print_labels(r);
    if (r->left_out)
        printf("%" PRId64 " %s\n", r->left_out,
               r->format == ML_FORMAT_CONLL ? "words have no token in this vocabulary"
                                            : "lines without a text or a label were left out");
    if (r->lost_bytes)
        ml_warn("%" PRId64 " bytes have no token in this vocabulary and were left out",
                r->lost_bytes);
    if (r->spelled && !options->specials)
        ml_warn("%s spells %" PRId64 " special tokens, which stay text: letters, not the tokens; "
                "--special-tokens ids reads them as tokens",
                options->in, r->spelled);
}

/* The first conversation with its targets marked: its beginning, whole characters. */
static void print_example(const char *text)
{
    enum { MOST = 2000 };
    size_t length = strlen(text), shown = length < MOST ? length : MOST;
    while (shown < length && ((unsigned char)text[shown] & 0xc0) == 0x80) shown--;
    printf("the first conversation, its targets between ⟦ and ⟧:\n%.*s%s\n", (int)shown, text,
           shown < length ? " …" : "");
}

static void print_chats(const ml_chat *chat)
{
    const ml_chat_report *r = ml_chat_figures(chat);
    if (r->nulls)
        ml_warn(
            "%" PRId64 " rows have null inside of tool calls, tools, parts of a content or "
            "variables, and the template writes it, as transformers does; where a library of "
            "tables has filled up objects with it, take it out before; the first: line %" PRId64,
            r->nulls, r->nulls_line);
    if (!r->conversations) { /* but maybe lists of messages in rows of preferences */
        if (r->dated) printf("the template writes the date: %s\n", r->date);
        return;
    }
    printf("%" PRId64 " conversations: %" PRId64 " of %" PRId64
           " tokens carry loss (%.1f %%), found by %s\n",
           r->conversations, r->targets, r->tokens, 100.0 * (double)r->targets / (double)r->tokens,
           r->by_blocks ? "the template's generation blocks" : "rendering what stands before them");
    if (r->dated) printf("the template writes the date: %s\n", r->date);
    print_example(ml_chat_example(chat));
    if (r->last_only)
        ml_warn("%" PRId64 " conversations train their last answer alone: the template rewrites "
                "the earlier ones once more follows (--loss all refuses these)",
                r->last_only);
    if (r->left_out)
        ml_warn("%" PRId64 " messages have text, or call a function, that the template leaves out, "
                "or changes; the first: line %" PRId64 ", message %" PRId64 " (%s)",
                r->left_out, r->left_out_line, r->left_out_message, r->left_out_role);
    if (r->tools_left_out)
        ml_warn("%" PRId64 " conversations have tools that the template leaves out; the first: "
                "line %" PRId64,
                r->tools_left_out, r->tools_left_out_line);
    if (r->without_end)
        ml_warn("%" PRId64 " of %" PRId64 " conversations have no token that ends an answer among "
                "their targets: what they train does not learn to stop",
                r->without_end, r->conversations);
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

typedef struct given {
    const char *base, *format, *specials, *labels, *task;
    int64_t max_len;
    chat_given chat;
} given;

static const option options[] = {
    {"--base", OPTION_TEXT, offsetof(given, base), "BASE.h5",
     "the base file whose tokenizer and vocabulary are taken", NULL},
    {"--format", OPTION_TEXT, offsetof(given, format), "jsonl|e2e|text|ids|glue|conll",
     "what IN is; else the first line tells; glue and conll have to be said", NULL},
    {"--task", OPTION_TEXT, offsetof(given, task), "cola|sst2|mrpc|stsb|qqp|mnli|qnli|rte|wnli",
     "whose table IN is, of --format glue", NULL},
    {"--max-len", OPTION_INT, offsetof(given, max_len), "N",
     "the length that training will cut at, for the report and for "
     "text; at most the model's context",
     NULL},
    {"--special-tokens", OPTION_TEXT, offsetof(given, specials), "text|ids",
     "what text that spells a special token becomes: its letters' "
     "tokens, or that token",
     "text"},
    {"--chat-template", OPTION_TEXT, offsetof(given, chat.file), "FILE",
     "the template of conversations in the place of the base's: jinja2 text, or a "
     "tokenizer_config.json that has one",
     NULL},
    {"--loss", OPTION_TEXT, offsetof(given, chat.loss), "assistant|last|all",
     "which answers of a conversation are targets: all that the "
     "template lets be told, the last, or all or nothing",
     "assistant"},
    {"--date", OPTION_TEXT, offsetof(given, chat.date), "DATE",
     "YYYY-MM-DD, for templates that write today's date; else it is "
     "that of the start",
     NULL},
    {"--labels", OPTION_TEXT, offsetof(given, labels), "CLASSES",
     "the classes in their order: names with commas between them, a file with a name a line, a "
     "data "
     "set (*.h5) whose classes are taken, or how many there are; number: labels are numbers to "
     "regress",
     NULL},
    {NULL, OPTION_FLAG, 0, NULL, NULL, NULL}};

/* What --labels says, and the base's own names. */
static ml_status read_labels(ml_label_names *out, const char *said, const ml_base *base)
{
    ml_status st = ML_OK;
    ml_text config = {0};
    if (said) ML_TRY(ml_label_names_read(out, said));
    ML_TRY(ml_base_read_file(base, "config.json", &config));
    if (config.length) ML_TRY(ml_label_names_of_config(out, config.data, config.length));
    /* transformers leaves two classes without names unsaid. */
    if (!out->base && ml_base_spec(base)->labels > 1) out->unnamed = ml_base_spec(base)->labels;
done:
    ml_text_destroy(&config);
    return st;
}

static ml_status read_line(int argc, char **argv, ml_tokenize_options *to, const char **base,
                           chat_given *chat, const char **labels)
{
    const char *words[2];
    given g = {.max_len = INT64_MIN}; /* not given */
    ml_status st = options_read(argc, argv, options, &g, 2, 2, words, usage);
    if (st != ML_OK) return st;
    if (!g.base) return ml_fail(ML_USAGE, "--base is missing; usage: %s", usage);
    *base = g.base;
    *chat = g.chat;
    *labels = g.labels;
    if (g.max_len != INT64_MIN && g.max_len < 2)
        return ml_fail(ML_USAGE, "--max-len %" PRId64 ": expected at least 2 tokens", g.max_len);
    ML_TRY(options_choose("--special-tokens", g.specials, "text", "ids", &to->specials));
    to->in = words[0];
    to->out = words[1];
    to->max_len = ml_max(g.max_len, 0);
    to->task = g.task;
    st = read_format(g.format, &to->format);
done:
    return st;
}

static ml_status run(int argc, char **argv)
{
    ml_status st = ML_OK;
    const char *path = NULL, *json, *said = NULL;
    ml_base *base = NULL;
    ml_label_names labels = {0};
    ml_tokenize_options how = {.labels = &labels};
    ml_tokenize_report report;
    ml_text fault = {0};
    chat_given chat;
    int64_t length;
    ML_TRY(read_line(argc, argv, &how, &path, &chat, &said));
    const char *const inputs[] = {path, chat.file, said};
    ML_TRY(ml_durable_check_apart(how.out, inputs, 3));
    ML_TRY(ml_base_open(&base, path));
    how.vocab = ml_base_spec(base)->vocab;
    how.context = ml_base_spec(base)->context;
    json = ml_base_tokenizer(base, &length);
    how.tokenizer_hash = length ? ml_base_tokenizer_hash(base) : "";
    if (length) ML_TRY(ml_tokenizer_create(&how.tokenizer, json, length));
    ML_TRY(check_fit(&how, path));
    ML_TRY(chat_template_open(&how.chat, &chat, base, how.tokenizer, &fault));
    how.chat_fault = fault.length ? fault.data : "";
    ML_TRY(read_labels(&labels, said, base));
    ML_TRY(ml_tokenize_file(&how, &report));
    print_report(&how, &report);
    if (how.chat) print_chats(how.chat);
done:
    ml_label_names_destroy(&labels);
    ml_text_destroy(&fault);
    ml_chat_destroy(how.chat);
    ml_tokenizer_destroy(how.tokenizer);
    ml_base_close(base);
    return st;
}

const ml_command ml_command_tokenize = {
    .name = "tokenize",
    .summary = "make a data set of a text file",
    .usage = usage,
    .about = "Makes the data set OUT.h5 (tokens, sequence offsets, a loss mask a token) of the "
             "text file IN.",
    .options = options,
    .notes =
        "Formats:\n  jsonl   {\"prompt\": \"…\", \"completion\": \"…\"} or "
        "{\"text\": \"…\"}, or a conversation\n  e2e     meaning representation||text\n  text    "
        "plain text; an "
        "empty line ends a document; a document longer than --max-len (else the\n          "
        "model's context) becomes several sequences\n  ids     {\"input_ids\": [1, 2], "
        "\"labels\": [-100, 2]}; a label is the token itself or -100 (no\n          target); "
        "without labels every token is a target; or {\"input_ids\": […], "
        "\"token_type_ids\": […],\n          \"label\": …}: a class (a number or a name), a "
        "number with a fraction to regress, a list\n          of bits; or \"token_labels\", a "
        "class "
        "a token or -100\n\nPrompt and completion are tokenised apart, "
        "without added blanks; the loss is on the completion and on the end-of-text token "
        "that follows it, or on a whole text. Text that spells a special token stays text unless "
        "--special-tokens ids is given. "
        "A conversation is {\"messages\": [{\"role\": …, \"content\": …}, …], \"tools\": […]}, "
        "{\"conversations\": [{\"from\": …, \"value\": …}, …]}, or prompt and completion that are "
        "lists of messages; a chat template makes its text, as transformers' "
        "apply_chat_template does, and the loss is on the assistant's answers. "
        "{\"prompt\": …, \"chosen\": …, \"rejected\": …} is a pair for preferences, "
        "{\"prompt\": …, \"completion\": …, \"label\": true|false} an answer that is wanted or "
        "not; both are texts or lists of messages. "
        "Sequences are stored whole: training cuts those beyond data.max_len, and the report "
        "says how many these are. An existing OUT.h5 is replaced only on success.",
    .run = run,
    .parallel = false,
};
