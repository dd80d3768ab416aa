/* Exact match. */
#include "score/characters.h"
#include "score/set.h"

/* The text with one blank for every run of them and none at its ends. */
static ml_status plain(ml_text *out, const char *text, int64_t length, bool ignore_case)
{
    ml_status st = ML_OK;
    int size = 0;
    bool gap = false;
    out->length = 0;
    trim(&text, &length);
    for (int64_t at = 0; at < length; at += size) {
        bool blank = is_blank(utf8_at(text, at, &size));
        if (!blank && gap) ML_TRY(ml_text_add(out, " ", 1));
        if (!blank && ignore_case) ML_TRY(add_lower(out, text + at, size));
        if (!blank && !ignore_case) ML_TRY(ml_text_add(out, text + at, size));
        gap = blank;
    }
done:
    return st;
}

ml_status ml_score_exact(const ml_score_set *set, bool ignore_case, double *out)
{
    ml_status st = ML_OK;
    ml_text output = {0}, reference = {0};
    int64_t right = 0, length;
    ML_TRY(score_set_check(set));
    for (int64_t i = 0; i < set->items; i++) {
        bool same = false;
        const char *text = score_set_text(set, set->item[i], &length);
        ML_TRY(plain(&output, text, length, ignore_case));
        for (int64_t t = set->item[i] + 1; t < set->item[i + 1] && !same; t++) {
            text = score_set_text(set, t, &length);
            ML_TRY(plain(&reference, text, length, ignore_case));
            same =
                output.length == reference.length &&
                (output.length == 0 || !memcmp(output.data, reference.data, (size_t)output.length));
        }
        right += same;
    }
    *out = (double)right / (double)set->items;
done:
    ml_text_destroy(&output);
    ml_text_destroy(&reference);
    return st;
}
