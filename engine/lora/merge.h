/* merge: hlm_merge() puts adapters into a model file for good, W' = W + scale B A, without a
 * device. The call is in hlm.h; nothing else of merge.c is seen from outside.
 *
 * The result is a file of its own: the model's keys as they are, its tensors in their order, and of
 * tensors that no adapter reaches every byte. What is reached is quantised again, row by row; only
 * the factors are held in memory. */
#pragma once
#include "base/base.h"
