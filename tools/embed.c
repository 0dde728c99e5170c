/* embed: checks SPIR-V modules against what C says of their kernels and writes them as one C file
 * with the table of gpu/shaders.h.
 *
 *     embed OUT.c A.spv B.spv ...
 *
 * A module belongs to the kernel that its file is named after. Its bindings and its specialization
 * constants are read from it and written into the table. What would let C and GLSL disagree stops
 * the build: two modules of one kernel, a module without a row in kernels.def, a gap in its
 * bindings, push constants that are not the row's struct of push.h, a specialization constant whose
 * name is not that of its id in spec.def.
 *
 * Plain C arrays: no assembler, no xxd, any compiler. Numbers of instructions, decorations and
 * storage classes are from the SPIR-V specification 1.6, section 3. */
#include <ctype.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shaders/push.h"

static const struct kernel_row {
    const char *name, *push;
    uint32_t push_bytes;
} rows[] = {
#define KERNEL(name, push) { #name, #push, sizeof(struct push) },
#include "engine/gpu/kernels.def"
#undef KERNEL
};
static const char *const constants[] = {
#define CONSTANT(id, name) [id] = #name,
#include "shaders/spec.def"
#undef CONSTANT
};
enum {
    N_ROW = sizeof rows / sizeof rows[0],
    N_CONSTANT = sizeof constants / sizeof constants[0],
    MAX_BINDING = 32
};
_Static_assert(N_CONSTANT <= 64, "the table has a bit for each constant");

/* What is known of one result id; 0: the module does not say. */
struct spirv_id {
    uint32_t def;                /* place of the type, constant or variable */
    uint32_t name;               /* place of its first OpName */
    uint32_t spec, binding, set; /* decorations, plus 1 */
};

struct module {
    const char *path;
    const struct kernel_row *row;
    uint32_t *word, n_word;
    struct spirv_id *result;
    uint32_t n_result;
    uint32_t n_bind;
    uint64_t constants, sizes; /* as in struct shader */
};

static bool bad(const char *path, const char *why)
{
    fprintf(stderr, "embed: %s: %s\n", path, why);
    return false;
}

/* ---- reading a module ------------------------------------------------------------------------ */

enum { HEADER_WORDS = 5, MAGIC = 0x07230203, MAX_ID = 1 << 22 };
enum {
    OP_NAME = 5,
    OP_TYPE_INT = 21,
    OP_TYPE_FLOAT = 22,
    OP_TYPE_STRUCT = 30,
    OP_TYPE_POINTER = 32,
    OP_SPEC_CONSTANT_TRUE = 48,
    OP_SPEC_CONSTANT_FALSE = 49,
    OP_SPEC_CONSTANT = 50,
    OP_FUNCTION = 54,
    OP_VARIABLE = 59,
    OP_DECORATE = 71,
    OP_MEMBER_DECORATE = 72
};
enum { SPEC_ID = 1, BINDING = 33, DESCRIPTOR_SET = 34, OFFSET = 35 };
enum { PUSH_CONSTANT = 9, STORAGE_BUFFER = 12 };

static uint32_t op(const struct module *m, uint32_t at) { return m->word[at] & 0xffff; }
static uint32_t length(const struct module *m, uint32_t at) { return m->word[at] >> 16; }

/* Words are little-endian in the file. */
static bool read_words(struct module *m)
{
    FILE *in = fopen(m->path, "rb");
    unsigned char b[4];
    size_t got = 0, cap = 0;
    if (!in)
        return bad(m->path, "cannot open");
    while ((got = fread(b, 1, 4, in)) == 4) {
        if (m->n_word == cap) {
            uint32_t *more = realloc(m->word, (cap = 2 * cap + 4096) * sizeof *more);
            if (!more)
                break;
            m->word = more;
        }
        m->word[m->n_word++] =
            b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
    }
    fclose(in);
    if (got == 4)
        return bad(m->path, "out of memory");
    if (got || m->n_word < HEADER_WORDS || m->word[0] != MAGIC || m->word[3] > MAX_ID)
        return bad(m->path, "is not a SPIR-V module");
    for (uint32_t at = HEADER_WORDS; at < m->n_word; at += length(m, at))
        if (length(m, at) == 0 || length(m, at) > m->n_word - at)
            return bad(m->path, "is not a whole SPIR-V module");
    return true;
}

