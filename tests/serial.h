/* serial: likelihoods by the kernels that decode - a model with caches, a document in pieces of so
 * few tokens that no device takes the chunked recurrences - of the next token and, by the model's
 * first draft block behind its trunk, of the one behind that. */
#pragma once
#include "model/model.h"
#include "test.h"

enum { SERIAL_PIECE = 32, SERIAL_LONGEST = 224 };

struct serial {
    struct gpu *g;
    bool draft;
    struct arena *mem, *scratch;
    struct cmd *cmd;
    struct kv kv;
    struct batch batch, next;
    tensor parts[2];
};

/* m with the adapters and gates that are in force. serial_close() also where this fails. */
bool serial_open(struct serial *s, const struct model *m, struct hlm_err *err);
void serial_close(struct serial *s);

/* A document of n tokens, SERIAL_LONGEST at most, from nothing: of every target that mask counts
 * (NULL: all), the rest is left alone. mtp NULL: not wanted. */
bool serial_document(struct serial *s, const int32_t *ids, const uint8_t *mask, uint32_t n,
                     double *nll, double *mtp, struct hlm_err *err);
