/* embed: writes SPIR-V modules as one C file with the table of gpu/shaders.h.
 *
 *     embed OUT.c A.spv B.spv ...
 *
 * A module is named after its file. Plain C arrays: no assembler, no xxd, any compiler. Two modules
 * of one name, and files that are not SPIR-V, are refused. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct module {
    const char *path;
    char name[128];
    unsigned long n_bytes;
};

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct module *)a)->name, ((const struct module *)b)->name);
}

static int bad(const char *path, const char *why)
{
    fprintf(stderr, "embed: %s: %s\n", path, why);
    return 0;
}

static int set_name(struct module *m, const char *path)
{
    const char *base = strrchr(path, '/');
    base = base ? base + 1 : path;
    size_t n = strcspn(base, ".");
    if (n == 0 || n >= sizeof m->name)
        return bad(path, "no fit name");
    m->path = path;
    memcpy(m->name, base, n);
    m->name[n] = '\0';
    return 1;
}

/* Words are little-endian in the file and numbers in the output. */
static int put_words(FILE *out, struct module *m, int i_module)
{
    FILE *in = fopen(m->path, "rb");
    if (!in)
        return bad(m->path, "cannot open");
    fprintf(out, "static const uint32_t m%d[] = { /* %s */", i_module, m->name);
    unsigned char b[4];
    size_t got;
    uint32_t first = 0;
    while ((got = fread(b, 1, 4, in)) == 4) {
        uint32_t w = b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
        if (m->n_bytes == 0)
            first = w;
        fprintf(out, "%s0x%lx,", m->n_bytes % 40 ? " " : "\n", (unsigned long)w);
        m->n_bytes += 4;
    }
    fclose(in);
    fprintf(out, "\n};\n\n");
    return got == 0 && first == 0x07230203 ? 1 : bad(m->path, "is not a SPIR-V module");
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: embed OUT.c A.spv ...\n");
        return 2;
    }
    int n = argc - 2;
    struct module *m = calloc((size_t)n + 1, sizeof *m);
    FILE *out = m ? fopen(argv[1], "w") : NULL;
    if (!out)
        return !bad(argv[1], "cannot write");
    int ok = 1;
    for (int i = 0; i < n && ok; i++)
        ok = set_name(&m[i], argv[i + 2]);
    qsort(m, (size_t)n, sizeof *m, by_name);
    fprintf(out, "/* written by tools/embed.c */\n#include \"gpu/shaders.h\"\n\n");
    for (int i = 0; i < n && ok; i++)
        if (i > 0 && strcmp(m[i].name, m[i - 1].name) == 0)
            ok = bad(m[i].path, "a second module of this name");
        else
            ok = put_words(out, &m[i], i);
    fprintf(out, "const struct shader_blob hlm_shaders[] = {\n");
    for (int i = 0; i < n; i++)
        fprintf(out, "    { \"%s\", m%d, %lu },\n", m[i].name, i, m[i].n_bytes);
    fprintf(out, "    { 0, 0, 0 }\n};\nconst uint32_t hlm_n_shaders = %d;\n", n);
    if (fclose(out) != 0)
        ok = bad(argv[1], "cannot write");
    if (!ok)
        remove(argv[1]);
    free(m);
    return !ok;
}