/* Where the instruction puts its result; 0: it is none that matters here. */
static uint32_t result_word(uint32_t code)
{
    switch (code) {
    case OP_TYPE_INT:
    case OP_TYPE_FLOAT:
    case OP_TYPE_STRUCT:
    case OP_TYPE_POINTER: return 1;
    case OP_SPEC_CONSTANT:
    case OP_SPEC_CONSTANT_TRUE:
    case OP_SPEC_CONSTANT_FALSE:
    case OP_VARIABLE: return 2;
    default: return 0;
    }
}

static void read_result(struct module *m, uint32_t at)
{
    const uint32_t *w = &m->word[at];
    uint32_t n = length(m, at), i_result = result_word(op(m, at));
    uint32_t id = i_result && i_result < n ? w[i_result] : n > 1 ? w[1] : 0;
    struct spirv_id *r = &m->result[id < m->n_result ? id : 0];
    if (i_result)
        r->def = at;
    else if (op(m, at) == OP_NAME && n > 2)
        r->name = r->name ? r->name : at;
    else if (op(m, at) == OP_DECORATE && n == 4 && w[2] == SPEC_ID)
        r->spec = w[3] + 1;
    else if (op(m, at) == OP_DECORATE && n == 4 && w[2] == BINDING)
        r->binding = w[3] + 1;
    else if (op(m, at) == OP_DECORATE && n == 4 && w[2] == DESCRIPTOR_SET)
        r->set = w[3] + 1;
}

static bool read_results(struct module *m)
{
    m->n_result = m->word[3];
    m->result = calloc((size_t)m->n_result + 1, sizeof *m->result);
    if (!m->result)
        return bad(m->path, "out of memory");
    for (uint32_t at = HEADER_WORDS; at < m->n_word && op(m, at) != OP_FUNCTION;
         at += length(m, at))
        read_result(m, at);
    return true;
}

/* The definition of id, if it is one of `code` with n words at least; else NULL. */
static const uint32_t *defined(const struct module *m, uint32_t id, uint32_t code, uint32_t n)
{
    uint32_t at = id < m->n_result ? m->result[id].def : 0;
    return at && op(m, at) == code && length(m, at) >= n ? &m->word[at] : NULL;
}

/* The string of the OpName at `at`, up to the end of out; its bytes are packed from the low end of
 * each word. Empty for at 0. */
static void read_name(const struct module *m, uint32_t at, char *out, uint32_t n_out)
{
    uint32_t n = 0;
    for (uint32_t i = 8; at && n + 1 < n_out && i < 4 * length(m, at); i++) {
        char c = (char)(m->word[at + i / 4] >> 8 * (i % 4));
        if (!c)
            break;
        out[n++] = c;
    }
    out[n] = '\0';
}

/* One of the names of id, for a compiler may give `const uint B = A` the result and the name of A.
 */
static bool is_named(const struct module *m, uint32_t id, const char *want)
{
    char name[64] = "";
    for (uint32_t at = m->result[id].name; at && at < m->n_word; at += length(m, at)) {
        if (op(m, at) != OP_NAME || length(m, at) < 3 || m->word[at + 1] != id)
            continue;
        read_name(m, at, name, sizeof name);
        if (strcmp(name, want) == 0)
            return true;
    }
    return !m->result[id].name && !want[0];
}

