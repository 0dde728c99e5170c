/* tune: the subcommands of hlm-tune. Each reads its own flags (argv[0] is the subcommand's word)
 * and returns the exit code. */
#pragma once
int tune_info(int argc, char **argv);
int tune_merge(int argc, char **argv);
