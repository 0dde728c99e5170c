/* test_chat_files: files and words of hlm-chat and of the other programs, without a device - which
 * files may be replaced by which, the words after a command, completing paths, misspelt words. */
#define _XOPEN_SOURCE 700
#include "gguf_build.h"
#include "run.h"
#include "ui/chat_models.h"
#include "ui/chat_words.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void test_replacing(void)
{
    static const char *const name[] = { "talk", "json", "md", "model", "adapter", "text", "none" };
    static const char says[] = "conversation|conversation|conversation|model|adapter";
    enum { N_KIND = 5, N_FILE = ARRAY_LEN(name) };
    struct hlm_err err = { 0 };
    struct gguf_build *b = gb_new();
    gb_str(b, "general.architecture", "qwen35");
    CHECK_MSG(gb_write(b, scratch("over_model"), &err), "%s", err.msg);
    gb_free(b);
    demo_adapter(scratch("over_adapter"));
    spill(scratch("over_talk"), "hlmstate and so on");
    spill(scratch("over_json"), "{\"messages\": []}");
    spill(scratch("over_md"), UI_TALK_MARK "# Talk\n");
    spill(scratch("over_text"), "{ some text");
    for (uint32_t k = 0; k < N_KIND; k++)
        for (uint32_t i = 0; i < N_FILE; i++) {
            enum file_kind kind = (enum file_kind)k;
            char file[32];
            bool replaces = false;
            test_case("a file of kind %s where there is %s", name[kind], name[i]);
            snprintf(file, sizeof file, "over_%s", name[i]);
            bool may = i == k || i + 1 == N_FILE;
            if (may) {
                CHECK_MSG(ui_may_replace(scratch(file), kind, &replaces, &err), "%s", err.msg);
                CHECK_EQ(replaces, i == k);
            } else {
                const char *word = says;
                char parts[96];
                for (uint32_t skip = 0; skip < k; skip++)
                    word += strcspn(word, "|") + 1;
                snprintf(parts, sizeof parts, "%s|is there already|%.*s", file,
                         (int)strcspn(word, "|"), word);
                CHECK_REFUSED(ui_may_replace(scratch(file), kind, NULL, &err), err, parts);
            }
        }
    test_case("a folder and a device are never replaced");
    CHECK_REFUSED(ui_may_replace(test_tmp(), FILE_MODEL, NULL, &err), err, "no ordinary file");
    CHECK_REFUSED(ui_may_replace("/dev/null", FILE_MODEL, NULL, &err), err, "/dev/null|ordinary");
}

static void test_words(void)
{
    static const struct {
        const char *args, *first, *second, *rest;
    } rows[] = {
        { "", NULL, NULL, NULL },
        { "  a  b c ", "a", "b", "a  b c" },
        { "\"a b\" c", "a b", "c", "a b" },
        { "'a \"b' c", "a \"b", "c", "a \"b" },
        { "a\\ b c", "a b", "c", "a b c" },
        { "\"a\\\"b\"c d", "a\"bc", "d", "a\"bc" },
        { "~/x ~", "/home/me/x", "/home/me", "/home/me/x ~" },
        { "~you/x a~", "~you/x", "a~", "~you/x a~" },
        { "\"never closed", "never closed", NULL, "never closed" },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        test_case("words of: %s", rows[i].args);
        const char *at = rows[i].args;
        char *first = word_next(&at, "/home/me"), *second = word_next(&at, "/home/me");
        char *rest = word_rest(rows[i].args, "/home/me");
        CHECK_STR(first, rows[i].first);
        CHECK_STR(second, rows[i].second);
        CHECK_STR(rest, rows[i].rest);
        free(first);
        free(second);
        free(rest);
    }
}

