/* Alignments as NLTK makes them. */
#include "score/alignment.h"

static void match(const stemmed *s, int64_t output, int64_t reference, bool stems, int64_t *to,
                  bool *taken)
{
    const corpus *c = s->c;
    const int32_t *x = c->token + c->text[output], *y = c->token + c->text[reference];
    for (int64_t i = corpus_length(c, output) - 1; i >= 0; i--) {
        for (int64_t j = corpus_length(c, reference) - 1; j >= 0 && to[i] < 0; j--) {
            if (taken[j] || (stems ? s->stem[x[i]] != s->stem[y[j]] : x[i] != y[j])) continue;
            to[i] = j;
            taken[j] = true;
        }
    }
}

matches align_from_the_end(const stemmed *s, int64_t output, int64_t reference, int64_t *to,
                           bool *taken)
{
    matches m = {0};
    const int32_t *x = s->c->token + s->c->text[output], *y = s->c->token + s->c->text[reference];
    int64_t length = corpus_length(s->c, output);
    for (int64_t i = 0; i < length; i++) to[i] = -1;
    memset(taken, 0, (size_t)corpus_length(s->c, reference) * sizeof *taken);
    match(s, output, reference, false, to, taken);
    match(s, output, reference, true, to, taken);
    for (int64_t i = 0, last = -1; i < length; i++) { /* last: of the matched token before */
        if (to[i] < 0) continue;
        add_match(&m, s, x[i], y[to[i]]);
        m.chunks += !(last >= 0 && last == i - 1 && to[i] == to[last] + 1);
        last = i;
    }
    return m;
}
