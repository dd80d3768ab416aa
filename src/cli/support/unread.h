/* Members of a file's lines of JSON that nothing is made of: they may be slips of the pen, so they
 * are named, once for the whole file. */
#ifndef MPILORA_CLI_SUPPORT_UNREAD_H
#define MPILORA_CLI_SUPPORT_UNREAD_H

#include <jansson.h>

#include "mpilora/base.h"

/* Notes what `line` has beside the members that are read of it, NULL behind the last. *names starts
 * as NULL and is the caller's, who ends it with json_decref. ML_RESOURCE. */
ml_status unread_note(json_t **names, const json_t *line, const char *const *read) ML_NODISCARD;
/* One warning; none where nothing was noted. `expected`: what a line is. ML_RESOURCE. */
ml_status unread_warn(const json_t *names, const char *path, const char *expected) ML_NODISCARD;

#endif