/* Paths in a folder with these names: the choices, each in [ ]. */
static void test_paths(void)
{
    static const char *const files[] = {
        "notes.md",  "notes two.md", "a.gguf", ".hidden",   "it's",  "z ok",
        "z\033[31m", "z\007",        "z\nx",   "z\tx",      "z\377", "z\302\233x",
        "z\"x",      "z\\ x",        "z x\\",  "z\303\266",
    };
    static const struct {
        const char *text, *end, *want;
    } rows[] = {
        { "/x no", NULL, "[\"notes two.md\"][notes.md]" },
        { "/x \"notes t", NULL, "[\"notes two.md\"]" },
        { "/x notes\\ t", NULL, "[\"notes two.md\"]" },
        { "/x s", NULL, "[sub/]" },
        { "/x sub/", NULL, "[sub/inner.gguf]" },
        { "/x ~/sub/", NULL, "[~/sub/inner.gguf]" },
        { "/x .", NULL, "[.hidden]" },
        { "/x i", NULL, "[\"it's\"]" },
        { "/x ", ".gguf", "[a.gguf][sub/]" },
        { "/x nothing", NULL, "" },
        { "/x z", NULL,
          "[\"z ok\"][z\303\266]" }, /* none that no line could have, or none could show */
        { "/x nowhere/", NULL, "" },
    };
    char home[300], text[600];
    const char *folder = scratch("paths");
    HLM_ASSERT(mkdir(folder, 0700) == 0 && mkdir(scratch("paths/sub"), 0700) == 0);
    for (uint32_t i = 0; i < ARRAY_LEN(files); i++) {
        snprintf(text, sizeof text, "paths/%s", files[i]);
        spill(scratch(text), "");
    }
    spill(scratch("paths/sub/inner.gguf"), "");
    snprintf(home, sizeof home, "%s", folder);
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        test_case("paths for: %s", rows[i].text);
        /* Relative to the folder: its path stands before what is typed, but for the ~. */
        const char *typed = rows[i].text + 3;
        bool quoted = *typed == '"';
        snprintf(text, sizeof text, "/x %s%s%s%s", quoted ? "\"" : "", *typed == '~' ? "" : folder,
                 *typed == '~' ? "" : "/", typed + quoted);
        struct choices c = { 0 };
        char got[1024] = "";
        complete_path(text, 3, strlen(text), home, rows[i].end, &c);
        CHECK_EQ(c.from, 3);
        for (uint32_t k = 0; k < c.n; k++) {
            char one[512];
            snprintf(one, sizeof one, "%s", c.v[k].text);
            char *at = strstr(one, folder);
            if (at)
                memmove(at, at + strlen(folder) + 1, strlen(at + strlen(folder)));
            snprintf(got + strlen(got), sizeof got - strlen(got), "[%s]", one);
        }
        CHECK_STR(got, rows[i].want);
        choices_free(&c);
    }
}

/* Folders with models as hlm, llama.cpp and ollama have them. */
static void test_models(void)
{
    static const struct {
        const char *path, *text;
    } files[] = {
        { "found/own/Zeta.gguf", "GGUF" },
        { "found/own/no-model.gguf", "text" },
        { "found/own/notes.txt", "GGUF" },
        { "found/own/sub/mmproj-Zeta.gguf", "GGUF" },
        { "found/own/sub/big-00001-of-00002.gguf", "GGUF12" },
        { "found/own/sub/big-00002-of-00002.gguf", "GGUF1234" },
        { "found/ollama/blobs/sha256-00aa", "GGUF" },
        { "found/ollama/manifests/registry/library/qwen/4b",
          "{\"layers\": [{\"mediaType\": \"application/vnd.ollama.image.template\", \"digest\": "
          "\"sha256:00aa\"}, {\"mediaType\": \"application/vnd.ollama.image.model\", \"digest\": "
          "\"sha256:00aa\"}]}" },
        { "found/ollama/manifests/registry/library/gone/1b",
          "{\"layers\": [{\"mediaType\": \"application/vnd.ollama.image.model\", \"digest\": "
          "\"sha256:00bb\"}]}" },
        { "found/ollama/manifests/registry/library/bad/1b", "{" },
    };
    char base[300], list[700], got[512] = "";
    struct found_models m;
    test_case("models on this machine: plain files, split ones, ollama's");
    HLM_ASSERT(realpath(test_tmp(), base));
    for (uint32_t i = 0; i < ARRAY_LEN(files); i++) {
        char path[600];
        snprintf(path, sizeof path, "%s/%s", base, files[i].path);
        for (char *p = path + strlen(base) + 1; *p; p++)
            if (*p == '/') {
                *p = 0;
                mkdir(path, 0700);
                *p = '/';
            }
        spill(path, files[i].text);
    }
    snprintf(list, sizeof list, "%s/nowhere:%s/found/own", base, base);
    setenv("HLM_MODELS", list, 1);
    snprintf(list, sizeof list, "%s/found/ollama", base);
    setenv("OLLAMA_MODELS", list, 1);
    program_path("");
    models_find(&m);
    for (uint32_t i = 0; i < m.n; i++)
        snprintf(got + strlen(got), sizeof got - strlen(got), "[%s %llu]", m.v[i].name,
                 (unsigned long long)m.v[i].bytes);
    CHECK_STR(got, "[big-00001-of-00002 14][qwen:4b 4][Zeta 4]");
    const char *path = models_path(&m, "zeta");
    CHECK(path && strstr(path, "found/own/Zeta.gguf"));
    CHECK(!models_path(&m, "no-model"));
    models_free(&m);
    unsetenv("HLM_MODELS");
    unsetenv("OLLAMA_MODELS");
}

