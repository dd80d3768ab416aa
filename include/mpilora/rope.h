/* rope: how fast rotary positions turn (Su et al. 2021), and how a model's context is stretched
 * behind the one that it was first trained for.
 *
 * Pair n of the R rotated elements of a head turns by p·inv[n] at position p, inv[n] = θ^(−2n/R),
 * and by kind, with λ = 2π/inv[n], o the original context:
 *   linear    inv/factor
 *   dynamic   inv as long as a sequence fits into the context, which here it always does
 *   llama3    λ > o/low: inv/factor; λ < o/high: inv; between, with s = (o/λ − low)/(high − low):
 *             (1 − s)·inv/factor + s·inv
 *   yarn      (1 − ramp)·inv + ramp·inv/factor, ramp from 0 to 1 over n between the pairs that turn
 *             beta_fast and beta_slow times within o (Peng et al. 2023)
 *   longrope  inv/short_factor[n]; where a sequence is longer than o, all of it inv/long_factor[n]
 *             (Ding et al. 2024)
 * yarn and longrope also multiply what is turned by the attention factor.
 */
#ifndef MPILORA_ROPE_H
#define MPILORA_ROPE_H

#include "mpilora/base.h"

ML_BEGIN_DECLS

typedef enum ml_rope_kind {
    ML_ROPE_DEFAULT,
    ML_ROPE_LINEAR,
    ML_ROPE_DYNAMIC,
    ML_ROPE_LLAMA3,
    ML_ROPE_YARN,
    ML_ROPE_LONGROPE
} ml_rope_kind;

enum { ML_ROPE_FACTORS = 256 }; /* the most pairs of a head that have a factor each */

typedef struct ml_rope_scaling {
    ml_rope_kind kind;
    double factor;
    double low_freq_factor, high_freq_factor; /* llama3 */
    double beta_fast, beta_slow;              /* yarn; 0: 32 and 1 */
    bool unrounded;                           /* yarn: the ramp's ends are not whole pairs */
    double attention_factor;                  /* yarn, longrope; 0: ml_rope_attention_factor */
    int64_t original_context;                 /* llama3, yarn, longrope */
    float short_factor[ML_ROPE_FACTORS], long_factor[ML_ROPE_FACTORS]; /* longrope, a pair each */
} ml_rope_scaling;

/* The words of the kinds, as in config.json; ended by NULL.
 * Shapes: none.
 * Ownership: static.
 * Local.
 * Errors: none. */
extern const char *const ml_rope_kind_words[];

/* What pair `pair` turns by from one position to the next; `beyond`: in a sequence longer than the
 * original context.
 * Shapes: radians; pair < rotated / 2.
 * Ownership: borrows `s`.
 * Local.
 * Errors: none. */
double ml_rope_frequency(const ml_rope_scaling *s, double theta, int64_t rotated, int64_t pair,
                         bool beyond);

/* What turned elements are multiplied by: as given, else yarn's 0.1·ln(factor) + 1 or longrope's
 * √(1 + ln(factor)/ln(o)); 1 of the other kinds.
 * Shapes: none.
 * Ownership: borrows `s`.
 * Local.
 * Errors: none. */
double ml_rope_attention_factor(const ml_rope_scaling *s);

ML_END_DECLS

#endif
