/* make: a model with random weights and true dimensions (hlm-bench make). */
#pragma once

/* argv[0] is "make". Returns the program's exit code. */
int bench_make(int argc, char **argv);
