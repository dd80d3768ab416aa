/* mpilora: every public header of the library. */
#ifndef MPILORA_MPILORA_H
#define MPILORA_MPILORA_H

#include "mpilora/analyze.h"
#include "mpilora/bank.h"
#include "mpilora/base.h"
#include "mpilora/chat.h"
#include "mpilora/checkpoint.h"
#include "mpilora/config.h"
#include "mpilora/data.h"
#include "mpilora/evaluate.h"
#include "mpilora/export.h"
#include "mpilora/family.h"
#include "mpilora/generate.h"
#include "mpilora/grid.h"
#include "mpilora/import.h"
#include "mpilora/inspect.h"
#include "mpilora/kernels.h"
#include "mpilora/linear.h"
#include "mpilora/merge.h"
#include "mpilora/model.h"
#include "mpilora/optim.h"
#include "mpilora/peft.h"
#include "mpilora/plan.h"
#include "mpilora/rope.h"
#include "mpilora/score.h"
#include "mpilora/shard.h"
#include "mpilora/store.h"
#include "mpilora/train.h"
#include "mpilora/trial.h"
#include "mpilora/version.h"

#endif
