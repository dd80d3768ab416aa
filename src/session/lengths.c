/* How long a sequence may be beside the virtual tokens that a method puts around it, and how much
 * of a micro-batch is this rank's. */
#include <inttypes.h>

#include "session/session_private.h"

static ml_status check_virtual(const ml_run_config *c, const ml_model_spec *spec, int64_t more)
{
    if (more < spec->context) return ML_OK;
    return ml_run_config_refuse(c, "method.prefix",
                                "with method.infix %" PRId64
                                " virtual tokens, but the context of %s is %" PRId64,
                                more, c->base, spec->context);
}

ml_status ml_session_find_length(const ml_run_config *c, const ml_model_spec *spec, int64_t more,
                                 int64_t *max_len)
{
    ml_status st = check_virtual(c, spec, more);
    if (st != ML_OK) return st;
    int64_t context = spec->context;
    *max_len = c->data.max_len ? c->data.max_len : context - more;
    if (*max_len <= context - more) return ML_OK;
    if (more == 0)
        return ml_run_config_refuse(c, "data.max_len",
                                    "%" PRId64 " is more than the context of %" PRId64
                                    " of %s; choose at most that",
                                    *max_len, context, c->base);
    return ml_run_config_refuse(
        c, "data.max_len",
        "%" PRId64 " and the %" PRId64
        " virtual tokens of method.prefix and method.infix are more than the context of %" PRId64
        " of %s; choose at most that together",
        *max_len, more, context, c->base);
}

ml_status ml_session_add_virtual(session *s, const ml_method_sizes *sizes)
{
    s->prefix = sizes->prefix;
    s->infix = sizes->infix;
    return check_virtual(s->config, s->spec, s->prefix + s->infix);
}

int64_t ml_session_own_tokens(const session *s)
{
    return ml_shares_tokens(ml_grid_cp(s->grid), ml_shares_unit(s->config), s->tokens,
                            s->config->batch.micro * ml_session_unit(s));
}
