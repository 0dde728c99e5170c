/* serial: likelihoods from the kernels of decoding. A model with caches reads a document in such
 * short pieces that no device takes the chunked recurrences. The results are the likelihoods of the
 * next token and, from the first draft block, of the token after that. */
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

/* Opens m with the adapters and gates in force. Call serial_close() even if this fails. */
bool serial_open(struct serial *s, const struct model *m, struct hlm_err *err);
void serial_close(struct serial *s);

/* Runs a document of n tokens, SERIAL_LONGEST at most, from an empty state. Writes the likelihoods
 * of the targets that mask counts (NULL: all), and nothing for the others. mtp NULL: not wanted. */
bool serial_document(struct serial *s, const int32_t *ids, const uint8_t *mask, uint32_t n,
                     double *nll, double *mtp, struct hlm_err *err);
