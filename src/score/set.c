/* A set holds outputs, each with its references; all texts lie one after the other in one buffer.
 */
#include "score/set.h"

#include <inttypes.h>

#include "score/characters.h"

ml_status ml_score_set_create(ml_score_set **out)
{
    ml_status st = ML_OK;
    ml_score_set *set = NULL;
    ML_NEW(set, 1, ML_MEM_OTHER, "a set of texts");
    set->text_capacity = set->item_capacity = 64;
    ML_NEW(set->text, set->text_capacity, ML_MEM_OTHER, "a set of texts");
    ML_NEW(set->item, set->item_capacity, ML_MEM_OTHER, "a set of texts");
    ML_TRY(ml_text_add(&set->bytes, "", 0)); /* so that there are bytes where every text is empty */
    *out = set;
done:
    if (st != ML_OK) ml_score_set_destroy(set);
    return st;
}

void ml_score_set_destroy(ml_score_set *set)
{
    if (!set) return;
    ml_text_destroy(&set->bytes);
    ml_memory_free(set->text);
    ml_memory_free(set->item);
    ml_memory_free(set);
}

static ml_status add_text(ml_score_set *set, const char *text, int64_t length)
{
    ml_status st = ML_OK;
    int64_t wrong = utf8_invalid(text, length);
    if (wrong >= 0)
        return ml_fail(ML_INPUT, "not valid UTF-8 at byte %" PRId64 " of the text", wrong + 1);
    ML_GROW(set->text, set->texts + 1, set->text_capacity, ML_MEM_OTHER, "a set of texts");
    ML_TRY(ml_text_add(&set->bytes, text, length));
    set->text[++set->texts] = set->bytes.length;
    set->item[set->items] = set->texts;
done:
    return st;
}

ml_status ml_score_set_add_output(ml_score_set *set, const char *text, int64_t length)
{
    ml_status st = ML_OK;
    ML_GROW(set->item, set->items + 1, set->item_capacity, ML_MEM_OTHER, "a set of texts");
    set->items++;
    st = add_text(set, text, length);
    if (st != ML_OK) set->items--;
done:
    return st;
}

ml_status ml_score_set_add_reference(ml_score_set *set, const char *text, int64_t length)
{
    if (set->items == 0) return ml_fail(ML_INTERNAL, "a reference before the first output");
    return add_text(set, text, length);
}

int64_t ml_score_set_items(const ml_score_set *set) { return set->items; }

int64_t ml_score_set_references(const ml_score_set *set) { return set->texts - set->items; }

ml_status score_set_check(const ml_score_set *set)
{
    if (set->items == 0)
        return ml_fail(ML_INPUT, "there is nothing to score: the set has no output");
    for (int64_t i = 0; i < set->items; i++)
        if (set->item[i + 1] - set->item[i] < 2)
            return ml_fail(ML_INPUT, "output %" PRId64 " has no reference", i + 1);
    return ML_OK;
}
