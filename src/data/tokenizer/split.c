/* Spans to pieces. */
#include "data/tokenizer/split.h"

ml_status ml_split_behaviour_read(ml_split_behaviour *out, const char *name)
{
    static const char *const names[] = {[ML_SPLIT_REMOVED] = "Removed",
                                        [ML_SPLIT_ISOLATED] = "Isolated",
                                        [ML_SPLIT_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
                                        [ML_SPLIT_MERGED_WITH_NEXT] = "MergedWithNext",
                                        [ML_SPLIT_CONTIGUOUS] = "Contiguous"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        *out = (ml_split_behaviour)i;
        if (!strcmp(names[i], name)) return ML_OK;
    }
    return ml_fail(ML_INPUT, "the behaviour \"%s\" is not known", name);
}

/* Hands on what is held, and holds [start, end). */
static ml_status hold(ml_split *split, int64_t start, int64_t end)
{
    ml_piece held = ml_piece_part(&split->of, split->start, split->end);
    split->start = start;
    split->end = end;
    return held.length ? split->sink(split->context, &held) : ML_OK;
}

ml_status ml_split_span(ml_split *split, int64_t start, int64_t end, bool match)
{
    bool behind = split->behind_match, joins = false;
    split->behind_match = match;
    switch (split->behaviour) {
    case ML_SPLIT_REMOVED:
        return match ? hold(split, end, end) : hold(split, start, end);
    case ML_SPLIT_ISOLATED:
        break;
    case ML_SPLIT_CONTIGUOUS:
        joins = match == behind;
        break;
    case ML_SPLIT_MERGED_WITH_PREVIOUS:
        joins = match && !behind;
        break;
    case ML_SPLIT_MERGED_WITH_NEXT:
        joins = !match && behind;
        break;
    }
    if (!joins) return hold(split, start, end);
    split->end = end;
    return ML_OK;
}

ml_status ml_split_end(ml_split *split) { return hold(split, 0, 0); }
