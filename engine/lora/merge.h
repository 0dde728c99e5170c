/* merge: puts adapters into a model file for good, W' = W + scale B A, without a device. The call,
 * hlm_merge(), is in hlm.h; nothing else of merge.c is visible outside.
 *
 * The result is a file of its own, with all of the model's keys, and its tensors in their order.
 * Tensors that no adapter reaches keep every byte. The others are quantised again, row by row; only
 * the adapters' factors are held in memory. */
#pragma once
#include "base/base.h"
