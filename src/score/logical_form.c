/* Logical form: whether two queries of WikiSQL's kind ask for the same, however they are spelled.
 *
 *   SELECT [MAX|MIN|COUNT|SUM|AVG (] column [)] FROM name [WHERE column =|>|< value {AND …}]
 *
 * Keywords are of any case. A column stands in double quotes, a value in single ones, where a quote
 * inside is doubled; a value may also be one word without quotes. Conditions are a set, values are
 * compared in lower case, as WikiSQL's own evaluation compares them. */
#include <inttypes.h>

#include "score/characters.h"
#include "score/set.h"

enum { MOST_CONDITIONS = 32 };

static const char *const aggregates[] = {"MAX", "MIN", "COUNT", "SUM", "AVG", NULL};

typedef struct query {
    int aggregate; /* −1: none */
    ml_text column;
    int64_t conditions;
    ml_text condition[MOST_CONDITIONS]; /* column, zero, operator, value in lower case */
} query;

typedef struct reader {
    const char *at, *end;
} reader;

static void destroy(query *q)
{
    ml_text_destroy(&q->column);
    for (int64_t i = 0; i < MOST_CONDITIONS; i++) ml_text_destroy(&q->condition[i]);
}

static void skip_blanks(reader *r)
{
    int size = 0;
    while (r->at < r->end && is_blank(utf8_at(r->at, 0, &size))) r->at += size;
}

static bool take_letter(reader *r, char letter)
{
    skip_blanks(r);
    if (r->at == r->end || *r->at != letter) return false;
    r->at++;
    return true;
}

static bool is_letter(char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); }

/* A keyword of any case, behind which no letter stands. */
static bool take_word(reader *r, const char *word)
{
    int64_t n = (int64_t)strlen(word);
    skip_blanks(r);
    if (r->end - r->at < n || strncasecmp(r->at, word, (size_t)n) != 0) return false;
    if (r->end - r->at > n && is_letter(r->at[n])) return false;
    r->at += n;
    return true;
}

/* What stands between two of these quotes, appended; *found false where no whole one is there. */
static ml_status take_quoted(reader *r, char quote, ml_text *out, bool *found)
{
    ml_status st = ML_OK;
    const reader start = *r;
    *found = false;
    if (!take_letter(r, quote)) return ML_OK;
    while (r->at < r->end) {
        bool is_quote = *r->at == quote;
        if (is_quote && (r->at + 1 == r->end || r->at[1] != quote)) {
            r->at++;
            *found = true;
            return ML_OK;
        }
        r->at += is_quote; /* of a doubled one the second */
        ML_TRY(ml_text_add(out, r->at++, 1));
    }
    *r = start;
done:
    return st;
}

/* In quotes, or up to the next blank. */
static ml_status take_value(reader *r, ml_text *out, bool *found)
{
    ml_status st = take_quoted(r, '\'', out, found);
    int size = 0;
    if (st != ML_OK || *found) return st;
    skip_blanks(r);
    const char *from = r->at;
    while (r->at < r->end && !is_blank(utf8_at(r->at, 0, &size))) r->at += size;
    *found = r->at > from && *from != '\'';
    return *found ? ml_text_add(out, from, r->at - from) : ML_OK;
}

static ml_status take_condition(reader *r, ml_text *out, bool *found)
{
    static const char operators[] = "=><";
    ml_status st = ML_OK;
    ml_text value = {0};
    ML_TRY(take_quoted(r, '"', out, found));
    if (!*found) goto done;
    skip_blanks(r);
    *found = r->at < r->end && *r->at && strchr(operators, *r->at);
    if (!*found) goto done;
    ML_TRY(ml_text_add(out, "", 1));
    ML_TRY(ml_text_add(out, r->at++, 1));
    ML_TRY(take_value(r, &value, found));
    if (*found) ML_TRY(add_lower(out, value.data ? value.data : "", value.length));
done:
    ml_text_destroy(&value);
    return st;
}

