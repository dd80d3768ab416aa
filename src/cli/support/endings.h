/* endings: a command that a signal ends leaves no half-made file behind. */
#ifndef MPILORA_CLI_SUPPORT_ENDINGS_H
#define MPILORA_CLI_SUPPORT_ENDINGS_H

/* After this call SIGINT, SIGTERM and SIGHUP take away what io/unfinished.h notes, and then end the
 * process as they would have. What is ignored, or has a handler, stays so; `train` puts its own in
 * their place, which save. */
void endings_prepare(void);

#endif
