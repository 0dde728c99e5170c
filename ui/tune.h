/* tune: hlm-tune's training and its subcommands. Each reads its own flags (argv[0] is the program
 * or the subcommand's word) and returns the exit code. */
#pragma once
int tune_train(int argc, char **argv);
int tune_info(int argc, char **argv);
int tune_merge(int argc, char **argv);
int tune_export(int argc, char **argv);
int tune_import(int argc, char **argv);
int tune_plot(int argc, char **argv);