/* Conditions up to the end; `found`: that nothing else stands there. */
static ml_status take_conditions(reader *r, query *q, bool *found)
{
    ml_status st = ML_OK;
    do {
        *found = q->conditions < MOST_CONDITIONS;
        if (!*found) return ML_OK;
        ML_TRY(take_condition(r, &q->condition[q->conditions++], found));
    } while (*found && take_word(r, "AND"));
done:
    return st;
}

/* *found false where the text is no such query. */
static ml_status read_query(const char *text, int64_t length, query *q, bool *found)
{
    ml_status st = ML_OK;
    reader r = {text, text + length};
    *found = take_word(&r, "SELECT");
    if (!*found) return ML_OK;
    q->aggregate = -1;
    for (int i = 0; aggregates[i] && q->aggregate < 0; i++)
        if (take_word(&r, aggregates[i])) q->aggregate = i;
    bool open = q->aggregate >= 0 && take_letter(&r, '(');
    ML_TRY(take_quoted(&r, '"', &q->column, found));
    *found = *found && (!open || take_letter(&r, ')')) && take_word(&r, "FROM");
    if (!*found) return ML_OK;
    skip_blanks(&r);
    const char *name = r.at;
    while (r.at < r.end && (is_letter(*r.at) || *r.at == '_' || (*r.at >= '0' && *r.at <= '9')))
        r.at++;
    *found = r.at > name;
    if (*found && take_word(&r, "WHERE")) ML_TRY(take_conditions(&r, q, found));
    skip_blanks(&r);
    *found = *found && r.at == r.end;
done:
    return st;
}

static bool same_text(const ml_text *a, const ml_text *b)
{
    return a->length == b->length &&
           (a->length == 0 || !memcmp(a->data, b->data, (size_t)a->length));
}

static bool has_all(const query *of, const query *in)
{
    for (int64_t i = 0; i < of->conditions; i++) {
        bool found = false;
        for (int64_t j = 0; j < in->conditions && !found; j++)
            found = same_text(&of->condition[i], &in->condition[j]);
        if (!found) return false;
    }
    return true;
}

static bool same_query(const query *a, const query *b)
{
    return a->aggregate == b->aggregate && same_text(&a->column, &b->column) && has_all(a, b) &&
           has_all(b, a);
}

/* Whether an output asks for the same as one of its references. */
static ml_status judge(const ml_score_set *set, int64_t item, bool *right)
{
    ml_status st = ML_OK;
    query output = {0}, reference = {0};
    int64_t length;
    bool reads, known;
    const char *text = score_set_text(set, set->item[item], &length);
    ML_TRY(read_query(text, length, &output, &reads));
    *right = false;
    for (int64_t t = set->item[item] + 1; t < set->item[item + 1]; t++) {
        text = score_set_text(set, t, &length);
        destroy(&reference);
        reference = (query){0};
        ML_TRY(read_query(text, length, &reference, &known));
        if (!known) {
            st = ml_fail(ML_INPUT,
                         "item %" PRId64 ": the reference \"%.*s\" is no query: expected SELECT "
                         "[MAX|MIN|COUNT|SUM|AVG](\"column\") FROM table [WHERE \"column\" =|>|< "
                         "'value' AND …]",
                         item + 1, (int)ml_min(length, 120), text);
            goto done;
        }
        *right = *right || (reads && same_query(&output, &reference));
    }
done:
    destroy(&output);
    destroy(&reference);
    return st;
}

ml_status ml_score_logical_form(const ml_score_set *set, double *out)
{
    ml_status st = ML_OK;
    int64_t sum = 0;
    ML_TRY(score_set_check(set));
    for (int64_t i = 0; i < set->items; i++) {
        bool right;
        ML_TRY(judge(set, i, &right));
        sum += right;
    }
    *out = (double)sum / (double)set->items;
done:
    return st;
}
