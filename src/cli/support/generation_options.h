/* The options of a search for continuations, which several commands have. */
#ifndef MPILORA_CLI_SUPPORT_GENERATION_OPTIONS_H
#define MPILORA_CLI_SUPPORT_GENERATION_OPTIONS_H

#include "cli/support/options.h"
#include "mpilora/generate.h"

typedef struct generation_options {
    ml_generation generation;
    int64_t seed, together;
} generation_options;

/* Rows of an option table for the member `f` of the struct `s`. */
/* clang-format off */
#define GENERATION_OPTIONS(s, f) {"--max-new", OPTION_INT, offsetof(s, f.generation.max_new), "N", "new tokens at most", "64"}, \
    {"--beams", OPTION_INT, offsetof(s, f.generation.beams), "N", "beam search as Hugging Face's defaults: length penalty 1, no early stopping", "1"}, \
    {"--length-penalty", OPTION_NUMBER, offsetof(s, f.generation.length_penalty), "X", "of beams: log-probability / length^X counts", "1"}, \
    {"--no-repeat-ngram", OPTION_INT, offsetof(s, f.generation.no_repeat_ngram), "N", "no N tokens stand twice in prompt and continuation", NULL}, \
    {"--temperature", OPTION_NUMBER, offsetof(s, f.generation.temperature), "X", "sample instead of taking the likeliest", NULL}, \
    {"--top-k", OPTION_INT, offsetof(s, f.generation.top_k), "N", "of sampling: among the N likeliest", NULL}, \
    {"--top-p", OPTION_NUMBER, offsetof(s, f.generation.top_p), "X", "of sampling: among the likeliest that together have X", "1"}, \
    {"--seed", OPTION_INT, offsetof(s, f.seed), "N", "of sampling", "1"}, \
    {"--batch", OPTION_INT, offsetof(s, f.together), "N", "prompts at a time in each replica, each with its own beams", "8"}
/* clang-format on */
/* ML_USAGE naming the option. Afterwards o->generation is complete but for the end of text. */
ml_status generation_check(generation_options *o) ML_NODISCARD;

#endif
