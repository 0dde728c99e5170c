/* monitor_fake: synthetic runs of known content, for tests of the monitor and of its panels. All go
 * the way of real ones, by samples or lines of a log, and are freed with run_destroy. Each ends at
 * FAKE_CLOCK_S, to be given to run_tick. */
#pragma once
#include "monitor/run.h"

#define FAKE_CLOCK_S 5000.0

/* hlm-chat with a dense hybrid model, one sample every quarter of a second: one of rest, then 5 s
 * in which it reads 2048 tokens (FAKE_READ_S a second), then 25 s in which it makes tokens,
 * FAKE_GEN_S a second. It is at it still. */
#define FAKE_READ_S 409.6
#define FAKE_GEN_S 20.0
struct run *fake_chat(void);

/* A log of hlm-tune, of n_step steps of one second, that has not ended. Variant 0, 1, 2 ... differ
 * in their rate and rank (settings --lr, --rank), and in the loss. Every 20 steps a validation, a
 * sample answer to "Who are you?", every 40 a checkpoint. */
struct run *fake_train(uint32_t n_step, uint32_t variant);
double fake_loss(uint32_t step, uint32_t variant);  /* of each step, from 1 */
double fake_valid(uint32_t step, uint32_t variant); /* falls to step 120, then rises */
double fake_rate(uint32_t step, uint32_t variant);
double fake_norm(uint32_t step); /* every 17th is above the clip norm, 1 */

/* hlm-chat with a mixture model, kernels timed and layers told: FAKE_LAYERS layers, every fourth of
 * attention, the others recurrent, all with FAKE_EXPERTS experts. */
enum { FAKE_LAYERS = 24, FAKE_EXPERTS = 64, FAKE_KERNELS = 14 };
struct run *fake_mixture(void);
uint8_t fake_bar(uint32_t layer, uint32_t expert); /* 0: never chosen, as some of layer 5 are */

struct run *fake_idle(void);  /* a process that has loaded and rests */
struct run *fake_ended(void); /* fake_chat, ended */
struct run *fake_died(void);  /* fake_chat, killed */
/* A ring that holds whatever splitmix64 makes of the seed: n samples. */
struct run *fake_lying(uint64_t seed, uint32_t n);
