# hlm. `make help` lists what there is to make; every choice is a variable: make CC=clang V=1
CC        = gcc
CFLAGS    = -O2 -g
LDFLAGS   =
GLSLANG   = glslangValidator
B         = build#                  everything made lies here
M         = models/demo/hlm-demo-q8_0.gguf# the model of `make chat` and `make bench`
JOBS      = $(shell nproc 2>/dev/null || echo 2)
ARGS      =#                        more flags for `make chat`, `make bench` and the test program

STD       = -std=c17 -pthread
PIC       = -fPIC -fvisibility=hidden# what hlm.h does not declare stays inside
WARN      = -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Wvla $(if $(WERROR),-Werror)
GLSLFLAGS = -V --target-env vulkan1.2 -Ishaders
INCLUDE   = -Iengine -I.
LIBS      = -lvulkan -lpcre2-8 -lutf8proc -ljansson -lxxhash -lm -lpthread
# Warnings are the ordinary builds' business: under sanitizers gcc sees ghosts.
SANITIZE  = -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all

Q        := $(if $(V),,@)
say       = $(if $(V),,@printf '  %-6s %s\n' $(1) $(2))
# Rules that need the packages first, or another set of flags, call make again on this same file.
again     = $(MAKE) --no-print-directory $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(JOBS))
CAIRO     = $(shell pkg-config --silence-errors --cflags --libs cairo)# draws for hlm-tune plot; none: it does not
# Shaders that need a newer glslang than Debian 12's are listed in shaders/spv/list and come prebuilt.
optional := $(addprefix shaders/,$(addsuffix .comp,$(shell sed 's/\#.*//' shaders/spv/list 2>/dev/null)))
comps    := $(filter-out $(optional),$(sort $(wildcard shaders/*.comp)))
spvs     := $(comps:shaders/%.comp=$(B)/shaders/%.spv)
blobs    := $(spvs) $(sort $(wildcard shaders/spv/*.spv))

engine   := $(sort $(wildcard engine/*/*.c models/*.c))
common   := $(filter-out ui/chat% ui/eval% ui/tune%,$(sort $(wildcard ui/*.c)))
prompt   := $(patsubst %,ui/chat_%.c,keys text line history screen edit tty term words prose models)# of hlm-chat, for tests
watch    := $(sort $(wildcard monitor/run*.c monitor/source*.c monitor/watch.c monitor/process.c))#  of hlm-monitor, without SDL
# The window, its drawing and its panels: built, and tested, only where SDL2 is there.
sdl      := $(shell printf '\043include <%s>\n' SDL2/SDL_ttf.h png.h | $(CC) -E - >/dev/null 2>&1 && echo yes)
window   := $(if $(sdl),$(filter-out $(watch),$(sort $(wildcard monitor/*.c))))
tests    := $(filter-out $(if $(sdl),,$(patsubst %,tests/test_monitor_%.c,draw panels inside train events window screen) tests/monitor_pixels.c),$(sort $(wildcard tests/*.c tests/*/*.c)))
lib      := $(B)/libhlm.a
engine_objs = $(call obj,$(engine)) $(B)/obj/shaders.o
progs    := $(patsubst %.c,$(B)/hlm-%,$(notdir $(wildcard ui/chat.c ui/eval.c ui/tune.c bench/bench.c) $(if $(filter monitor/watch.c,$(watch)),$(filter monitor/monitor.c,$(window)))))
obj       = $(patsubst %.c,$(B)/obj/%.o,$(1))

.PHONY: all chat monitor shots test crash bench fuzz lint format asan spv deps clean help check FORCE
.SECONDARY:
.DELETE_ON_ERROR:

all: $(lib) $(progs) examples

chat:
	@sh tools/deps.sh
	@+$(again) $(B)/hlm-chat
	@$(B)/hlm-chat -m $(M) $(ARGS)

monitor:
	@sh tools/deps.sh monitor
	@+$(again) $(B)/hlm-monitor
	@$(B)/hlm-monitor $(ARGS)