static uint32_t member_offset(const struct module *m, uint32_t type, uint32_t i_member)
{
    for (uint32_t at = HEADER_WORDS; at < m->n_word; at += length(m, at)) {
        const uint32_t *w = &m->word[at];
        if (op(m, at) == OP_MEMBER_DECORATE && length(m, at) == 5 && w[1] == type &&
            w[2] == i_member && w[3] == OFFSET)
            return w[4];
    }
    return 0;
}

static uint32_t number_bytes(const struct module *m, uint32_t type)
{
    const uint32_t *w = defined(m, type, OP_TYPE_INT, 4);
    w = w ? w : defined(m, type, OP_TYPE_FLOAT, 3);
    return w ? w[2] / 8 : 0;
}

/* Up to the end of its last member. 0 where a member is no number: only numbers are laid out alike
 * in both languages. */
static uint32_t struct_bytes(const struct module *m, uint32_t type)
{
    const uint32_t *w = defined(m, type, OP_TYPE_STRUCT, 3);
    uint32_t bytes = 0;
    for (uint32_t i = 0; w && i < length(m, m->result[type].def) - 2; i++) {
        uint32_t n = number_bytes(m, w[2 + i]), end = member_offset(m, type, i) + n;
        if (!n)
            return 0;
        bytes = end > bytes ? end : bytes;
    }
    return bytes;
}

/* ---- checking -------------------------------------------------------------------------------- */

/* Storage buffers only, at bindings 0 to n_bind - 1 of set 0. */
static bool check_bindings(struct module *m)
{
    uint32_t has = 0;
    char why[128];
    for (uint32_t id = 0; id < m->n_result; id++) {
        const struct spirv_id *r = &m->result[id];
        const uint32_t *w = defined(m, id, OP_VARIABLE, 4);
        if (!r->binding)
            continue;
        if (!w || w[3] != STORAGE_BUFFER || r->set != 1 || r->binding > MAX_BINDING) {
            snprintf(why, sizeof why, "binding %u is not a storage buffer of set 0",
                     r->binding - 1);
            return bad(m->path, why);
        }
        has |= 1u << (r->binding - 1);
    }
    while (m->n_bind < MAX_BINDING && has >> m->n_bind & 1)
        m->n_bind++;
    if (has == 0 || (m->n_bind < MAX_BINDING && has >> m->n_bind)) {
        snprintf(why, sizeof why, "nothing is bound at %u%s", m->n_bind,
                 has ? ", but at a higher number: bindings must be 0 to n - 1" : "");
        return bad(m->path, why);
    }
    return true;
}

/* The one member of the one block is the row's struct. */
static bool check_push(struct module *m)
{
    uint32_t type = 0;
    char name[64], why[256];
    for (uint32_t id = 0; id < m->n_result; id++) {
        const uint32_t *v = defined(m, id, OP_VARIABLE, 4), *p, *block;
        if (v && v[3] == PUSH_CONSTANT && (p = defined(m, v[1], OP_TYPE_POINTER, 4)) &&
            (block = defined(m, p[3], OP_TYPE_STRUCT, 3)) && block[2] < m->n_result)
            type = block[2];
    }
    read_name(m, m->result[type].name, name, sizeof name);
    uint32_t bytes = struct_bytes(m, type);
    if (bytes == m->row->push_bytes && strcmp(name, m->row->push) == 0)
        return true;
    snprintf(why, sizeof why,
             "takes push constants %s of %u bytes, its row in kernels.def %s of %u", name, bytes,
             m->row->push, m->row->push_bytes);
    return bad(m->path, why);
}

