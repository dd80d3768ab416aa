/* METEOR's list of function words: the file that its release calls function.words, a word a line.
 * Any other text would be read as words that no text has, and METEOR be computed without a list. */
#include "mpilora/score.h"

#include "score/characters.h"
#include "score/text_lines.h"

/* Of text that is no blank and no control character from end to end. */
static bool is_word(const char *text, int64_t length)
{
    int size = 0;
    for (int64_t at = 0; at < length; at += size) {
        int32_t c = utf8_at(text, at, &size);
        if (is_blank(c) || c < 0x20 || c == 0x7f) return false;
    }
    return true;
}

static ml_status add_word(ml_text *words, const char *line, int64_t length)
{
    if (utf8_invalid(line, length) >= 0) return ml_fail(ML_INPUT, "is no UTF-8");
    trim(&line, &length);
    if (length == 0) return ML_OK;
    if (!is_word(line, length)) return ml_fail(ML_INPUT, "is more than a word");
    ml_status st = add_lower(words, line, length);
    return st == ML_OK ? ml_text_add(words, "\n", 1) : st;
}

ml_status ml_score_read_function_words(char **words, const char *path)
{
    ml_status st = ML_OK;
    text_lines file = {0};
    ml_text found = {0};
    const char *line;
    int64_t length;
    ML_TRY(text_lines_open(&file, path));
    while (text_lines_next(&file, &line, &length)) {
        st = add_word(&found, line, length);
        if (st == ML_OK) continue;
        st = ml_fail_within(st, "%s: METEOR's list is a word a line: line %lld", path,
                            (long long)file.number);
        goto done;
    }
    if (found.length == 0) {
        st = ml_fail(ML_INPUT, "%s: METEOR's list is a word a line: there is no word in it", path);
        goto done;
    }
    *words = found.data;
    found = (ml_text){0};
done:
    text_lines_close(&file);
    ml_text_destroy(&found);
    return st;
}
