/* hlm-tune: trains adapters, and reads, merges, exports and imports adapter
 * files. The first word chooses
 * the subcommand; each has its own flags. */
#include "tune.h"
#include "common.h"

#include <string.h>

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "info"))
        return tune_info(argc - 1, argv + 1);
    if (argc > 1 && !strcmp(argv[1], "merge"))
        return tune_merge(argc - 1, argv + 1);
    if (argc > 1 && !strcmp(argv[1], "export"))
        return tune_export(argc - 1, argv + 1);
    if (argc > 1 && !strcmp(argv[1], "import"))
        return tune_import(argc - 1, argv + 1);
    if (argc > 1 && !strcmp(argv[1], "plot"))
        return tune_plot(argc - 1, argv + 1);
    return tune_train(argc, argv);
}
