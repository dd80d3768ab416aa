/* Which tokens of a packed micro-batch a rank computes where several share them out: shares.c. */
#ifndef MPILORA_SESSION_SHARES_H
#define MPILORA_SESSION_SHARES_H

#include "mpilora/config.h"
#include "mpilora/grid.h"
#include "mpilora/model.h"

/* Room for the pieces that sequences are cut into. Without sharers all is NULL. */
typedef struct token_shares {
    int64_t *start, *shared, *query, *length, *key_sequence; /* [pieces], start one more */
    ml_row_runs *part;                                       /* [cp] */
    int *first, *rows;                                       /* [cp, 2·sequences] of the parts */
    int64_t sequences;
} token_shares;

ml_status ml_shares_create(token_shares *shares, int cp, int64_t sequences) ML_NODISCARD;
void ml_shares_destroy(token_shares *shares);
int64_t ml_shares_bytes(int cp, int64_t sequences); /* what create accounts for */

/* Tokens that stay together; those of a rank at most, of micro-batches of so many tokens and
 * sequences. */
int64_t ml_shares_unit(const ml_run_config *config);
int64_t ml_shares_tokens(int cp, int64_t unit, int64_t tokens, int64_t sequences);

/* Whether the configuration can share sequences out; and those the longest of which has so many
 * tokens. ML_USAGE naming what cannot, and what would fit. Local. */
ml_status ml_shares_check_config(const ml_run_config *config, const ml_model_spec *spec,
                                 bool training) ML_NODISCARD;
/* Ranks, at most, of such sequences. */
int64_t ml_shares_most(const ml_run_config *config, int64_t longest);
/* Whether they are shared out so among the ranks of dp replicas; what would fit is a number that
 * divides these. */
ml_status ml_shares_check_length(const ml_run_config *config, int dp, int64_t longest) ML_NODISCARD;

static inline ml_grid_shape ml_session_grid_shape(const ml_run_config *c)
{
    return (ml_grid_shape){(int)c->parallel.tp, (int)c->parallel.cp, (int)c->parallel.pp};
}

#endif
