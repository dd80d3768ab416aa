/* mpilora generate: continuations of prompts, under one or several adapters. */
#include "mpilora/generate.h"

#include <inttypes.h>

#include "cli/cli.h"
#include "cli/support/generation_options.h"
#include "cli/support/prompts.h"
#include "cli/support/talk.h"
#include "io/durable.h"
#include "io/json.h"
#include "mpilora/grid.h"

static const char usage[] = "mpilora generate --base BASE.h5 [--adapter [NAME=]A]... --prompt "
                            "TEXT... | --prompts FILE.jsonl [option]...";

typedef struct words {
    const char *base, *file, *out, *precision, *specials, *activations;
    bool specials_are_ids, rounds;
    option_list adapters, prompts;
    bool json, chat, echo;
    int64_t log_probs; /* −1: none */
    chat_given template;
    int64_t tp, pp;
    generation_options generation;
} words;

static const option options[] = {
    {"--base", OPTION_TEXT, offsetof(words, base), "BASE.h5", "the base", NULL},
    {"--adapter", OPTION_LIST, offsetof(words, adapters), "[NAME=]A",
     "adapter.h5 or a PEFT directory, of any method; again and again", NULL},
    {"--prompt", OPTION_LIST, offsetof(words, prompts), "TEXT",
     "what to go on from; again and again", NULL},
    {"--prompts", OPTION_TEXT, offsetof(words, file), "FILE.jsonl",
     "lines {\"prompt\": TEXT, \"adapter\": NAME}, or \"prompt_ids\": [...] with nothing added: "
     "every prompt names its own adapter, by a name "
     "that --adapter gave it or by its path; null is the base alone. Results are JSON lines",
     NULL},
    {"--chat", OPTION_FLAG, offsetof(words, chat), NULL,
     "the prompts are what a user says, or lines {\"messages\": [...]} or {\"prompt\": [...]}; the "
     "base's chat template makes their texts, and the token that ends an answer ends it. Without "
     "any a conversation: a "
     "line of standard input is what the user says, and the answers stay part of it",
     NULL},
    {"--chat-template", OPTION_TEXT, offsetof(words, template.file), "FILE",
     "the template in the place of the base's: jinja2 text, or a tokenizer_config.json that has "
     "one",
     NULL},
    {"--date", OPTION_TEXT, offsetof(words, template.date), "DATE",
     "YYYY-MM-DD, for templates that write today's date; else it is that of the start", NULL},
    {"--out", OPTION_TEXT, offsetof(words, out), "FILE.jsonl",
     "where the JSON lines go, in the order of the prompts; else to standard output", NULL},
    {"--json", OPTION_FLAG, offsetof(words, json), NULL,
     "JSON lines {\"prompt\", \"adapter\", \"output\"} also for --prompt", NULL},
    {"--logprobs", OPTION_INT, offsetof(words, log_probs), "N",
     "\"logprobs\" in every JSON line: the tokens, log p of each, and the N most probable ones in "
     "its "
     "place",
     "-1"},
    {"--echo", OPTION_FLAG, offsetof(words, echo), NULL,
     "of --logprobs: of the prompt's tokens, too; with --max-new 0 of these alone", NULL},
    {"--precision", OPTION_TEXT, offsetof(words, precision), "bf16|fp32",
     "what is computed with; bf16 keeps the weights in half the memory", "bf16"},
    {"--activations", OPTION_TEXT, offsetof(words, activations), "exact|q8",
     "q8: products with weights in blocks take activations rounded to 8 bits, as llama.cpp's do: "
     "faster, and other results",
     "exact"},
    {"--special-tokens", OPTION_TEXT, offsetof(words, specials), "text|ids",
     "what a prompt that spells a special token means: its letters, or that token", "ids"},
    {"--tp", OPTION_INT, offsetof(words, tp), "N",
     "ranks that share a replica's weights; else as many as divide the model's heads. The replicas "
     "share the prompts",
     NULL},
    {"--pp", OPTION_INT, offsetof(words, pp), "N", "stages that divide a replica's layers", "1"},
    GENERATION_OPTIONS(words, generation),
    {NULL, OPTION_FLAG, 0, NULL, NULL, NULL}};

