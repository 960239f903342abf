#!/bin/sh
# install.sh BUILD PREFIX [STAGE] - copy what was built and what it needs to STAGE/PREFIX: programs, CUDA plugin, library, model,
# manual.
# PREFIX must be the one that the programs were built for; STAGE (DESTDIR) is only in front of it while packaging.
set -eu
build=$1 prefix=$2 root=${3:-}$2
cd "$(dirname "$0")/.."

install -d "$root/bin" "$root/lib/pkgconfig" "$root/include/trellis" "$root/share/man/man1" \
	"$root/share/doc/trellisfs/examples" "$root/share/bash-completion/completions"
install -m 755 "$build/trellis" "$build/trellisfs" "$root/bin"
install -m 644 "$build/libtrellis.a" "$root/lib"
# CUDA, where it was built. By this path and no other an installed program finds it.
[ ! -e "$build/trellis-cuda.so" ] || install -D -m 644 "$build/trellis-cuda.so" "$root/lib/trellis/trellis-cuda.so"
install -m 644 engine/trellis.h kernels/error.h "$root/include/trellis"
version=$("$build/trellis" --version | sed 's/^trellis //')
sed "s|@PREFIX@|$prefix|; s|@VERSION@|$version|" contrib/trellis.pc.in >"$root/lib/pkgconfig/trellis.pc"
chmod 644 "$root/lib/pkgconfig/trellis.pc"

install -m 644 contrib/man/*.1 "$root/share/man/man1"
install -m 644 README.md LICENSE contrib/smb.conf contrib/ganesha.conf contrib/exports "$root/share/doc/trellisfs"
install -m 644 examples/generate.c examples/*.png examples/*.jpg "$root/share/doc/trellisfs/examples"
install -m 755 examples/watch.sh examples/batch.sh examples/wait.sh examples/samba.sh \
	"$root/share/doc/trellisfs/examples"
install -m 644 contrib/completion.bash "$root/share/bash-completion/completions/trellis"
ln -sf trellis "$root/share/bash-completion/completions/trellisfs"

# The model that runs when none is named.
(cd engine/mini && find . -type f) | while read -r file; do
	install -D -m 644 "engine/mini/$file" "$root/share/trellisfs/mini/$file"
done
echo "installed in $root"
