/* unfinished: files and directories that are being made. A signal that ends the process in between
 * would leave them behind, under names that nobody looks for: a program's handler takes them away.
 * Local; thread-safe; an internal module. */
#ifndef MPILORA_IO_UNFINISHED_H
#define MPILORA_IO_UNFINISHED_H

/* Before something is made under this name, and once it is renamed, removed or whole. Names beyond
 * a few dozen at a time are not noted: they stay, as all did before. */
void ml_unfinished_begin(const char *path);
void ml_unfinished_end(const char *path); /* one that was never begun is fine */

/* Takes away all that is noted, directories where they are empty then. Only in the process that
 * noted it, not in a child. For signal handlers, too. */
void ml_unfinished_remove(void);

#endif
