/* The same prompts again and again while a model trains: a line for each, with the step. */
#include <inttypes.h>

#include "io/json.h"
#include "mpilora/family.h"
#include "mpilora/generate.h"
#include "serve/requests.h"

struct ml_samples {
    const ml_prompt *prompts; /* borrowed */
    const char *file;         /* borrowed */
    requests requests;
    ml_generation generation;
    int64_t together;
};

ml_status ml_samples_create(ml_samples **out, const ml_prompt *prompts, int64_t count,
                            int64_t max_new, const char *file)
{
    enum { TOGETHER = 32 };
    ml_status st = ML_OK;
    ml_samples *s;
    *out = NULL;
    ML_NEW(s, 1, ML_MEM_OTHER, "samples");
    *s = (ml_samples){.prompts = prompts, .file = file, .together = ml_min(count, TOGETHER)};
    s->requests.count = count;
    s->generation =
        (ml_generation){.max_new = max_new, .beams = 1, .length_penalty = 1.0, .top_p = 1.0};
    *out = s;
done:
    return st;
}

void ml_samples_destroy(ml_samples *s)
{
    if (s) requests_destroy(&s->requests);
    ml_memory_free(s);
}

static ml_status encode(ml_samples *s, int64_t i, int64_t context, int64_t prefix, int64_t infix)
{
    ml_status st = ML_OK;
    const ml_prompt *p = &s->prompts[i];
    ML_TRY(p->text ? requests_encode(&s->requests, i, p->text, true, false)
                   : requests_take(&s->requests, i, p->ids, p->nids));
    if (s->requests.prompt[i].count == 0)
        return ml_fail(ML_INPUT, "the prompt is empty, and the base names no token that begins a "
                                 "text");
    ML_TRY(requests_dress(&s->requests, i, 0, prefix, infix));
    int64_t length = s->requests.request[i].length;
    if (length + s->generation.max_new > context)
        st = ml_fail(ML_INPUT,
                     "the prompt has %" PRId64 " tokens, with %" PRId64
                     " new ones more than the context of %" PRId64,
                     length, s->generation.max_new, context);
done:
    return st;
}

ml_status ml_samples_prepare(void *self, const ml_base *base, int64_t prefix, int64_t infix,
                             int64_t *tokens)
{
    ml_status st = ML_OK;
    ml_samples *s = self;
    requests *r = &s->requests;
    const ml_model_spec *spec = ml_base_spec(base);
    if (spec->both_ways)
        return ml_fail(ML_USAGE, "train.samples: %s models write no text", spec->family->title);
    ML_TRY(requests_create(r, base, r->count, s->generation.max_new));
    ML_TRY(requests_find_ends(r, base, &s->generation));
    for (int64_t i = 0; i < r->count; i++) {
        st = encode(s, i, spec->context, prefix, infix);
        if (st != ML_OK) return ml_fail_within(st, "%s:%" PRId64, s->file, s->prompts[i].line);
    }
    *tokens = ml_generation_tokens(&s->generation, r->count, r->request, s->together);
done:
    return st;
}

static ml_status add_line(const ml_samples *s, int64_t i, int64_t step, ml_text *lines)
{
    ml_status st = ML_OK;
    ml_text output = {0};
    const ml_prompt *p = &s->prompts[i];
    ML_TRY(requests_decode(&s->requests, i, &output));
    ML_TRY(ml_text_printf(lines, "{\"step\": %" PRId64 ", \"prompt\": ", step));
    ML_TRY(p->text ? json_text_add(lines, p->text, (int64_t)strlen(p->text))
                   : ml_text_printf(lines, "null"));
    ML_TRY(ml_text_printf(lines, ", \"output\": "));
    ML_TRY(json_text_add(lines, output.data, output.length));
    ML_TRY(ml_text_printf(lines, "}\n"));
done:
    ml_text_destroy(&output);
    return st;
}

ml_status ml_samples_make(void *self, const ml_grid *grid, ml_model *model, int64_t step,
                          ml_text *lines)
{
    ml_samples *s = self;
    ml_status st = requests_generate(&s->requests, grid, model, &s->generation, s->together, NULL);
    for (int64_t i = 0; i < s->requests.count && st == ML_OK; i++) st = add_line(s, i, step, lines);
    return st;
}
