/* Rotary tables, by the kinds of rope.h (as in Hugging Face's modeling_rope_utils). Frequencies and
 * angles are fp32 as there, so that long positions agree. */
#include "mpilora/rope.h"

#include <math.h>

#include "model/model_private.h"

static const double two_pi = 6.283185307179586;

const char *const ml_rope_kind_words[] = {"default", "linear",   "dynamic", "llama3",
                                          "yarn",    "longrope", NULL};

static double llama3_frequency(const ml_rope_scaling *s, double frequency)
{
    double context = (double)s->original_context, wavelength = two_pi / frequency;
    if (wavelength < context / s->high_freq_factor) return frequency;
    if (wavelength > context / s->low_freq_factor) return frequency / s->factor;
    double smooth =
        (context / wavelength - s->low_freq_factor) / (s->high_freq_factor - s->low_freq_factor);
    return (1.0 - smooth) * frequency / s->factor + smooth * frequency;
}

/* The pair, as a real number, that turns so many times within the original context. */
static double yarn_pair(const ml_rope_scaling *s, double theta, double rotated, double turns)
{
    return rotated * log((double)s->original_context / (turns * two_pi)) / (2.0 * log(theta));
}

static double yarn_frequency(const ml_rope_scaling *s, double theta, double rotated, int64_t pair,
                             double frequency)
{
    double first = yarn_pair(s, theta, rotated, s->beta_fast > 0.0 ? s->beta_fast : 32.0),
           last = yarn_pair(s, theta, rotated, s->beta_slow > 0.0 ? s->beta_slow : 1.0);
    if (!s->unrounded) {
        first = floor(first);
        last = ceil(last);
    }
    first = fmax(first, 0.0);
    last = fmin(last, rotated - 1.0);
    if (first == last) last += 0.001;
    double ramp = fmin(fmax(((double)pair - first) / (last - first), 0.0), 1.0);
    return (1.0 - ramp) * frequency + ramp * frequency / s->factor;
}

double ml_rope_frequency(const ml_rope_scaling *s, double theta, int64_t rotated, int64_t pair,
                         bool beyond)
{
    double frequency = pow(theta, -2.0 * (double)pair / (double)rotated);
    switch (s->kind) {
    case ML_ROPE_DEFAULT:
    case ML_ROPE_DYNAMIC:
        return frequency;
    case ML_ROPE_LINEAR:
        return frequency / s->factor;
    case ML_ROPE_LLAMA3:
        return llama3_frequency(s, frequency);
    case ML_ROPE_YARN:
        return yarn_frequency(s, theta, (double)rotated, pair, frequency);
    case ML_ROPE_LONGROPE:
        return frequency / (double)(beyond ? s->long_factor : s->short_factor)[pair];
    }
    return frequency;
}

double ml_rope_attention_factor(const ml_rope_scaling *s)
{
    if (s->kind != ML_ROPE_YARN && s->kind != ML_ROPE_LONGROPE) return 1.0;
    if (s->attention_factor > 0.0) return s->attention_factor;
    if (s->factor <= 1.0) return 1.0;
    if (s->kind == ML_ROPE_YARN) return 0.1 * log(s->factor) + 1.0;
    return sqrt(1.0 + log(s->factor) / log((double)s->original_context));
}

/* Rows of one table, from position 0 on. */
static void fill_rows(const ml_rope_scaling *s, double theta, int64_t rotated, bool beyond,
                      int64_t positions, float *cosine, float *sine)
{
    int64_t half = rotated / 2;
    float factor = (float)ml_rope_attention_factor(s);
    for (int64_t i = 0; i < half; i++) {
        float frequency = (float)ml_rope_frequency(s, theta, rotated, i, beyond);
        for (int64_t p = 0; p < positions; p++) {
            float angle = (float)p * frequency;
            cosine[p * half + i] = (float)cos((double)angle) * factor;
            sine[p * half + i] = (float)sin((double)angle) * factor;
        }
    }
}

int64_t rope_rows(const ml_model_spec *s, int64_t positions)
{
    return rope_has_beyond(s, positions) ? 2 * positions : positions;
}

bool rope_has_beyond(const ml_model_spec *s, int64_t positions)
{
    return s->rope_scaling.kind == ML_ROPE_LONGROPE && positions > s->rope_scaling.original_context;
}

void fill_rope_tables(const ml_model_spec *s, int64_t positions, const rope_table *all,
                      const rope_table *local)
{
    static const ml_rope_scaling none = {0};
    int64_t rotated = ml_model_rope_width(s), beyond = positions * (rotated / 2);
    fill_rows(&s->rope_scaling, s->rope_theta, rotated, false, positions, all->cosine, all->sine);
    if (rope_has_beyond(s, positions))
        fill_rows(&s->rope_scaling, s->rope_theta, rotated, true, positions, all->cosine + beyond,
                  all->sine + beyond);
    if (local->cosine)
        fill_rows(&none, s->rope_local_theta, rotated, false, positions, local->cosine,
                  local->sine);
}