test:
	@sh tools/deps.sh test
	@+$(again) check
	@sh tools/run-tests.sh $(B)/tests $(ARGS)

check: all $(if $(tests),$(B)/tests) $(spvs:.spv=.valid)

asan:
	@sh tools/deps.sh test
	@+$(again) B=$(B)/asan CFLAGS='$(SANITIZE)' LDFLAGS='$(SANITIZE)' WARN= all $(B)/asan/tests
	@LSAN_OPTIONS=suppressions=tests/lsan.supp:print_suppressions=0 $(B)/asan/tests --host $(ARGS)

bench: $(B)/hlm-bench
	@$(B)/hlm-bench -m $(M) $(ARGS)
fuzz: $(patsubst tests/fuzz/%.c,$(B)/%,$(wildcard tests/fuzz/*.c))
	@for f in $^; do d=corpus/$${f##*/fuzz_}; echo $$f; mkdir -p $(B)/$$d; $$f -max_total_time=$(or $(T),1200) -max_len=16384 \
	    -print_final_stats=1 -artifact_prefix=$(B)/ $(B)/$$d `ls -d tests/$$d 2>/dev/null` || exit 1; done

crash:
	@sh tools/deps.sh test
	@+$(again) $(B)/tests
	@MESA_SHADER_CACHE_DIR=$(B)/cache/mesa $(B)/tests --only crash --all

shots: all
	@sh tools/shots.sh $(B) $(M) $(B)/shots

lint: ; @sh tools/lint.sh
format: ; @sh tools/format.sh
spv:  ; @sh tools/spv.sh build $(GLSLANG) $(GLSLFLAGS)
deps: ; @sh tools/deps.sh $(if $(TESTS),test)
clean: ; rm -rf $(B)
help: ; @sed -n 's/^#: //p' Makefile
.DEFAULT: ; @echo "make: there is no '$@' to make, and no rule for it; 'make help' lists what there is" >&2; exit 2
#: make            the library and the programs, into build/
#: make chat       installs what is missing (Debian, Ubuntu), builds hlm-chat, starts it; M=model.gguf
#: make monitor    installs what is missing, builds hlm-monitor, starts it: a window on what runs
#: make test       builds, validates the shaders, runs all tests; ARGS="--only tok,chat"
#: make crash      kills a training run at every write, sync and rename of a save, and goes on with it
#: make asan       the tests that need no GPU, under the address and undefined-behaviour sanitizers
#: make bench      times a model with hlm-bench; M=model.gguf
#: make fuzz       every tests/fuzz/*.c for T=1200 seconds; needs clang, what it finds goes to build/
#: make shots      pictures of hlm-monitor from real runs on the demo model, into build/shots/
#: make lint       checks the rules of the house
#: make format     lays out all C as .clang-format says (clang-format 14)
#: make spv        compiles the optional shaders of shaders/spv/list; needs a new glslang
#: make examples   the three of ui/examples, into build/examples/
#: make install    programs, library, headers, man pages, completions, menu entry; PREFIX=/usr/local DESTDIR=
#: make deb        Debian packages, into build/deb/; lintian must find no error
#: make deps       installs the packages, or names them; TESTS=1: also those of the tests
#: make clean      removes build/
#: variables:      CC=clang  CFLAGS  B=folder  V=1 (show commands)  WERROR=1  JOBS=n

$(B)/hlm-chat: $(call obj,$(sort $(wildcard ui/chat*.c)) $(common))
$(B)/hlm-eval: $(call obj,$(sort $(wildcard ui/eval*.c)) $(common))
$(B)/hlm-tune: $(call obj,$(sort $(wildcard ui/tune*.c)) $(common))
$(B)/hlm-tune: private LIBS += $(filter-out -I%,$(CAIRO))
$(B)/obj/ui/tune_draw.o: private DEFS = $(if $(CAIRO),-DHLM_CAIRO $(filter -I%,$(CAIRO)))
$(B)/obj/ui/tune_draw.o: $(B)/cairo
$(B)/hlm-bench: $(call obj,bench/bench.c bench/make.c $(common))
$(B)/hlm-monitor: $(call obj,$(watch) $(window) $(common))
$(B)/tests: $(call obj,$(tests) ui/ring.c ui/common.c ui/common_base.c ui/common_counters.c $(prompt) $(watch) $(filter-out monitor/monitor.c monitor/window.c,$(window))) $(engine_objs)
$(B)/hlm-monitor $(B)/tests: private LIBS += $(if $(sdl),-lSDL2 -lSDL2_ttf -lpng)
$(progs): $(lib)
$(progs) $(B)/tests:
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $(filter %.o %.a,$^) $(LIBS)
$(B)/fuzz_%: tests/fuzz/fuzz_%.c $(wildcard tests/gguf_*.c) $(engine) $(B)/shaders.c        # libFuzzer comes with clang
	$(Q)clang $(STD) $(SANITIZE) -fsanitize=fuzzer $(INCLUDE) -Itests -o $@ $^ $(LIBS)

# One object, in which only the names of the public headers are global.
$(lib): $(engine_objs) $(B)/list
	$(call say,AR,$@)
	$(Q)$(CC) -r -nostdlib -o $@.o $(filter %.o,$^) && objcopy --localize-hidden $@.o
	$(Q)rm -f $@; $(AR) rcs $@ $@.o
$(B)/obj/%.o: %.c $(B)/flags
	$(call say,CC,$<)
	$(Q)mkdir -p $(@D); $(CC) $(STD) $(PIC) $(WARN) $(CFLAGS) $(INCLUDE) $(DEFS) -MMD -MP -c -o $@ $<
$(B)/obj/tests/%.o: private INCLUDE += -Itests
$(B)/obj/tests/fuzz/fuzz_%.o: private DEFS = -DLLVMFuzzerTestOneInput=$(*F)      # all of them in one program: test_fuzz.c
$(B)/obj/shaders.o: $(B)/shaders.c $(B)/flags
	$(Q)mkdir -p $(@D); $(CC) $(STD) $(PIC) $(WARN) $(CFLAGS) $(INCLUDE) -MMD -MP -c -o $@ $<
$(B)/shaders.c: $(B)/embed $(blobs) $(B)/list
	$(Q)$(B)/embed $@ $(blobs)
$(B)/embed: tools/embed.c engine/gpu/kernels.def shaders/push.h shaders/enums.h shaders/spec.def
	$(Q)mkdir -p $(@D); $(CC) $(STD) $(WARN) -O1 -I. -o $@ $<
$(B)/shaders/%.spv: shaders/%.comp                      # glslang has no quiet mode that keeps errors
	$(call say,GLSL,$<)
	$(Q)mkdir -p $(@D); m=`$(GLSLANG) $(GLSLFLAGS) --depfile $@.d -o $@ $<` || \
	    { echo "$$m"; exit 1; }; echo "$$m" | grep -i warning || :
$(B)/shaders/%.valid: $(B)/shaders/%.spv
	$(Q)spirv-val --target-env vulkan1.2 --scalar-block-layout $< && touch $@
$(B)/obj/tests/main.o: private DEFS = $(if $(sdl),-DHLM_MONITOR)
$(B)/flags: now = $(CC) $(STD) $(PIC) $(WARN) $(CFLAGS) $(sdl)
$(B)/list:  now = $(engine) $(blobs)
$(B)/cairo: now = $(CAIRO)
$(B)/flags $(B)/list $(B)/cairo: FORCE     # newer than what was made from them once flags or files are others
	@mkdir -p $(@D); echo '$(now)' | cmp -s - $@ || echo '$(now)' >$@
include tools/install.mk

# An include that is gone is no error: what needed it is made anew.
shaders/%.glsl shaders/%.h shaders/%.def: ;

# Not those of builds within, which another make may be at: B=build/asan.
-include $(shell find $(B)/obj $(B)/shaders -name '*.d' 2>/dev/null)
