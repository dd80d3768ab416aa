/* stages: a model whose layers lie one after the other on the stages of a pipeline.
 *
 * Every rank has the structure of the whole model, so that lists of tensors and hooks are the same
 * on all of them, but weights and trained tensors of its own stage alone: of the others it holds
 * no rows. The first stage embeds, the last one has the norm behind the layers and the head; a tied
 * head's weight lies on both, and the rows of distances of relative positions, which all layers
 * read, on every one. Between two stages goes the residual stream as it is computed, fp32,
 * and back its gradient.
 *
 * Letters: P stages, L layers, T tokens of a micro-batch, d width.
 */
#ifndef MPILORA_STAGES_H
#define MPILORA_STAGES_H

#include "mpilora/model.h"

ML_BEGIN_DECLS

/* Layers [first, end) of a stage. The multiplications of a token are counted, which products and
 * gradients are proportional to: a layer's, and those of the head, which are as many as several
 * layers' where the vocabulary is large. The last stage has at least one layer; of equally good
 * divisions the one with most layers at the end is taken, since early stages keep more
 * activations.
 * Shapes: layers.
 * Ownership: all borrowed.
 * Local.
 * Errors: none; pp is one that ml_stages_check lets pass. */
void ml_stages_layers(const ml_model_spec *spec, int pp, int stage, int64_t *first, int64_t *end);

/* Whether the model can be divided into so many stages.
 * Shapes: none.
 * Ownership: borrows `spec`.
 * Local.
 * Errors: ML_USAGE where there are more stages than layers, with what would fit. */
ml_status ml_stages_check(const ml_model_spec *spec, int pp) ML_NODISCARD;

/* Right after ml_model_create: this rank has the layers of one stage, and room for `in_flight`
 * micro-batches between their forward and their backward. `grid`: whose pipe passes without a
 * gradient of their own go through; NULL where only sizes are asked for.
 * Shapes: none.
 * Ownership: borrows `model`, and `grid` as long as it.
 * Local.
 * Errors: ML_RESOURCE. */
ml_status ml_model_hold_stage(ml_model *model, const ml_grid *grid, int pp, int stage,
                              int64_t in_flight) ML_NODISCARD;

/* Before ml_model_reserve: room for another number of micro-batches between their forward and their
 * backward.
 * Shapes: none.
 * Ownership: borrows `model`.
 * Local.
 * Errors: none. */
void ml_model_keep_in_flight(ml_model *model, int64_t in_flight);

/* The layers [first, end) that this rank has.
 * Shapes: layers.
 * Ownership: all borrowed.
 * Local.
 * Errors: none. */
void ml_model_stage_layers(const ml_model *model, int64_t *first, int64_t *end);

/* Which stages hold a trained tensor, by its name: *first, and *also, which is another one where
 * both ends of the pipe hold it, ML_STAGE_EVERY where all do.
 * Shapes: stages.
 * Ownership: all borrowed.
 * Local.
 * Errors: none. */
void ml_model_stages_of(const ml_model *model, const char *tensor, int *first, int *also);

/* The residual stream [T, d] as the stage's forward takes it and leaves it, and its gradient as
 * backward does.
 * Shapes: fp32, T · d of the tokens that ml_model_reserve made room for.
 * Ownership: the model's.
 * Local.
 * Errors: none. */
float *ml_model_stream(ml_model *model);

/* The place, of `in_flight` ones, where a micro-batch keeps what backward needs.
 * Shapes: 0 … in_flight − 1.
 * Ownership: borrows `model`.
 * Local.
 * Errors: none. */
void ml_model_choose_place(ml_model *model, int64_t place);

/* The stage's layers, of a stage that is not the last: that one's pass is ml_model_loss, or
 * another, with the stream in its place. Backward comes with the batch of the forward.
 * Shapes: as ml_model_stream says.
 * Ownership: all borrowed.
 * Collective over tp.
 * Errors: none. */
void ml_model_stage_forward(ml_model *model, const ml_batch *batch, bool backward);
void ml_model_stage_backward(ml_model *model, const ml_batch *batch);

/* Stages of the pipeline that the model lies on, 1: there is none; and which of them it is.
 * Shapes: none.
 * Ownership: borrows `model`.
 * Local.
 * Errors: none. */
int ml_model_stages(const ml_model *model);
int ml_model_stage(const ml_model *model);

/* Logits of a pass of ml_model_prefill or ml_model_decode, which the last stage has, for all
 * stages: it tells them right behind the pass and goes on; each takes them when it needs them, in
 * the order in which they were told. Between the two calls of a place the logits stay as they are.
 * Nothing happens where there is one stage.
 * Shapes: logits[rows, V]; place: 0 … P − 1.
 * Ownership: all borrowed.
 * Collective over the pipe.
 * Errors: none. */
void ml_model_tell_logits(const ml_model *model, int place, const float *logits, int64_t rows);
void ml_model_take_logits(const ml_model *model, int place, float *logits, int64_t rows);

/* Whether the stage goes back at all, and whether the one before it does: where nothing trains so
 * far down, no gradient is asked for.
 * Shapes: none.
 * Ownership: borrows `model`.
 * Local.
 * Errors: none. */
bool ml_model_stage_goes_back(const ml_model *model);
bool ml_model_stage_gives_gradient(const ml_model *model);

ML_END_DECLS

#endif
