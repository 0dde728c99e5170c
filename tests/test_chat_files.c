/* test_chat_files: files of hlm-chat and of the other programs, without a device - which may be
 * replaced by which. */
#include "gguf_build.h"
#include "run.h"
#include "ui/common_base.h"

#include <stdio.h>
#include <string.h>

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

void test_chat_files(void) { test_replacing(); }
