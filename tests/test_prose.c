/* test_prose: a model's text laid out for a terminal - where lines are broken, what Markdown is
 * shown as, that text in pieces comes out as the whole does. */
#include "test.h"
#include "ui/chat_prose.h"
#include "ui/chat_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct laid_out {
    char s[8192];
    size_t n;
};

static void take(void *user, const char *s, size_t n)
{
    struct laid_out *to = user;
    HLM_ASSERT(to->n + n < sizeof to->s);
    memcpy(to->s + to->n, s, n);
    to->n += n;
    to->s[to->n] = 0;
}

static void count(void *user, const char *s, size_t n)
{
    (void)s;
    *(size_t *)user += n;
}

/* The text with its escapes as <b> bold, <i> italic, <u> underlined, <c> code, <q> dim, <> none. */
static const char *show(const char *text, unsigned cols, bool markdown, bool color, bool pieces)
{
    static const char *const names[][2] = { { "\033[0m", "<>" },  { "\033[1m", "<b>" },
                                            { "\033[2m", "<q>" }, { "\033[3m", "<i>" },
                                            { "\033[4m", "<u>" }, { "\033[36m", "<c>" } };
    static struct laid_out raw, out;
    raw.n = out.n = 0;
    raw.s[0] = out.s[0] = 0;
    struct prose p = {
        .put = take, .user = &raw, .cols = cols, .markdown = markdown, .color = color
    };
    size_t n = strlen(text);
    for (size_t at = 0, next; at < n; at = next) {
        next = pieces ? text_next(text, n, at) : n;
        prose_text(&p, text + at, next - at);
    }
    prose_end(&p);
    for (const char *s = raw.s; *s;) {
        uint32_t i = 0;
        while (i < ARRAY_LEN(names) && strncmp(s, names[i][0], strlen(names[i][0])) != 0)
            i++;
        if (i < ARRAY_LEN(names)) {
            take(&out, names[i][1], strlen(names[i][1]));
            s += strlen(names[i][0]);
        } else {
            take(&out, s++, 1);
        }
    }
    return out.s;
}

#define RULE5 "\342\224\200\342\224\200\342\224\200\342\224\200\342\224\200"
#define RULE20 RULE5 RULE5 RULE5 RULE5

static const struct {
    const char *text, *want;
} rows[] = {
    /* lines are broken between words, at 20 columns */
    { "I can help you with that.", "I can help you with\nthat." },
    { "0123456789 0123456789", "0123456789\n0123456789" },
    { "0123456789012345678901234", "01234567890123456789\n01234" },
    { "one\n\n  two three four five six\n", "one\n\n  two three four\n  five six\n" },
    { "exactly twenty colum next", "exactly twenty colum\nnext" },
    { "trailing   \nblanks", "trailing\nblanks" },
    { "\346\274\242\345\255\227\346\274\242\345\255\227\346\274\242\345\255\227\346\274\242\345\255"
      "\227\346\274\242\345\255\227\346\274\242",
      "\346\274\242\345\255\227\346\274\242\345\255\227\346\274\242\345\255\227\346\274\242\345\255"
      "\227\346\274\242\345\255\227\n\346\274\242" },
    /* marked text */
    { "a **b c** d", "a <><b>b c<> d" },
    { "*it* and ***both***", "<><i>it<> and <><b><i>both<>" },
    { "**one** **two**.", "<><b>one<> <><b>two<>." },
    { "**API**s and **more**", "<><b>API<>s and <><b>more<>" },
    { "**bold `code` too**", "<><b>bold <><b><c>code<><b> too<>" },
    { "use `a*b` here", "use <><c>a*b<> here" },
    { "``a ` b``", "<><c>a ` b<>" },
    { "**one two three four five**", "<><b>one two three four\nfive<>" },
    /* no marks: nothing is lost */
    { "2 * 3 * 4", "2 * 3 * 4" },
    { "a*b*c and 2**3**4", "a*b*c and 2**3**4" },
    { "f(*a) + g(*b)", "f(*a) + g(*b)" },
    { "*args, **kwargs", "*args, **kwargs" },
    { "never **closed\nnext", "never **closed\nnext" },
    { "it`s", "it`s" },
    { "snake_case __init__", "snake_case __init__" },
    { "\\*no\\* \\`no\\`", "*no* `no`" },
    { "end **", "end **" },
    /* lines */
    { "# Big\ntext", "<><b><u>Big<>\ntext" },
    { "### Small **x**", "<><b>Small x<>" },
    { "#hash #1", "#hash #1" },
    { "- one\n- two", "\342\200\242 one\n\342\200\242 two" },
    { "* **b**: one two three", "\342\200\242 <><b>b<>: one two three" },
    { "- one two three four five", "\342\200\242 one two three four\n  five" },
    { "  - nested item that is long", "  \342\200\242 nested item that\n    is long" },
    { "12. one two three four", "12. one two three\n    four" },
    { "12.5 is", "12.5 is" },
    { "2026", "2026" },
    { "- ", "-" },
    { "> quoted words that are long", "\342\224\202 <><i>quoted words that\n  are long<>" },
    { "---\nx",
      "<><q>\342\224\200\342\224\200\342\224\200\342\224\200\342\224\200\342\224\200\342\224"
      "\200\342\224\200\342\224\200\342\224\200\342\224\200\342\224\200\342\224\200\342\224"
      "\200\342\224\200\342\224\200\342\224\200\342\224\200\342\224\200\342\224\200<>\nx" },
    { "--\n-", "--\n-" },
    { "- -\n_ _\n* *", "\342\200\242 -\n_ _\n\342\200\242 *" }, /* a rule has three marks */
    { "| a | b **c** that is long |", "| a | b **c** that is long |" },
    /* code: as it stands, whatever is in it */
    { "```python\nif a*b: # **no** and longer\n\n    x\n```\nend",
      "<><q>python<>\n<><c>if a*b: # **no** and longer<>\n\n<><c>    x<>\nend" },
    { "```\na\n``\n````\nb", "<><c>a<>\n<><c>``<>\nb" },
    { "~~~\n```\n~~~\nb", "<><c>```<>\nb" },
    { "```\nnever closed", "<><c>never closed<>" },
    { "```a``` b", "<><c>a<> b" }, /* backquotes later in the line: no fence */
    { "``` `\nx", "``` `\nx" },
    { "~~~ `a`\nx*y*\n~~~", "<><q> `a`<>\n<><c>x*y*<>\n" },
    /* after more than three blanks there is text alone */
    { "    # a\n    ---\n    - b", "    # a\n    ---\n    - b" },
    { "   ---", "<><q>" RULE20 "<>" },
    { "    ```\nx", "    ```\nx" },
    { "```\n    ```\n   ```\nx", "<><c>    ```<>\nx" },
    { "12. a\n    ```\n    x\n    ```\nb", "12. a\n<><c>    x<>\nb" },
};

