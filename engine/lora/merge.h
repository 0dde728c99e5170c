/* merge: adds adapters to the weights of a model file, W' = W + scale B A, without a device. The
 * call, hlm_merge(), is in hlm.h.
 *
 * The result is a new file, with all keys of the model and its tensors in their order. Tensors that
 * no adapter changes keep every byte. The others are quantised again, row by row; only the
 * adapters' factors are kept in memory. */
#pragma once
#include "base/base.h"
