/* What the files that open a session give each other. */
#ifndef MPILORA_SESSION_SESSION_PRIVATE_H
#define MPILORA_SESSION_SESSION_PRIVATE_H

#include "session/session.h"

/* sources.c. share_data: what another run of the job has open is not read and hashed once more.
 * open_data: the files of data.train, with `training`, and of data.valid, where they are not open;
 * collective over the world, and agreed on. prepare_data: they are checked and cut, and s->tokens
 * is known; make_room_for_virtual: data.valid once more, where it was cut before it was known that
 * an adapter has virtual tokens. Local. ML_USAGE, ML_INPUT, ML_RESOURCE. */
void ml_session_share_data(session *s, session *const *others, int64_t count);
ml_status ml_session_open_data(session *s, bool training) ML_NODISCARD;
ml_status ml_session_prepare_data(session *s) ML_NODISCARD;
ml_status ml_session_make_room_for_virtual(session *s) ML_NODISCARD;
void ml_session_close_data(session *s);

/* objective.c: s->config with an objective, which the data choose where none was given, that the
 * base, the grid and the methods know. Local. ML_USAGE, ML_INPUT. */
ml_status ml_session_choose_objective(session *s, bool training) ML_NODISCARD;

#endif