void test_prose(void)
{
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        test_case("prose, row %u: %.60s", i, rows[i].text);
        for (int pieces = 0; pieces < 2; pieces++)
            CHECK_STR(show(rows[i].text, 20, true, true, pieces), rows[i].want);
    }
    test_case("without colours there are bold and italic, and the fences of code");
    CHECK_STR(show("# T\n**b** `c`\n```c\nx\n```\n---", 20, true, false, true),
              "<><b><u>T<>\n<><b>b<> <>c<>\n<>```c<>\n<>x<>\n<>```<>\n<>"
              "\342\224\200\342\224\200\342\224\200\342\224\200\342\224\200\342\224\200\342\224\200"
              "\342\224\200\342\224\200\342\224\200\342\224\200\342\224\200\342\224\200\342\224\200"
              "\342\224\200\342\224\200\342\224\200\342\224\200\342\224\200\342\224\200<>");
    test_case("raw: words alone");
    CHECK_STR(show("# T **b**\n- one two three four five\n```", 20, false, false, true),
              "# T **b**\n- one two three four\nfive\n```");
    CHECK_STR(show("as long as it likes to be, and longer", 0, false, false, true),
              "as long as it likes to be, and longer");

    test_case("a long line costs as its length does, whatever its marks are");
    static const char *const units[] = { "*a ", "`a ", "**a* ", "`", "-", " ", "~~~`", "1", "\\" };
    for (uint32_t i = 0; i < ARRAY_LEN(units); i++) {
        enum { N = 40000 };
        static char text[5 * N + 1];
        size_t n = 0;
        for (int k = 0; k < N; k++)
            n += (size_t)snprintf(text + n, sizeof text - n, "%s", units[i]);
        for (int pieces = 0; pieces < 2; pieces++) {
            struct prose p = { .put = count, .user = &(size_t){ 0 }, .markdown = true };
            clock_t begin = clock();
            for (size_t at = 0, some; at < n; at += some) {
                some = pieces ? 4 : n;
                prose_text(&p, text + at, at + some > n ? n - at : some);
            }
            prose_end(&p);
            double took_s = (double)(clock() - begin) / CLOCKS_PER_SEC;
            CHECK_MSG(took_s < 2, "%.1f s for \"%s\"", took_s, units[i]);
        }
    }

    test_case("random text: pieces give what the whole gives, and every letter comes out");
    struct rng rng = { 3 };
    for (int i = 0; i < 3000; i++) {
        static const char letters[] = "ab *`#->1.\n\n~|_\\c";
        char text[1200], whole[8192];
        size_t n = rng_u64(&rng) % (i % 64 ? 63 : sizeof text - 1); /* a few are long */
        size_t letters_in = 0, letters_out = 0;
        const char *from = i % 64 ? letters : "abcd *`1";
        size_t n_from = strlen(from);
        for (size_t k = 0; k < n; k++)
            text[k] = from[rng_u64(&rng) % n_from];
        text[n] = 0;
        snprintf(whole, sizeof whole, "%s", show(text, 20, true, false, false));
        if (!CHECK_STR(show(text, 20, true, false, true), whole))
            return;
        for (const char *s = text; *s; s++)
            letters_in += *s == 'a' || *s == '1';
        for (const char *s = whole; *s; s++)
            letters_out += *s == 'a' || *s == '1';
        if (!CHECK_MSG(letters_in == letters_out, "\"%s\" became \"%s\"", text, whole))
            return;
    }
}
