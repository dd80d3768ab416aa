/* The options of a search for continuations. */
#include "cli/support/generation_options.h"

#include <inttypes.h>

ml_status generation_check(generation_options *o)
{
    ml_generation *g = &o->generation;
    g->seed = (uint64_t)o->seed;
    if (g->max_new < 0) return ml_fail(ML_USAGE, "--max-new: %" PRId64 " is negative", g->max_new);
    if (g->beams < 1 || g->beams > 256)
        return ml_fail(ML_USAGE, "--beams: %" PRId64 ", expected 1 to 256", g->beams);
    if (g->length_penalty != 1.0 && g->beams == 1)
        return ml_fail(ML_USAGE, "--length-penalty: needs --beams of at least 2");
    if (!(g->length_penalty >= -10.0 && g->length_penalty <= 10.0))
        return ml_fail(ML_USAGE, "--length-penalty: %g, expected -10 to 10", g->length_penalty);
    if (g->no_repeat_ngram < 0)
        return ml_fail(ML_USAGE, "--no-repeat-ngram: %" PRId64 " is negative", g->no_repeat_ngram);
    if (g->temperature < 0.0)
        return ml_fail(ML_USAGE, "--temperature: %g is negative", g->temperature);
    if (g->beams > 1 && g->temperature > 0.0)
        return ml_fail(
            ML_USAGE, "--beams and --temperature: a beam search does not sample; give one of them");
    if (g->top_k < 0) return ml_fail(ML_USAGE, "--top-k: %" PRId64 " is negative", g->top_k);
    if (!(g->top_p > 0.0 && g->top_p <= 1.0))
        return ml_fail(ML_USAGE, "--top-p: %g, expected in (0, 1]", g->top_p);
    if (g->temperature == 0.0 && (g->top_k > 0 || g->top_p < 1.0))
        return ml_fail(ML_USAGE,
                       "--top-k and --top-p need --temperature: without it generation is greedy");
    if (o->together < 1 || o->together > 1024)
        return ml_fail(ML_USAGE, "--batch: %" PRId64 ", expected 1 to 1024", o->together);
    return ML_OK;
}
