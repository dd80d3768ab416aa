/* The usual table of lengths, one row of it at a time. */
#include "score/common_subsequence.h"

int64_t common_subsequence(const corpus *c, int64_t left, int64_t right, int64_t *row)
{
    const int32_t *a = c->token + c->text[left], *b = c->token + c->text[right];
    int64_t rows = corpus_length(c, left), columns = corpus_length(c, right);
    memset(row, 0, (size_t)(columns + 1) * sizeof *row);
    for (int64_t i = 0; i < rows; i++) {
        int64_t diagonal = 0; /* of the row above, one column to the left */
        for (int64_t j = 1; j <= columns; j++) {
            int64_t above = row[j];
            row[j] = a[i] == b[j - 1] ? diagonal + 1 : ml_max(above, row[j - 1]);
            diagonal = above;
        }
    }
    return row[columns];
}

int64_t *common_subsequence_row(const corpus *c, int64_t texts)
{
    int64_t longest = 0;
    for (int64_t t = 0; t < texts; t++) longest = ml_max(longest, corpus_length(c, t));
    return ml_memory_alloc(longest + 1, sizeof(int64_t), ML_MEM_OTHER, "a common subsequence");
}
