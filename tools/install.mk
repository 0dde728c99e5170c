# What is installed, and the Debian package. Included by the Makefile.
PREFIX     = /usr/local
DESTDIR    =
bindir     = $(PREFIX)/bin
libdir     = $(PREFIX)/lib
includedir = $(PREFIX)/include/hlm
datadir    = $(PREFIX)/share

version   := $(shell sed -n 's/^.define HLM_VERSION "\(.*\)"/\1/p' engine/hlm.h)
# Structs may grow with the minor number (hlm.h), so the soname has it.
abi       := $(shell sed -n 's/^.define HLM_VERSION "\([0-9]*\.[0-9]*\).*/\1/p' engine/hlm.h)
shared    := $(B)/libhlm.so.$(version)
headers   := engine/hlm.h engine/hlm_train.h engine/hlm_counters.h
examples  := $(sort $(wildcard ui/examples/*.c))
icondir    = $(datadir)/icons/hicolor/scalable/apps
windowed  := $(filter %/hlm-monitor,$(progs))
to         = $(DESTDIR)$(1)

.PHONY: install uninstall docs examples deb

$(shared): $(engine_objs) $(B)/list
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -shared -Wl,-soname,libhlm.so.$(abi) -Wl,-z,defs -o $@ $(filter %.o,$^) $(LIBS)

docs: $(B)/docs
$(B)/docs: $(progs) tools/docs.sh
	$(call say,DOCS,$@)
	$(Q)sh tools/docs.sh $(B) && touch $@

examples: $(examples:ui/examples/%.c=$(B)/examples/%)
$(B)/examples/%: ui/examples/%.c $(headers) $(lib)
	$(call say,CC,$@)
	$(Q)mkdir -p $(@D); $(CC) $(STD) $(WARN) $(CFLAGS) -Iengine $(LDFLAGS) -o $@ $< $(lib) $(LIBS)

# Private libraries are only needed by who links libhlm.a.
$(B)/hlm.pc: engine/hlm.h tools/install.mk FORCE
	@printf '%s\n' 'prefix=$(PREFIX)' 'libdir=$(libdir)' 'includedir=$(includedir)' '' 'Name: hlm' \
	    'Description: runs and finetunes hybrid language models with Vulkan' 'Version: $(version)' \
	    'Libs: -L$${libdir} -lhlm' 'Libs.private: $(LIBS)' 'Cflags: -I$${includedir}' >$@.new; \
	    cmp -s $@.new $@ && rm $@.new || mv $@.new $@

install: all $(shared) $(B)/hlm.pc docs
	$(Q)install -d $(call to,$(bindir)) $(call to,$(libdir))/pkgconfig $(call to,$(includedir)) \
	    $(call to,$(datadir))/man/man1 $(call to,$(datadir))/bash-completion/completions \
	    $(call to,$(datadir))/zsh/vendor-completions $(call to,$(datadir))/fish/vendor_completions.d \
	    $(call to,$(datadir))/doc/hlm/examples
	$(Q)install -m 755 $(progs) $(call to,$(bindir))
	$(Q)install -m 644 $(headers) $(call to,$(includedir))
	$(Q)install -m 644 $(lib) $(call to,$(libdir))
	$(Q)install -m 644 $(shared) $(call to,$(libdir))
	$(Q)ln -sf $(notdir $(shared)) $(call to,$(libdir))/libhlm.so.$(abi)
	$(Q)ln -sf libhlm.so.$(abi) $(call to,$(libdir))/libhlm.so
	$(Q)install -m 644 $(B)/hlm.pc $(call to,$(libdir))/pkgconfig
	$(Q)install -m 644 $(B)/man/*.1 $(call to,$(datadir))/man/man1
	$(Q)install -m 644 $(B)/completions/bash/* $(call to,$(datadir))/bash-completion/completions
	$(Q)install -m 644 $(B)/completions/zsh/* $(call to,$(datadir))/zsh/vendor-completions
	$(Q)install -m 644 $(B)/completions/fish/* $(call to,$(datadir))/fish/vendor_completions.d
	$(Q)install -m 644 $(examples) $(call to,$(datadir))/doc/hlm/examples
	$(if $(windowed),$(Q)install -D -m 644 -t $(call to,$(datadir))/applications monitor/desktop/hlm-monitor.desktop)
	$(if $(windowed),$(Q)install -D -m 644 -t $(call to,$(icondir)) monitor/desktop/hlm-monitor.svg)

uninstall:
	$(Q)rm -f $(addprefix $(call to,$(bindir))/,$(notdir $(progs))) $(call to,$(libdir))/libhlm.* \
	    $(call to,$(libdir))/pkgconfig/hlm.pc $(call to,$(datadir))/man/man1/hlm-*.1 \
	    $(call to,$(datadir))/bash-completion/completions/hlm-* \
	    $(call to,$(datadir))/zsh/vendor-completions/_hlm-* \
	    $(call to,$(datadir))/fish/vendor_completions.d/hlm-* \
	    $(call to,$(datadir))/applications/hlm-monitor.desktop $(call to,$(icondir))/hlm-monitor.svg
	$(Q)rm -rf $(call to,$(includedir)) $(call to,$(datadir))/doc/hlm

# Debian's tools want the tree to be its own and a folder debian/ at its root.
deb:
	@sh tools/deps.sh deb
	@+sh tools/deb.sh $(B)/deb $(version)
