/* Readers of what belongs to heads and labels: each gets the path of a damaged input in the folder
 * of the fuzz driver, answers with a status, and after a success has looked at all that it read. */
#ifndef MPILORA_TESTS_FUZZ_HEADS_H
#define MPILORA_TESTS_FUZZ_HEADS_H

#include "mpilora/base.h"

/* A directory of a model with a head, by way of `out`: what its base file says of the head is what
 * the model's tensors are, and of the classes' names. */
ml_status read_headed_model(const char *path, const char *out);
/* An adapter with a head for a base. */
ml_status read_headed_adapter(const char *path, const char *base);
/* A directory of sentence-transformers, by way of `out`: pooling, prompt and length. */
ml_status read_sentence_directory(const char *path, const char *out);
/* `score --task` of a file of predictions. */
ml_status read_predictions(const char *path);

#endif