static ml_status read_words(int argc, char **argv, words *w)
{
    ml_status st = options_read(argc, argv, options, w, 0, 0, NULL, usage);
    if (st != ML_OK) return st;
    if (!w->base) return ml_fail(ML_USAGE, "--base: missing; usage: %s", usage);
    if (!w->file && w->prompts.count == 0 && !w->chat)
        return ml_fail(ML_USAGE, "--prompt: missing; usage: %s", usage);
    if (w->file && w->prompts.count > 0)
        return ml_fail(ML_USAGE, "--prompt and --prompts: give one of them");
    if (strcmp(w->precision, "bf16") != 0 && strcmp(w->precision, "fp32") != 0)
        return ml_fail(ML_USAGE, "--precision: \"%s\" is not one of bf16, fp32", w->precision);
    if (!w->chat && (w->template.file || w->template.date))
        return ml_fail(ML_USAGE, "%s: is for chats; give --chat, too",
                       w->template.file ? "--chat-template" : "--date");
    if (w->log_probs < -1 || w->log_probs > 1024)
        return ml_fail(ML_USAGE, "--logprobs: %" PRId64 ", expected 0 to 1024", w->log_probs);
    if (w->echo && w->log_probs < 0)
        return ml_fail(ML_USAGE, "--echo: is for --logprobs; give it, too");
    bool talks = w->chat && !w->file && w->prompts.count == 0;
    if (talks && (w->out || w->json || w->log_probs >= 0 || w->adapters.count > 1))
        return ml_fail(ML_USAGE, "--chat without a prompt is a conversation: without --out, --json "
                                 "and --logprobs, and with one --adapter at most");
    if (w->tp < 1 && w->tp != OPTION_ABSENT)
        return ml_fail(ML_USAGE, "--tp: %" PRId64 ", expected 1 or more", w->tp);
    if (w->pp < 1) return ml_fail(ML_USAGE, "--pp: %" PRId64 ", expected 1 or more", w->pp);
    st = options_choose("--activations", w->activations, "exact", "q8", &w->rounds);
    if (st != ML_OK) return st;
    st = options_choose("--special-tokens", w->specials, "text", "ids", &w->specials_are_ids);
    return st == ML_OK ? generation_check(&w->generation) : st;
}

static ml_status check_out(const words *w, const prompts *p)
{
    const char *inputs[3 + OPTION_REPEATS] = {w->base, w->file, w->template.file};
    if (!w->out) return ML_OK;
    for (int64_t i = 0; i < p->nadapters; i++) inputs[3 + i] = p->adapters[i].path;
    return ml_durable_check_apart(w->out, inputs, 3 + p->nadapters);
}

static ml_status collect(const words *w, prompts *p)
{
    ml_status st = prompts_name_adapters(p, &w->adapters);
    if (st == ML_OK) st = check_out(w, p);
    p->chat = w->chat;
    if (st == ML_OK) st = w->file ? prompts_read(p, w->file) : prompts_add_texts(p, &w->prompts);
    return st == ML_OK && w->chat ? prompts_render(p, w->base, &w->template, w->file) : st;
}

/* {"prompt": …, "adapter": …, "activations": "q8", "output": …, "logprobs": …} */
static ml_status add_object(const words *w, const prompts *p, int64_t i, const ml_text *output,
                            const ml_text *log_probs, ml_text *all)
{
    ml_status st = ML_OK;
    const char *prompt = p->items[i].text, *adapter = prompts_adapter_name(p, i);
    ML_TRY(ml_text_printf(all, "{\"prompt\": "));
    ML_TRY(prompt ? json_text_add(all, prompt, (int64_t)strlen(prompt))
                  : ml_text_printf(all, "null"));
    ML_TRY(ml_text_printf(all, ", \"adapter\": "));
    ML_TRY(adapter ? json_text_add(all, adapter, (int64_t)strlen(adapter))
                   : ml_text_printf(all, "null"));
    if (w->rounds) ML_TRY(ml_text_printf(all, ", \"activations\": \"q8\""));
    ML_TRY(ml_text_printf(all, ", \"output\": "));
    ML_TRY(output->data ? json_text_add(all, output->data, output->length)
                        : ml_text_printf(all, "null"));
    if (log_probs->length) ML_TRY(ml_text_printf(all, ", \"logprobs\": %s", log_probs->data));
    ML_TRY(ml_text_printf(all, "}\n"));
done:
    return st;
}

/* On rank 0. */
static ml_status write(const words *w, const prompts *p, const ml_text *outputs,
                       const ml_text *log_probs)
{
    ml_status st = ML_OK;
    ml_text all = {0};
    bool objects = w->json || w->file || w->out || w->log_probs >= 0;
    for (int64_t i = 0; i < p->count; i++) {
        if (objects) {
            ML_TRY(add_object(w, p, i, &outputs[i], &log_probs[i], &all));
        } else {
            ML_TRY(ml_text_add(&all, outputs[i].data, outputs[i].length));
            ML_TRY(ml_text_add(&all, "\n", 1));
        }
    }
    if (w->out)
        st = ml_durable_write(w->out, all.data, all.length, NULL);
    else
        fwrite(all.data, 1, (size_t)all.length, stdout);
done:
    ml_text_destroy(&all);
    return st;
}

