/* hlm-tune: adapters as files - what one is, and putting one into a model. Training is not there
 * yet. No subcommand needs a device. */
#include "tune.h"
#include "common.h"
#include "common_flags.h"

#include <string.h>

static const struct program program = {
    .name = "hlm-tune",
    .usage = "info ADAPTER.gguf | merge -m MODEL.gguf --lora ADAPTER.gguf -o OUT.gguf; each has"
             " --help",
    .about = "What LoRA adapters are, and models with adapters put into their weights.\n\n"
             "  info   what an adapter file holds\n"
             "  merge  writes a model file with adapters in it",
};

int main(int argc, char **argv)
{
    int rc;
    if (argc > 1 && !strcmp(argv[1], "info"))
        return tune_info(argc - 1, argv + 1);
    if (argc > 1 && !strcmp(argv[1], "merge"))
        return tune_merge(argc - 1, argv + 1);
    if (argc > 1 && argv[1][0] != '-')
        return usage_error(&program, "'%s' is no subcommand: there are info and merge", argv[1]);
    if (argc == 1)
        return usage_error(&program, "this version does not train: it tells what adapters are "
                                     "(info) and merges them (merge)");
    if (!flags_read(&program, argc, argv, &rc))
        return rc;
    return ui_end(usage_error(&program, "this version does not train: it tells what adapters are "
                                        "(info) and merges them (merge)"));
}
