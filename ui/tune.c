/* hlm-tune: trains adapters, and reads, merges, exports and imports adapter files. The first word
 * chooses the command; each has its own flags. */
#include "tune.h"
#include "common.h"

#include <string.h>

bool tune_has(const struct program *p, const struct tune_need *need, uint32_t n, int *rc)
{
    for (uint32_t i = 0; i < n; i++)
        if (!need[i].given) {
            *rc = usage_error(p, "no %s: give %s", need[i].what, need[i].how);
            return false;
        }
    return true;
}

void tune_wrote(const char *path, const struct hlm_peft_sum *sum, const char *more)
{
    ui_say("%s: adapters of %llu module%s, %s%s", path, (unsigned long long)sum->n_module,
           ui_s(sum->n_module), num_bytes(sum->bytes).s, more);
}

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