static void tell(const prompts *p, const ml_generate_report *r)
{
    if (r->spelled)
        ml_warn("the prompts spell %" PRId64 " special tokens, which stay text: letters, not the "
                "tokens; --special-tokens ids reads them as tokens",
                r->spelled);
    if (p->count == 1) return;
    ml_log("%" PRId64 " continuations, %" PRId64 " tokens in %.2f s (%.1f tokens/s)",
           p->count - r->refused, r->tokens, r->seconds, (double)r->tokens / r->seconds);
    if (p->nadapters < 2) return;
    double one = r->switches.count ? r->switches.seconds / (double)r->switches.count : 0.0;
    ml_log("base read in %.3g s, %" PRId64 " adapters in %.3g s; %" PRId64
           " switches, %.3g s each (%.4f %% of reading the base)",
           r->base_seconds, p->nadapters, r->adapter_seconds, r->switches.count, one,
           100.0 * one / r->base_seconds);
}

static ml_generate_options options_of(const words *w, const prompts *p, const char *const *paths)
{
    return (ml_generate_options){.base = w->base,
                                 .precision = strcmp(w->precision, "bf16") == 0 ? ML_BF16 : ML_FP32,
                                 .rounds_activations = w->rounds,
                                 .generation = w->generation.generation,
                                 .together = w->generation.together,
                                 .tp = ml_max(0, w->tp),
                                 .pp = w->pp,
                                 .nadapters = p->nadapters,
                                 .adapters = paths,
                                 .count = p->count,
                                 .prompts = p->items,
                                 .specials_are_text = !w->chat && !w->specials_are_ids,
                                 .whole = w->chat,
                                 .turn_end = w->chat && p->turn_end >= 0 ? &p->turn_end : NULL,
                                 .log_probs = w->log_probs >= 0,
                                 .top = ml_max(0, w->log_probs),
                                 .echo = w->echo,
                                 .file = w->file,
                                 .out = w->out};
}

static ml_status generate(const words *w, const prompts *p)
{
    ml_status st = ML_OK;
    ml_text *outputs = NULL, *log_probs = NULL;
    ml_generate_report report = {0};
    const char *paths[OPTION_REPEATS];
    for (int64_t i = 0; i < p->nadapters; i++) paths[i] = p->adapters[i].path;
    const ml_generate_options o = options_of(w, p, paths);
    ML_NEW(outputs, p->count, ML_MEM_OTHER, "continuations");
    ML_NEW(log_probs, p->count, ML_MEM_OTHER, "log-probabilities");
    ML_TRY(ml_generate_run(&o, outputs, log_probs, &report));
    if (ml_grid_world_rank() == 0) {
        ML_TRY(write(w, p, outputs, log_probs));
        tell(p, &report);
    }
    if (report.refused)
        st = ml_fail(w->file ? ML_INPUT : ML_USAGE,
                     "%s (%" PRId64 " of %" PRId64 " prompts refused; the others are answered)",
                     report.refusal, report.refused, p->count);
done:
    for (int64_t i = 0; outputs && i < p->count; i++) ml_text_destroy(&outputs[i]);
    for (int64_t i = 0; log_probs && i < p->count; i++) ml_text_destroy(&log_probs[i]);
    ml_memory_free(outputs);
    ml_memory_free(log_probs);
    return st;
}

static ml_status converse(const words *w, prompts *p)
{
    talk t;
    const char *paths[OPTION_REPEATS];
    const ml_talk lines = {&t, talk_next};
    ml_status st = talk_open(&t, w->base, &w->template);
    for (int64_t i = 0; i < p->nadapters; i++) paths[i] = p->adapters[i].path;
    p->turn_end = t.turn_end;
    const ml_generate_options o = options_of(w, p, paths);
    if (st == ML_OK) st = ml_generate_talk(&o, &lines);
    talk_close(&t);
    return st;
}

static ml_status run(int argc, char **argv)
{
    words w = {.tp = OPTION_ABSENT};
    prompts *p = NULL;
    ml_status st = read_words(argc, argv, &w);
    if (st != ML_OK) return st;
    ML_NEW(p, 1, ML_MEM_OTHER, "prompts");
    if (w.chat && !w.file && w.prompts.count == 0) {
        ML_TRY(ml_grid_settle(prompts_name_adapters(p, &w.adapters)));
        st = converse(&w, p);
        goto done;
    }
    ML_TRY(ml_grid_settle(collect(&w, p)));
    ML_TRY(generate(&w, p));
done:
    if (p) prompts_destroy(p);
    ml_memory_free(p);
    return st;
}

const ml_command ml_command_generate = {
    .name = "generate",
    .summary = "continuations of prompts, under one or several adapters",
    .usage = usage,
    .about = "Prints only the continuation, on one or several ranks. Greedy unless --temperature "
             "or --beams is given; ends at end-of-text or after --max-new tokens. Several prompts "
             "and adapters: every prompt under every adapter, adapter by adapter. The base is read "
             "once; to change the adapter costs next to nothing, which is told at the end.",
    .options = options,
    .run = run,
    .parallel = true,
};