/* A shader writes a constant's name in capitals; that of the workgroup has none. */
static bool check_constants(struct module *m)
{
    char name[64], want[64], why[256];
    for (uint32_t id = 0; id < m->n_result; id++) {
        const uint32_t *w = defined(m, id, OP_SPEC_CONSTANT, 4);
        uint32_t spec = m->result[id].spec - 1;
        if (!m->result[id].spec)
            continue;
        snprintf(want, sizeof want, "%s", spec > 0 && spec < N_CONSTANT ? constants[spec] : "");
        for (char *c = want; *c; c++)
            *c = (char)toupper(*c);
        if (spec >= N_CONSTANT || !is_named(m, id, want)) {
            read_name(m, m->result[id].name, name, sizeof name);
            snprintf(why, sizeof why, "specialization constant %u is called %s, in spec.def %s",
                     spec, name, spec < N_CONSTANT ? want : "it is not");
            return bad(m->path, why);
        }
        if (!w || w[0] >> 16 != 4)
            return bad(m->path, "a specialization constant is not a number of 32 bits");
        if (m->constants >> spec & 1)
            return bad(m->path, "two specialization constants have one id");
        m->constants |= (uint64_t)1 << spec;
        m->sizes |= (uint64_t)(w[3] != 0) << spec;
    }
    return true;
}

static bool find_row(struct module *m)
{
    const char *base = strrchr(m->path, '/');
    base = base ? base + 1 : m->path;
    size_t n = strcspn(base, ".");
    for (uint32_t i = 0; i < N_ROW && !m->row; i++)
        if (strlen(rows[i].name) == n && memcmp(rows[i].name, base, n) == 0)
            m->row = &rows[i];
    return m->row || bad(m->path, "no row in engine/gpu/kernels.def is named so");
}

static bool read_module(struct module *m)
{
    return find_row(m) && read_words(m) && read_results(m) && check_bindings(m) && check_push(m) &&
           check_constants(m);
}

/* ---- writing --------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct module *)a)->row->name, ((const struct module *)b)->row->name);
}

static void put_module(FILE *out, const struct module *m)
{
    fprintf(out, "static const uint32_t words_%s[] = {", m->row->name);
    for (uint32_t i = 0; i < m->n_word; i++)
        fprintf(out, "%s0x%lx,", i % 10 ? " " : "\n", (unsigned long)m->word[i]);
    fprintf(out, "\n};\n\n");
}

static void put_all(FILE *out, const struct module *m, uint32_t n)
{
    fprintf(out, "/* written by tools/embed.c */\n#include \"gpu/shaders.h\"\n\n");
    for (uint32_t i = 0; i < n; i++)
        put_module(out, &m[i]);
    fprintf(out, "const struct shader hlm_shaders[KERNEL_COUNT] = {\n");
    for (uint32_t i = 0; i < n; i++)
        fprintf(out, "    [K_%s] = { words_%s, %lu, %lu, 0x%llx, 0x%llx },\n", m[i].row->name,
                m[i].row->name, 4ul * m[i].n_word, (unsigned long)m[i].n_bind,
                (unsigned long long)m[i].constants, (unsigned long long)m[i].sizes);
    fprintf(out, "};\n");
}

static bool write_table(const char *path, const struct module *m, uint32_t n)
{
    FILE *out = fopen(path, "w");
    if (!out)
        return false;
    put_all(out, m, n);
    bool whole = !ferror(out);
    return fclose(out) == 0 && whole;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: embed OUT.c A.spv ...\n");
        return 2;
    }
    uint32_t n = (uint32_t)argc - 2;
    struct module *m = calloc((size_t)n + 1, sizeof *m);
    bool ok = m || bad(argv[1], "out of memory");
    for (uint32_t i = 0; ok && i < n; i++) {
        m[i].path = argv[i + 2];
        ok = read_module(&m[i]);
    }
    if (ok)
        qsort(m, n, sizeof *m, by_name);
    for (uint32_t i = 1; ok && i < n; i++)
        if (m[i].row == m[i - 1].row)
            ok = bad(m[i].path, "a second module of this name");
    if (ok && !write_table(argv[1], m, n)) {
        remove(argv[1]);
        ok = bad(argv[1], "cannot write");
    }
    for (uint32_t i = 0; m && i < n; i++) {
        free(m[i].word);
        free(m[i].result);
    }
    free(m);
    return !ok;
}
