/* Null columns. What writes rows from tables, as the `datasets` library and Parquet do, gives every
 * row every column, and null where the row has none: null says that a column is absent. But a row
 * may also have lost a value that it needs, and without the column would be a row of another kind:
 * an answer whose label is null is no answer without a label. Such a null stays, and is refused by
 * whoever reads the row. Members of messages that are null are absent, too, as in transformers'
 * apply_chat_template; what lies deeper is left as it is. */
#include <string.h>

#include "data/rows.h"

enum { MOST_NAMES = 6 };

/* `key` is needed beside any of these, where the row has none of those `instead`. */
typedef struct need {
    const char *key, *beside[MOST_NAMES], *instead[MOST_NAMES];
} need;

static const need needs[] = {
    {"prompt", {"completion"}, {NULL}},
    {"completion", {"prompt"}, {"chosen", "rejected"}},
    {"chosen", {"rejected"}, {NULL}},
    {"rejected", {"chosen"}, {NULL}},
    {"label", {"completion", "completion_ids", "text", "text_a", "text_b"}, {"anchor"}},
    {"label", {"input_ids"}, {"labels", "token_labels"}},
    {"labels", {"input_ids"}, {"label", "token_labels"}},
    {"token_labels", {"input_ids"}, {"label", "labels"}},
    {"text", {"label"}, {"completion", "text_a", "text_b", "chosen", "rejected", "input_ids"}},
    {"text_a", {"text_b"}, {NULL}},
    {"text_b", {"text_a"}, {NULL}},
    {"anchor", {"positive", "negative"}, {NULL}},
    {"positive", {"anchor"}, {NULL}},
    {"prompt_ids", {"completion_ids", "chosen_ids", "rejected_ids"}, {NULL}},
    {"completion_ids", {"prompt_ids"}, {"chosen_ids", "rejected_ids"}},
    {"chosen_ids", {"rejected_ids"}, {NULL}},
    {"rejected_ids", {"chosen_ids"}, {NULL}},
    {"anchor_ids", {"positive_ids", "negative_ids"}, {NULL}},
    {"positive_ids", {"anchor_ids"}, {NULL}},
};

static bool has_any(const json_t *row, const char *const names[MOST_NAMES])
{
    for (int i = 0; i < MOST_NAMES && names[i]; i++) {
        const json_t *value = json_object_get(row, names[i]);
        if (value && !json_is_null(value)) return true;
    }
    return false;
}

/* Two texts without a prompt have what they begin with for one: where it is null it may as well be
 * lost, and the answers' own first words would be taken for it. Lists of messages say by their
 * roles where answers begin. */
static bool is_prompt_of_texts(const json_t *row, const char *key)
{
    return !strcmp(key, "prompt") && (json_is_string(json_object_get(row, "chosen")) ||
                                      json_is_string(json_object_get(row, "rejected")));
}

static bool is_needed(const json_t *row, const char *key)
{
    for (size_t i = 0; i < sizeof needs / sizeof *needs; i++)
        if (!strcmp(needs[i].key, key) && has_any(row, needs[i].beside) &&
            !has_any(row, needs[i].instead))
            return true;
    return is_prompt_of_texts(row, key);
}

static void tidy_messages(json_t *list)
{
    size_t i;
    json_t *message, *value;
    const char *key;
    void *next;
    json_array_foreach(list, i, message)
    {
        json_object_foreach_safe(message, next, key, value)
        {
            if (json_is_null(value)) json_object_del(message, key);
        }
    }
}

void ml_row_drop_nulls(json_t *row)
{
    static const char *const lists[] = {"messages",   "conversations", "prompt",
                                        "completion", "chosen",        "rejected"};
    const char *key;
    json_t *value;
    void *next;
    /* What a column is needed for is told by those that have a value, which all stay. */
    json_object_foreach_safe(row, next, key, value)
    {
        if (json_is_null(value) && !is_needed(row, key)) json_object_del(row, key);
    }
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        tidy_messages(json_object_get(row, lists[i]));
}
