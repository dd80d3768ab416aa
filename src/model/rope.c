/* Rotary tables, with Llama-3's scaling of the frequencies (as in Hugging Face's
 * modeling_rope_utils: low frequencies are divided by `factor`, high ones stay, those between are
 * interpolated). Frequencies and angles are fp32 as there, so that long positions agree. */
#include <math.h>

#include "model/model_private.h"

static const double two_pi = 6.283185307179586;

static double scaled_frequency(const ml_rope_scaling *s, double frequency)
{
    if (s->factor == 0.0) return frequency;
    double context = (double)s->original_context, wavelength = two_pi / frequency;
    if (wavelength < context / s->high_freq_factor) return frequency;
    if (wavelength > context / s->low_freq_factor) return frequency / s->factor;
    double smooth =
        (context / wavelength - s->low_freq_factor) / (s->high_freq_factor - s->low_freq_factor);
    return (1.0 - smooth) * frequency / s->factor + smooth * frequency;
}

void fill_rope_table(const ml_model_spec *spec, int64_t positions, float *cosine, float *sine)
{
    int64_t rotated = ml_model_rope_width(spec), half = rotated / 2;
    for (int64_t i = 0; i < half; i++) {
        double plain = pow(spec->rope_theta, -2.0 * (double)i / (double)rotated);
        float frequency = (float)scaled_frequency(&spec->rope_scaling, plain);
        for (int64_t p = 0; p < positions; p++) {
            float angle = (float)p * frequency;
            cosine[p * half + i] = (float)cos((double)angle);
            sine[p * half + i] = (float)sin((double)angle);
        }
    }
}