static void test_file_names(void)
{
    static const char *const rows[][2] = {
        { "Hello!", "chat-2026-12-01-hello" },
        { "What's the weather like in Rome today?", "chat-2026-12-01-whats-the-weather-like-in" },
        { "../../etc/passwd\n\033[31m", "chat-2026-12-01-etc-passwd-31m" },
        { "\346\274\242", "chat-2026-12-01" },
        { "Donaudampfschifffahrtselektrizitaetenhauptbetriebswerk",
          "chat-2026-12-01-donaudampfschifffahrtselektrizitaetenha" },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        char name[96];
        test_case("a file's name for: %s", rows[i][0]);
        word_file_name(rows[i][0], "2026-12-01", name, sizeof name);
        CHECK_STR(name, rows[i][1]);
    }
}

static void test_nearest(void)
{
    static const char *const list[] = { "/help", "/history", "/save", "/set", "/stats",
                                        "/quit", "top_k",    "temp",  NULL };
    static const struct {
        const char *word, *want;
    } rows[] = {
        { "/hepl", "/help" },  { "/hel", "/help" },
        { "/HELP", "/help" },  { "/histroy", "/history" },
        { "/stat", "/stats" }, { "/quitt", "/quit" },
        { "top-k", "top_k" },  { "tempp", "temp" },
        { "/nope", NULL },     { "/x", NULL },
        { "/q", "/quit" },     { "/s", "/save" },
        { "/", NULL },         { "te", "temp" },
        { "", NULL },          { "frobnicate", NULL },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        test_case("meant by '%s'", rows[i].word);
        CHECK_STR(ui_nearest(rows[i].word, list), rows[i].want);
    }
}

static void test_replace_file(void)
{
    struct hlm_err err = { 0 };
    struct stat st;
    char *text, link[300];
    const char *path = scratch("replaced"), *other = scratch("replaced_too");
    test_case("a file is replaced as a whole; its mode, and a link to it");
    CHECK_MSG(ui_replace_file(path, 0600, "one", 3, &err), "%s", err.msg);
    CHECK(stat(path, &st) == 0 && (st.st_mode & 0777) == 0600);
    snprintf(link, sizeof link, "%s.link", path);
    HLM_ASSERT(symlink("replaced", link) == 0);
    CHECK_MSG(ui_replace_file(link, 0600, "two", 3, &err), "%s", err.msg);
    CHECK(lstat(link, &st) == 0 && S_ISLNK(st.st_mode));
    text = slurp(path);
    CHECK_STR(text, "two");
    free(text);
    test_case("a failure leaves nothing behind");
    CHECK_REFUSED(ui_replace_file("/nowhere/x", 0600, "x", 1, &err), err, "/nowhere/x|No such");
    HLM_ASSERT(mkdir(other, 0700) == 0);
    CHECK_REFUSED(ui_replace_file(other, 0600, "x", 1, &err), err, "replaced_too|written");
    char part[400];
    snprintf(part, sizeof part, "%s.%ld.part", other, (long)getpid());
    CHECK(stat(part, &st) != 0);
}

static void test_reading(void)
{
    struct hlm_err err = { 0 };
    uint64_t n = 0;
    const char *path = scratch("read");
    spill(path, "0123456789\n\n");
    test_case("the end of a file");
    char *text = ui_read_tail(path, 5, &n, &err);
    CHECK(text && n == 5);
    CHECK_STR(text, "789\n\n");
    free(text);
    test_case("a text without the line ends at its end");
    text = ui_as_text(ui_read_file(path, 100, &n, &err), &n, "read", &err);
    CHECK(text && n == 10);
    free(text);
    spill(path, "\n");
    CHECK_REFUSED(ui_as_text(ui_read_file(path, 9, &n, &err), &n, "read", &err), err, "read|empty");
    CHECK_REFUSED(ui_read_file(path, 0, &n, &err), err, "read|too large|0 bytes");
}

void test_chat_files(void)
{
    test_replace_file();
    test_reading();
    test_replacing();
    test_words();
    test_paths();
    test_nearest();
    test_file_names();
    test_models();
}
